/* The Python runtime of the OS process. See runtime.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* dladdr */
#endif
#include "runtime.h"

#include "atoms.h"
#include "context.h"
#include "interpreter.h"
#include "module.h"
#include "park.h"
#include "program.h"
#include "state.h"
#include "watchdog.h"
#include "worker.h"

#include <dlfcn.h>
#include <signal.h>

#define TEXT_MAX 4096

static struct {
    pthread_mutex_t lock;
    py_context **contexts; /* guarded by lock */
    size_t len, cap;
    py_main_job *jobs, **jobs_tail; /* guarded by lock */
    bool main_started, program;     /* guarded by lock; a program's main thread is the initial one */
    py_parker parker;
    _Atomic(py_interp *) interp;
    char *python_path;      /* main thread's: the directory of the package */
    char failure[TEXT_MAX]; /* main thread's: why initialisation failed; it is not tried twice */
} runtime;

bool py_forked;

/* In a child of fork(): the emulator's signal handlers write into pipes that its parent still reads. */
static void note_fork(void)
{
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    struct sigaction action;
    size_t i;
    int sig;

    py_forked = true;
    for (sig = 1; !runtime.program && sig < NSIG; sig++) {
        for (i = 0; i < sizeof faults / sizeof *faults && faults[i] != sig; i++) {
        }
        if (i == sizeof faults / sizeof *faults && sigaction(sig, NULL, &action) == 0 && action.sa_handler != SIG_DFL &&
            action.sa_handler != SIG_IGN) {
            signal(sig, SIG_DFL);
        }
    }
}

int py_runtime_load(ErlNifEnv *env)
{
    (void)env;
    pthread_mutex_init(&runtime.lock, NULL);
    pthread_atfork(NULL, NULL, note_fork);
    py_parker_init(&runtime.parker);
    runtime.jobs_tail = &runtime.jobs;
    return 0;
}

bool py_runtime_is_program(void) { return runtime.program; }

py_interp *py_runtime_interp(void) { return atomic_load(&runtime.interp); }

/* ---- contexts ---- */

void py_runtime_remember(py_context *context)
{
    pthread_mutex_lock(&runtime.lock);
    if (runtime.len == runtime.cap) {
        size_t cap = runtime.cap == 0 ? 64 : runtime.cap * 2;
        py_context **grown = enif_realloc(runtime.contexts, cap * sizeof *grown);
        if (grown == NULL) {
            abort(); /* as the emulator does when memory is out */
        }
        runtime.contexts = grown;
        runtime.cap = cap;
    }
    enif_keep_resource(context);
    runtime.contexts[runtime.len++] = context;
    pthread_mutex_unlock(&runtime.lock);
}

void py_runtime_forget(py_context *context)
{
    size_t i;

    pthread_mutex_lock(&runtime.lock);
    for (i = 0; i < runtime.len && runtime.contexts[i] != context; i++) {
    }
    if (i < runtime.len) {
        runtime.contexts[i] = runtime.contexts[--runtime.len];
    } else {
        context = NULL;
    }
    pthread_mutex_unlock(&runtime.lock);
    if (context != NULL) {
        enif_release_resource(context);
    }
}

void py_runtime_each(void (*look)(py_context *context, void *arg), void *arg)
{
    static py_context **seen; /* the watchdog's alone */
    static size_t cap;
    size_t i, n = 0;

    pthread_mutex_lock(&runtime.lock);
    if (runtime.len > cap) {
        py_context **grown = enif_realloc(seen, runtime.cap * sizeof *grown);
        if (grown != NULL) {
            seen = grown;
            cap = runtime.cap;
        }
    }
    for (i = 0; i < runtime.len && n < cap; i++) {
        if (py_context_is_busy(runtime.contexts[i])) {
            enif_keep_resource(runtime.contexts[i]);
            seen[n++] = runtime.contexts[i];
        }
    }
    pthread_mutex_unlock(&runtime.lock);
    for (i = 0; i < n; i++) {
        look(seen[i], arg);
        enif_release_resource(seen[i]);
    }
}

/* ---- the main thread ---- */

/* NIF libraries are loaded RTLD_LOCAL, and the standard library's extension modules are not linked against libpython:
 * make its symbols global before any of them is loaded. */
static bool promote_libpython(void)
{
    Dl_info info;

    return dladdr((void *)(uintptr_t)Py_InitializeFromConfig, &info) != 0 && info.dli_fname != NULL &&
           dlopen(info.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD) != NULL;
}

