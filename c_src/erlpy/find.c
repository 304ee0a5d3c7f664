/* See find.h. */
#define _GNU_SOURCE
#include "find.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

void erlpy_fail(const char *format, ...)
{
    va_list list;

    fputs("erlpy: ", stderr);
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    exit(1);
}

static char *format(const char *format, ...) __attribute__((format(printf, 1, 2)));

static char *format(const char *format, ...)
{
    va_list list;
    char *text;

    va_start(list, format);
    if (vasprintf(&text, format, list) < 0) {
        erlpy_fail("out of memory");
    }
    va_end(list);
    return text;
}

char *erlpy_join(const char *dir, const char *name) { return format("%s/%s", dir, name); }

char *erlpy_dirname(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? format(".") : slash == path ? format("/") : format("%.*s", (int)(slash - path), path);
}

char *erlpy_real(const char *path)
{
    char *real = realpath(path, NULL);

    return real == NULL ? format("%s", path) : real;
}

static char *on_path(const char *name)
{
    const char *dirs = getenv("PATH"), *end;
    char *path;

    for (; dirs != NULL && *dirs != '\0'; dirs = *end == ':' ? end + 1 : end) {
        end = strchr(dirs, ':');
        end = end == NULL ? dirs + strlen(dirs) : end;
        path = end == dirs ? format("./%s", name) : format("%.*s/%s", (int)(end - dirs), dirs, name);
        if (access(path, X_OK) == 0) {
            return path;
        }
        free(path);
    }
    return NULL;
}

/* The file of this very process, links resolved, or NULL. */
static char *running_file(void)
{
#ifdef __APPLE__
    char path[4096];
    uint32_t size = sizeof path;

    return _NSGetExecutablePath(path, &size) == 0 ? realpath(path, NULL) : NULL;
#else
    return realpath("/proc/self/exe", NULL);
#endif
}

char *erlpy_self(const char *argv0)
{
    char *path = strchr(argv0, '/') != NULL ? format("%s", argv0) : on_path(argv0);
    char *running = running_file(), *cwd;

    /* argv[0] is what the caller likes it to be. */
    if (running != NULL && (path == NULL || strcmp(erlpy_real(path), running) != 0)) {
        return running;
    }
    if (path == NULL) {
        erlpy_fail("cannot find myself; call me by my path");
    }
    if (path[0] == '/') {
        return path;
    }
    cwd = getcwd(NULL, 0);
    while (strncmp(path, "./", 2) == 0) {
        path += 2;
    }
    return cwd == NULL ? erlpy_real(path) : erlpy_join(cwd, path);
}

static int has(const char *dir, const char *name) { return access(erlpy_join(dir, name), R_OK) == 0; }

char *erlpy_find_app(const char *self)
{
    static const char module[] = "ebin/py_erlpy.beam", built[] = "_build/default/lib/erlang_python";
    char *called = erlpy_dirname(erlpy_dirname(self)), *real = erlpy_dirname(erlpy_dirname(erlpy_real(self)));

    if (has(called, module)) {
        return called;
    }
    if (has(real, module)) {
        return real;
    }
    if (has(erlpy_join(real, built), module)) {
        return erlpy_join(real, built);
    }
    erlpy_fail("there is no %s in %s (nor in its %s); compile the application", module, real, built);
}

/* The last of the files that match: of the newest version, as far as names tell. */
static char *newest(const char *pattern)
{
    glob_t found;

    return glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc > 0 ? found.gl_pathv[found.gl_pathc - 1] : NULL;
}

static char *boot_of(const char *root)
{
    static const char *const places[] = {"bin/no_dot_erlang.boot", "bin/start_clean.boot",
                                         "releases/*/no_dot_erlang.boot", "releases/*/start_clean.boot"};
    char *found;
    size_t i;

    for (i = 0; i < sizeof places / sizeof *places; i++) {
        found = newest(erlpy_join(root, places[i]));
        if (found != NULL) {
            found[strlen(found) - strlen(".boot")] = '\0';
            return found;
        }
    }
    return NULL;
}

static int take_root(const char *root, const char *version, struct erlpy_emulator *emulator)
{
    if (root == NULL) {
        return 0;
    }
    emulator->root = erlpy_real(root);
    emulator->beam = newest(format("%s/erts-%s/bin/beam.smp", emulator->root, version));
    emulator->boot = boot_of(emulator->root);
    if (emulator->beam == NULL || emulator->boot == NULL) {
        return 0;
    }
    emulator->bin = erlpy_dirname(emulator->beam);
    return 1;
}

/* `erl` may be a script of a version manager: then only it knows. */
static char *ask_erl(void)
{
    char line[4096];
    FILE *pipe = popen("erl -noinput -eval 'io:put_chars(code:root_dir()), halt().' 2>/dev/null </dev/null", "r");
    char *root = pipe != NULL && fgets(line, sizeof line, pipe) != NULL ? format("%s", line) : NULL;

    if (pipe != NULL) {
        pclose(pipe);
    }
    return root;
}

void erlpy_find_emulator(const char *app, struct erlpy_emulator *emulator)
{
    char *erl;

    if (take_root(erlpy_dirname(erlpy_dirname(app)), "*", emulator) ||
        take_root(ERLPY_ERL_ROOT, ERLPY_ERTS_VERSION, emulator)) {
        return;
    }
    erl = on_path("erl");
    if (erl == NULL || (!take_root(erlpy_dirname(erlpy_dirname(erlpy_real(erl))), "*", emulator) &&
                        !take_root(ask_erl(), "*", emulator))) {
        erlpy_fail("there is no Erlang: none in a release around %s, none in %s, no erl on PATH", app, ERLPY_ERL_ROOT);
    }
}

const char *const *erlpy_siblings(const char *app)
{
    static const char *none[] = {NULL};
    const char *lib = erlpy_dirname(app);
    glob_t found;

    if (strcmp(strrchr(lib, '/') == NULL ? lib : strrchr(lib, '/') + 1, "lib") != 0 ||
        glob(erlpy_join(lib, "*/ebin"), 0, NULL, &found) != 0) {
        return none;
    }
    return (const char *const *)found.gl_pathv;
}

char *erlpy_open_fds(void)
{
    char *text = format("%s", ""), *longer;
    DIR *dir = opendir("/dev/fd");
    struct dirent *entry;
    int fd, flags;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        fd = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : -1;
        flags = fd > 2 && fd != dirfd(dir) ? fcntl(fd, F_GETFD) : -1;
        if (flags != -1 && (flags & FD_CLOEXEC) == 0) {
            longer = format("%s%d,", text, fd);
            free(text);
            text = longer;
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return text;
}
