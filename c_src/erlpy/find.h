/* Where things are, seen from the launcher. Strings are allocated and never freed: the process becomes another one
 * soon. */
#ifndef ERLPY_FIND_H
#define ERLPY_FIND_H

struct erlpy_emulator {
    char *root; /* of the Erlang installation or release */
    char *bin;  /* root/erts-VERSION/bin */
    char *beam; /* the program */
    char *boot; /* boot file, without its extension */
};

/* Says why on standard error and leaves with 1. */
_Noreturn void erlpy_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

char *erlpy_join(const char *dir, const char *name);
char *erlpy_dirname(const char *path);
char *erlpy_real(const char *path); /* symbolic links resolved; the path itself where that fails */

/* The launcher as it was called, absolute, symbolic links kept (as sys.executable is). */
char *erlpy_self(const char *argv0);

/* The directory of the application: the one above the launcher's, as called or with links resolved, or rebar3's build
 * of the source tree that the launcher is in. */
char *erlpy_find_app(const char *self);

/* The emulator of the release that the application is in, else the one it was built with, else that of `erl` on PATH.
 */
void erlpy_find_emulator(const char *app, struct erlpy_emulator *emulator);

/* The ebin directories of the applications beside `app`, closed by NULL. */
const char *const *erlpy_siblings(const char *app);

/* The open descriptors above 2 that stay open over exec, as "3,4,". */
char *erlpy_open_fds(void);

#endif