static _Thread_local bool on_main;

bool py_runtime_on_main(void) { return on_main; }

static void *main_thread(void *arg)
{
    PyThreadState *ts = NULL;
    py_main_job *job;

    (void)arg;
    on_main = true;
    for (;;) {
        pthread_mutex_lock(&runtime.lock);
        job = runtime.jobs;
        if (job != NULL && (runtime.jobs = job->next) == NULL) {
            runtime.jobs_tail = &runtime.jobs;
        }
        if (job == NULL) {
            py_parker_prepare(&runtime.parker);
        }
        pthread_mutex_unlock(&runtime.lock);
        if (job == NULL) {
            if (ts == NULL && py_runtime_interp() != NULL) {
                ts = PyEval_SaveThread();
            }
            py_parker_sleep(&runtime.parker, PY_FOREVER);
            continue;
        }
        if (ts != NULL) {
            PyEval_RestoreThread(ts);
            ts = NULL;
        }
        job->run(job);
    }
    return NULL;
}

void py_runtime_run_on_main(py_main_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&runtime.lock);
    *runtime.jobs_tail = job;
    runtime.jobs_tail = &job->next;
    if (!runtime.main_started) {
        runtime.main_started = (runtime.program ? py_program_take_initial_thread(main_thread)
                                                : py_thread_start(main_thread, NULL, "py_main")) &&
                               py_watchdog_start();
    }
    pthread_mutex_unlock(&runtime.lock);
    py_parker_wake(&runtime.parker);
}

/* ---- jobs of the main thread ---- */

typedef struct {
    py_main_job job;
    ErlNifPid caller;
    ErlNifEnv *env; /* owns ref and config, then the reply */
    ERL_NIF_TERM ref, config;
} runtime_job;

static void finish_job(runtime_job *job, ERL_NIF_TERM result)
{
    enif_send(NULL, &job->caller, job->env, enif_make_tuple2(job->env, job->ref, result));
    enif_free_env(job->env);
    enif_free(job);
}

static ERL_NIF_TERM submit_job(ErlNifEnv *env, ERL_NIF_TERM ref, ERL_NIF_TERM config, void (*run)(py_main_job *))
{
    runtime_job *job = enif_alloc(sizeof *job);

    if (job == NULL) {
        return py_atoms.system_limit;
    }
    job->job.run = run;
    job->env = enif_alloc_env();
    job->ref = enif_make_copy(job->env, ref);
    job->config = enif_make_copy(job->env, config);
    enif_self(env, &job->caller);
    py_runtime_run_on_main(&job->job);
    return py_atoms.ok;
}

static ERL_NIF_TERM make_binary(ErlNifEnv *env, const char *text)
{
    ERL_NIF_TERM term;
    size_t len = strlen(text);

    memcpy(enif_make_new_binary(env, len, &term), text, len);
    return term;
}

/* The value under an atom key of the config map as a C string, or NULL. enif_free it. */
static char *config_string(runtime_job *job, const char *key)
{
    ERL_NIF_TERM value;
    ErlNifBinary bin;
    char *text;

    if (!enif_get_map_value(job->env, job->config, enif_make_atom(job->env, key), &value) ||
        !enif_inspect_binary(job->env, value, &bin) || (text = enif_alloc(bin.size + 1)) == NULL) {
        return NULL;
    }
    memcpy(text, bin.data, bin.size);
    text[bin.size] = '\0';
    return text;
}

static PyStatus initialize(runtime_job *job)
{
    PyConfig config;
    PyStatus status;
    char *executable = config_string(job, "executable");

    if (runtime.program) {
        status = py_program_initialize(executable);
        enif_free(executable);
        return status;
    }
    PyConfig_InitPythonConfig(&config);
    config.install_signal_handlers = 0; /* signals are the emulator's */
    config.parse_argv = 0;
    if (executable != NULL) {
        status = PyConfig_SetBytesString(&config, &config.executable, executable);
        if (!PyStatus_Exception(status)) {
            status = PyConfig_SetBytesString(&config, &config.program_name, executable);
        }
        enif_free(executable);
        if (PyStatus_Exception(status)) {
            goto done;
        }
    }
    status = Py_InitializeFromConfig(&config);
done:
    PyConfig_Clear(&config);
    return status;
}

