/* The launcher priv/erlpy: finds the application beside itself and an emulator for it, and becomes that emulator, told
 * to run a Python program (py_erlpy). One thread, no state.
 *
 * Called as erl_child_setup it stands before the emulator's own one: see child_setup; as erlpy_port, between a port and
 * a program: see port.h. */
#define _GNU_SOURCE
#include "find.h"
#include "handover.h"
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_SCHEDULERS 8

static char **args;
static size_t args_len, args_cap;

static void add(const char *arg)
{
    if (args_len + 1 >= args_cap) {
        args_cap = args_cap == 0 ? 64 : args_cap * 2;
        args = realloc(args, args_cap * sizeof *args);
        if (args == NULL) {
            erlpy_fail("out of memory");
        }
    }
    args[args_len++] = (char *)arg;
    args[args_len] = NULL;
}

static void add_all(const char *const *list)
{
    for (; *list != NULL; list++) {
        add(*list);
    }
}

/* Descriptors 0 to 2 that are closed must not become the emulator's files. */
static unsigned fill_closed(void)
{
    unsigned closed = 0;
    int fd;

    for (fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) == fd) {
            closed |= 1u << fd;
        }
    }
    return closed;
}

static uint64_t ignored_signals(void)
{
    struct sigaction action;
    uint64_t ignored = 0;
    int sig;

    for (sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if (sigaction(sig, NULL, &action) == 0 && action.sa_handler == SIG_IGN) {
            ignored |= UINT64_C(1) << (sig - 1);
        }
    }
    return ignored;
}

static uint64_t block_signals(void)
{
    sigset_t all, before;
    uint64_t mask = 0;
    int sig;

    sigfillset(&all);
    sigdelset(&all, ERLPY_SIGNAL);
    sigprocmask(SIG_SETMASK, &all, &before);
    for (sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if (sigismember(&before, sig) == 1) {
            mask |= UINT64_C(1) << (sig - 1);
        }
    }
    return mask;
}

static void set(const char *name, const char *value)
{
    if (setenv(name, value, 1) != 0) {
        erlpy_fail("out of memory");
    }
}

static void set_variables(const char *self, const struct erlpy_emulator *emulator)
{
    static const char *const names[] = ERLPY_SET_VARIABLES;
    const char *values[] = {NULL, emulator->root, "beam", "erl", "0"}, *before;
    char *text;
    size_t i;

    values[0] = erlpy_join(erlpy_dirname(erlpy_real(self)), "erlpy_bin");
    if (access(erlpy_join(values[0], "erl_child_setup"), X_OK) != 0) {
        erlpy_fail("%s/erl_child_setup is not there; it belongs beside erlpy", values[0]);
    }
    for (i = 0; i < sizeof names / sizeof *names; i++) {
        before = getenv(names[i]);
        if (before != NULL) {
            if (asprintf(&text, "%s%s", ERLPY_SAVED, names[i]) < 0) {
                erlpy_fail("out of memory");
            }
            set(text, before);
        }
        set(names[i], values[i]);
    }
    set(ERLPY_SELF, self);
    set(ERLPY_ERTS, emulator->bin);
}

/* Above the descriptors that the emulator moves about when it forks. */
static void make_pipe(int fds[2])
{
    int made[2], i;

    if (pipe(made) != 0) {
        erlpy_fail("cannot make a pipe: %s", strerror(errno));
    }
    for (i = 0; i < 2; i++) {
        fds[i] = fcntl(made[i], F_DUPFD, 10);
        if (fds[i] < 0) {
            erlpy_fail("cannot make a pipe: %s", strerror(errno));
        }
        close(made[i]);
    }
}

static void set_state(unsigned closed)
{
    uint64_t ignored = ignored_signals(), mask = block_signals();
    char *text, *fds = erlpy_open_fds();
    int setup[2];

    make_pipe(setup);
    if (asprintf(&text, "%u %" PRIx64 " %" PRIx64 " %d %d %s", closed, ignored, mask, setup[0], setup[1], fds) < 0) {
        erlpy_fail("out of memory");
    }
    set(ERLPY_STATE, text);
}

/* ERLPY_ERL_FLAGS: words up to the first that begins with a minus are the emulator's, in erl's spelling (+S 2), the
 * rest init's. Returns the rest. */
