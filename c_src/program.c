/* Programs. See program.h. All but the NIF and py_program_take_initial_thread runs on Python's main thread. */
#include "program.h"

#include "atoms.h"
#include "compat.h"
#include "erlpy/handover.h"
#include "runtime.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __APPLE__
#include <crt_externs.h>
#include <erl_driver.h>
#else
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

extern char **environ;

static struct {
    unsigned closed;
    uint64_t ignored, mask;
    const char *fds;
    const char *self;
    int argc;
    char **argv;
    bool on;
    long threads;     /* the emulator's and ours when the program starts: none of them is the program's doing */
    sigset_t signals; /* `mask` as a set */
} program;

const sigset_t *py_program_signal_mask(void) { return program.on ? &program.signals : NULL; }

void py_program_block_signals(void)
{
    sigset_t all;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
}

/* SIGCHLD is ignored so far, or default: either way waitpid() returns when that process is gone for good. */
void py_program_wait_for_setup(void)
{
    const char *state = getenv(ERLPY_STATE);
    int setup[2];
    pid_t pid;
    ssize_t n;

    if (state == NULL || sscanf(state, "%*u %*x %*x %d %d", &setup[0], &setup[1]) != 2) {
        return;
    }
    close(setup[1]);
    while ((n = read(setup[0], &pid, sizeof pid)) < 0 && errno == EINTR) {
    }
    close(setup[0]);
    while (n == sizeof pid && waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
    }
}

/* ---- the initial thread ---- */

#ifdef __APPLE__

bool py_program_take_initial_thread(void *(*main)(void *))
{
    ErlDrvTid tid;

    return erl_drv_steal_main_thread("py_main", &tid, main, NULL, NULL) == 0;
}

#else

static void *(*initial_main)(void *);

/* The thread sleeps in select() for ever, so this interrupts nothing. It stays in the handler, with its own signal
 * mask. */
static void enter_main(int sig)
{
    (void)sig;
    initial_main(NULL);
}

bool py_program_take_initial_thread(void *(*main)(void *))
{
    initial_main = main;
    /* Not sigaction: the emulator replaces it, to add SA_ONSTACK. */
    return signal(ERLPY_SIGNAL, enter_main) != SIG_ERR && syscall(SYS_tgkill, getpid(), getpid(), ERLPY_SIGNAL) == 0;
}

#endif

/* ---- what the launcher handed over ---- */

#ifdef __APPLE__

static bool read_arguments(char ***args, int *count)
{
    *args = *_NSGetArgv();
    *count = *_NSGetArgc();
    return true;
}

#else