/* sys.path[0:0] = [path]; the rest of the start-up policy is Python: erlang._boot. */
int py_runtime_boot(bool main)
{
    PyObject *sys_path = PySys_GetObject("path"), *item = NULL, *module = NULL, *done = NULL;

    if (runtime.program) {
        return py_program_boot(runtime.python_path);
    }
    if (runtime.python_path != NULL && sys_path != NULL) {
        item = PyUnicode_DecodeFSDefault(runtime.python_path);
        if (item == NULL || PyList_Insert(sys_path, 0, item) < 0) {
            goto err;
        }
    }
    module = PyImport_ImportModule("erlang._boot");
    if (module != NULL) {
        done = PyObject_CallMethod(module, "boot", "O", main ? Py_True : Py_False);
    }
err:
    Py_XDECREF(item);
    Py_XDECREF(module);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

void py_runtime_describe_exception(char *out, size_t size)
{
    PyObject *exc = PyErr_GetRaisedException(), *text = exc == NULL ? NULL : PyObject_Str(exc);
    const char *utf8 = text == NULL ? NULL : PyUnicode_AsUTF8(text);

    snprintf(out, size, "%s: %s", exc == NULL ? "error" : Py_TYPE(exc)->tp_name, utf8 == NULL ? "" : utf8);
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(exc);
}

static void start_python(runtime_job *job)
{
    PyStatus status;
    PyObject *module;
    py_interp *interp;

    if (!promote_libpython()) {
        snprintf(runtime.failure, TEXT_MAX, "libpython is not a shared library, or could not be made global");
        return;
    }
    if (PyImport_AppendInittab("_erlang", PyInit__erlang) < 0) {
        snprintf(runtime.failure, TEXT_MAX, "out of memory");
        return;
    }
    status = initialize(job);
    if (PyStatus_Exception(status)) {
        snprintf(runtime.failure, TEXT_MAX, "%s: %s", status.func == NULL ? "Py_InitializeFromConfig" : status.func,
                 status.err_msg == NULL ? "exit" : status.err_msg);
        return;
    }
    module = PyImport_ImportModule("_erlang");
    interp = module == NULL ? NULL : py_interp_new(py_state_of_module(module), false, "main");
    runtime.python_path = config_string(job, "python_path");
    if (interp == NULL || py_runtime_boot(true) < 0) {
        py_runtime_describe_exception(runtime.failure, TEXT_MAX);
        PyEval_SaveThread();
        return;
    }
    atomic_store(&runtime.interp, interp);
}

static void start_job(py_main_job *main_job)
{
    runtime_job *job = (runtime_job *)main_job;
    ERL_NIF_TERM result = py_atoms.ok;

    if (py_runtime_interp() == NULL && runtime.failure[0] == '\0') {
        start_python(job);
    }
    if (runtime.failure[0] != '\0') {
        result = enif_make_tuple2(job->env, py_atoms.error, make_binary(job->env, runtime.failure));
    }
    finish_job(job, result);
}

static void flush_job(py_main_job *main_job)
{
    runtime_job *job = (runtime_job *)main_job;
    PyObject *last = enif_is_identical(job->config, py_atoms.true_) ? Py_True : Py_False;
    PyObject *module = PyImport_ImportModule("erlang._boot");
    PyObject *done = module == NULL ? NULL : PyObject_CallMethod(module, "flush", "O", last);

    PyErr_Clear();
    Py_XDECREF(done);
    Py_XDECREF(module);
    finish_job(job, py_atoms.ok);
}

PY_NIF(runtime_start_nif)
{ /* (Ref, Config) */
    ERL_NIF_TERM program;

    (void)argc;
    if (!enif_is_ref(env, argv[0]) || !enif_get_map_value(env, argv[1], enif_make_atom(env, "program"), &program)) {
        return enif_make_badarg(env);
    }
    pthread_mutex_lock(&runtime.lock);
    if (!runtime.main_started) {
        runtime.program = enif_is_identical(program, py_atoms.true_);
    }
    pthread_mutex_unlock(&runtime.lock);
    if (py_runtime_interp() != NULL) { /* its main thread may still be busy with the end of the application before */
        ErlNifPid self;
        enif_send(env, enif_self(env, &self), NULL, enif_make_tuple2(env, argv[0], py_atoms.ok));
        return py_atoms.ok;
    }
    return submit_job(env, argv[0], argv[1], start_job);
}

PY_NIF(runtime_flush_nif)
{ /* (Ref, Last) */
    (void)argc;
    if (!enif_is_ref(env, argv[0])) {
        return enif_make_badarg(env);
    }
    if (py_runtime_interp() == NULL) {
        return py_atoms.not_started;
    }
    return submit_job(env, argv[0], argv[1], flush_job);
}