static char *add_user_flags(char *flags)
{
    char *word, *rest = flags;

    while (rest != NULL) {
        rest += strspn(rest, " \t\n");
        if (*rest == '-' || *rest == '\0') {
            return rest;
        }
        word = strsep(&rest, " \t\n");
        if (*word == '+') {
            *word = '-';
        }
        add(word);
    }
    return NULL;
}

static void add_emulator_flags(void)
{
    static const char *const flags[] = {"-sbwt", "none", "-sbwtdcpu", "none", "-sbwtdio", "none",
                                        "-A",    "1",    "-SDio",     "4",    NULL};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    char *text;

    add_all(flags);
    if (cores > MAX_SCHEDULERS) {
        if (asprintf(&text, "%d:%d", MAX_SCHEDULERS, MAX_SCHEDULERS) < 0) {
            erlpy_fail("out of memory");
        }
        add("-S");
        add(text);
    }
}

static void add_init_flags(const char *app, const struct erlpy_emulator *emulator, char *user_flags)
{
    static const char *const quiet[] = {
        "-noshell", "-noinput",
        "-mode",    "interactive",
        "-kernel",  "logger_level",
        "error",    "-kernel",
        "logger",   "[{handler,default,logger_std_h,#{config=>#{type=>standard_error}}}]",
        NULL};
    const char *home = getenv("HOME"), *const * dir;

    add("--");
    add("-root");
    add(emulator->root);
    add("-bindir");
    add(emulator->bin);
    add("-progname");
    add("erl");
    add("--");
    add("-home");
    add(home == NULL ? "/" : home);
    add("--");
    add("-boot");
    add(emulator->boot);
    add_all(quiet);
    add("-pa");
    add(erlpy_join(app, "ebin"));
    for (dir = erlpy_siblings(app); *dir != NULL; dir++) {
        add("-pz");
        add(*dir);
    }
    while (user_flags != NULL) {
        user_flags += strspn(user_flags, " \t\n");
        if (*user_flags == '\0') {
            break;
        }
        add(strsep(&user_flags, " \t\n"));
    }
    add("-s");
    add("py_erlpy");
}

/* The emulator forks one process at its start that starts all ports. It would be a child of the Python program, which
 * an os.wait() waits for, and it would hand our blocked signals to each port: so it is made nobody's child, with the
 * signals as they were. What remains a child is this process, which ends at once; the NIF waits for that by the pid
 * that it gets, before the program can. */
static int child_setup(char **argv)
{
    const char *erts = getenv(ERLPY_ERTS), *state = getenv(ERLPY_STATE);
    uint64_t mask = 0;
    sigset_t set;
    pid_t pid, self = getpid();
    int sig, setup[2];

    if (erts == NULL || state == NULL || sscanf(state, "%*u %*x %" SCNx64 " %d %d", &mask, &setup[0], &setup[1]) != 3) {
        return 1;
    }
    while (write(setup[1], &self, sizeof self) < 0 && errno == EINTR) {
    }
    close(setup[0]);
    close(setup[1]);
    sigemptyset(&set);
    for (sig = 1; sig <= 64 && sig < NSIG; sig++) {
        if ((mask & UINT64_C(1) << (sig - 1)) != 0) {
            sigaddset(&set, sig);
        }
    }
    pid = fork();
    if (pid != 0) {
        _exit(pid < 0);
    }
    sigprocmask(SIG_SETMASK, &set, NULL);
    execv(erlpy_join(erts, "erl_child_setup"), argv);
    _exit(1);
}

int main(int argc, char **argv)
{
    struct erlpy_emulator emulator;
    unsigned closed = fill_closed();
    const char *self, *app;
    char *user_flags = getenv("ERLPY_ERL_FLAGS");
    int i;

    if (argc > 0 && strcmp(argv[0], "erl_child_setup") == 0) {
        return child_setup(argv);
    }
    if (argc > 0 && strcmp(argv[0], ERLPY_PORT) == 0) {
        erlpy_port(argv);
    }
    self = erlpy_self(argc > 0 ? argv[0] : "erlpy");
    app = erlpy_find_app(self);
    erlpy_find_emulator(app, &emulator);
    add(emulator.beam);
    add_emulator_flags();
    user_flags = add_user_flags(user_flags == NULL ? NULL : strdup(user_flags));
    add_init_flags(app, &emulator, user_flags);
    add("-extra");
    for (i = 0; i < argc; i++) {
        add(argv[i]);
    }
    set_variables(self, &emulator);
    set_state(closed);
    execv(emulator.beam, args);
    erlpy_fail("cannot run %s: %s", emulator.beam, strerror(errno));
}