static bool read_arguments(char ***args, int *count)
{
    size_t len = 0, cap = 1 << 16, n;
    char *text = malloc(cap), *at, *longer;
    FILE *file = fopen("/proc/self/cmdline", "r");

    while (file != NULL && text != NULL && (n = fread(text + len, 1, cap - len - 1, file)) > 0) {
        len += n;
        if (cap - len == 1) {
            if ((longer = realloc(text, cap *= 2)) == NULL) {
                free(text);
            }
            text = longer;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    if (len == 0 || text == NULL) {
        return false;
    }
    text[len] = '\0';
    *count = 0;
    for (at = text; at < text + len; at += strlen(at) + 1) {
        ++*count;
    }
    *args = malloc(((size_t)*count + 1) * sizeof **args);
    if (*args == NULL) {
        return false;
    }
    *count = 0;
    for (at = text; at < text + len; at += strlen(at) + 1) {
        (*args)[(*count)++] = at;
    }
    (*args)[*count] = NULL;
    return true;
}

#endif

static bool find_arguments(void)
{
    char **args;
    int count, i;

    if (!read_arguments(&args, &count)) {
        return false;
    }
    for (i = 0; i < count && strcmp(args[i], "-extra") != 0; i++) {
    }
    if (i + 1 >= count) {
        return false;
    }
    program.argv = args + i + 1;
    program.argc = count - i - 1;
    return true;
}

static bool is_variable(const char *entry, const char *name, size_t len)
{
    return strncmp(entry, name, len) == 0 && entry[len] == '=';
}

/* The environment as it was before the launcher. The emulator has a copy of its own by now. */
static bool restore_environment(void)
{
    static const char *const set[] = ERLPY_SET_VARIABLES;
    const size_t saved = strlen(ERLPY_SAVED);
    size_t count, out = 0, i, j;
    char **env;

    for (count = 0; environ[count] != NULL; count++) {
    }
    env = malloc((count + 1) * sizeof *env);
    if (env == NULL) {
        return false;
    }
    for (i = 0; i < count; i++) {
        if (strncmp(environ[i], ERLPY_SAVED, saved) == 0) {
            env[out++] = environ[i] + saved;
            continue;
        }
        for (j = 0; j < sizeof set / sizeof *set && !is_variable(environ[i], set[j], strlen(set[j])); j++) {
        }
        if (j == sizeof set / sizeof *set && !is_variable(environ[i], ERLPY_STATE, strlen(ERLPY_STATE)) &&
            !is_variable(environ[i], ERLPY_SELF, strlen(ERLPY_SELF)) &&
            !is_variable(environ[i], ERLPY_ERTS, strlen(ERLPY_ERTS))) {
            env[out++] = environ[i];
        }
    }
    env[out] = NULL;
    environ = env;
    return true;
}

static bool was_handed_over(int fd)
{
    const char *at = program.fds;

    while (*at != '\0') {
        if (atoi(at) == fd) {
            return true;
        }
        at += strcspn(at, ",");
        at += *at == ',';
    }
    return false;
}

/* Programs that Python starts must not get the emulator's descriptors. */
static void restore_descriptors(void)
{
    DIR *dir = opendir("/dev/fd");
    struct dirent *entry;
    int fd;

    while (dir != NULL && (entry = readdir(dir)) != NULL) {
        fd = isdigit((unsigned char)entry->d_name[0]) ? atoi(entry->d_name) : -1;
        if (fd > 2 && !was_handed_over(fd)) {
            fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
    }
    if (dir != NULL) {
        closedir(dir);
    }
    for (fd = 0; fd <= 2; fd++) {
        if ((program.closed & 1u << fd) != 0) {
            close(fd);
        }
    }
}

/* From here on signals are Python's, on this thread. Those that came while the emulator started arrive now. */
static void restore_signals(void)
{
    int sig;

    sigemptyset(&program.signals);
    for (sig = 1; sig <= 64 && sig < NSIG; sig++) {
        uint64_t bit = UINT64_C(1) << (sig - 1);
        if (sig != SIGKILL && sig != SIGSTOP) {
            signal(sig, (program.ignored & bit) != 0 ? SIG_IGN : SIG_DFL);
        }
        if ((program.mask & bit) != 0) {
            sigaddset(&program.signals, sig);
        }
    }
    program.on = true;
    pthread_sigmask(SIG_SETMASK, &program.signals, NULL);
}

static bool take_over(void)
{
    const char *state = getenv(ERLPY_STATE), *self = getenv(ERLPY_SELF);
    int at = 0;

    if (state == NULL || self == NULL || !find_arguments() ||
        sscanf(state, "%u %" SCNx64 " %" SCNx64 " %*d %*d %n", &program.closed, &program.ignored, &program.mask, &at) !=
            3) {
        return false;
    }
    program.fds = state + at;
    program.self = self;
    if (!restore_environment()) {
        return false;
    }
    restore_descriptors();
    restore_signals();
#ifdef __linux__
    prctl(PR_SET_NAME, "erlpy");
#endif
    return true;
}

/* ---- Python ---- */

PyStatus py_program_initialize(const char *executable)
{
    PyPreConfig preconfig;
    PyConfig config;
    PyStatus status;

    if (!take_over()) {
        return PyStatus_Error("a program needs priv/erlpy to start it");
    }
    PyPreConfig_InitPythonConfig(&preconfig);
    status = Py_PreInitializeFromBytesArgs(&preconfig, program.argc, program.argv);
    if (PyStatus_Exception(status)) {
        Py_ExitStatusException(status);
    }
    PyConfig_InitPythonConfig(&config);
    status = PyConfig_SetBytesArgv(&config, program.argc, program.argv);
    if (!PyStatus_Exception(status) && executable != NULL) {
        status = PyConfig_SetBytesString(&config, &config.executable, executable);
    }
    if (!PyStatus_Exception(status)) {
        status = Py_InitializeFromConfig(&config);
    }
    PyConfig_Clear(&config);
    if (PyStatus_Exception(status)) {
        Py_ExitStatusException(status);
    }
    return status;
}

/* Threads of this OS process, 0 where that is unknown. */
static long count_threads(void)
{
    long threads = 0;
#ifdef __linux__
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];

    while (file != NULL && fgets(line, sizeof line, file) != NULL && sscanf(line, "Threads: %ld", &threads) != 1) {
    }
    if (file != NULL) {
        fclose(file);
    }
#endif
    return threads;
}

/* self: (fork, quietly). Not Python code, so that a warning names fork's caller. */
static PyObject *wrapped_fork(PyObject *self, PyObject *unused)
{
    PyObject *fork = PyTuple_GET_ITEM(self, 0), *quietly = PyTuple_GET_ITEM(self, 1);

    (void)unused;
    if (py_forked || Py_IsFinalizing() || count_threads() > program.threads) {
        return PyObject_CallNoArgs(fork);
    }
    return PyObject_CallOneArg(quietly, fork);
}

static PyMethodDef fork_methods[] = {
    {"fork", wrapped_fork, METH_NOARGS, "Fork a child process.\n\nReturn 0 in the child and its PID in the parent."},
    {"forkpty", wrapped_fork, METH_NOARGS, "Fork a new process with a new pseudo-terminal as controlling tty."},
};

static PyObject *wrap_fork(PyObject *unused, PyObject *args)
{
    PyObject *fork, *quietly, *self, *name, *wrapped = NULL;

    (void)unused;
    if (!PyArg_ParseTuple(args, "OO", &fork, &quietly) || (self = PyTuple_Pack(2, fork, quietly)) == NULL) {
        return NULL;
    }
    name = PyObject_GetAttrString(fork, "__name__");
    if (name != NULL) {
        wrapped = PyCFunction_New(&fork_methods[PyUnicode_CompareWithASCIIString(name, "forkpty") == 0], self);
    }
    Py_XDECREF(name);
    Py_DECREF(self);
    return wrapped;
}

static PyMethodDef wrap_fork_method = {"wrap_fork", wrap_fork, METH_VARARGS, NULL};

/* Runs the script erlang/_program.py in a namespace of its own, and its prepare(). */
static int run_script(PyObject *path)
{
    PyObject *wrap = PyCFunction_New(&wrap_fork_method, NULL);
    static const char code[] = "import _frozen_importlib_external as loading\n"
                               "loader = loading.SourceFileLoader('erlang._program', path + '/erlang/_program.py')\n"
                               "exec(loader.get_code('erlang._program'), space := {'__name__': 'erlang._program'})\n"
                               "space['prepare'](wrap)\n";
    PyObject *names =
        wrap == NULL ? NULL
                     : Py_BuildValue("{s:O,s:O,s:O}", "path", path, "wrap", wrap, "__builtins__", PyEval_GetBuiltins());
    PyObject *done = names == NULL ? NULL : PyRun_String(code, Py_file_input, names, names);

    Py_XDECREF(wrap);
    Py_XDECREF(names);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int py_program_boot(const char *python_path)
{
    PyObject *sys_path = PySys_GetObject("path"), *path = PyUnicode_DecodeFSDefault(python_path);
    PyObject *self = PyUnicode_DecodeFSDefault(program.self);
    int rc = -1;

    if (sys_path == NULL || path == NULL || self == NULL) {
        goto done;
    }
    if (PyList_Append(sys_path, path) < 0 || PySys_SetObject("executable", self) < 0 || run_script(path) < 0) {
        goto done;
    }
    rc = 0;
done:
    Py_XDECREF(path);
    Py_XDECREF(self);
    return rc;
}

static void run_job(py_main_job *job)
{
    enif_free(job);
    program.threads = count_threads();
    exit(Py_RunMain());
}

PY_NIF(program_run_nif)
{ /* () */
    py_main_job *job;

    (void)env;
    (void)argc;
    (void)argv;
    if (py_runtime_interp() == NULL) {
        return py_atoms.not_started;
    }
    job = enif_alloc(sizeof *job);
    if (job == NULL) {
        return py_atoms.system_limit;
    }
    job->run = run_job;
    py_runtime_run_on_main(job);
    return py_atoms.ok;
}
