/* Interpreters with a GIL of their own. See isolated.h. */
#include "isolated.h"

#include "atoms.h"
#include "context.h"
#include "convert.h"
#include "interpreter.h"
#include "park.h"
#include "runtime.h"
#include "state.h"

#define FIRST_PAUSE_NS UINT64_C(10000000) /* between attempts to end one whose threads live on, doubled each time */
#define LAST_PAUSE_NS UINT64_C(10000000000)
#define SETTLE_NS UINT64_C(1000000)

_Atomic long py_isolated_live, py_isolated_left, py_isolated_ending;

typedef struct {
    py_interp *interp; /* a context of it, until there is a real one */
} handle;

static ErlNifResourceType *handle_rtype;

static void handle_dtor(ErlNifEnv *env, void *obj)
{
    (void)env;
    if (((handle *)obj)->interp != NULL) {
        py_interp_leave(((handle *)obj)->interp);
    }
}

int py_isolated_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = handle_dtor};

    handle_rtype = enif_open_resource_type_x(env, "py_interpreter", &init, ERL_NIF_RT_CREATE, NULL);
    return handle_rtype == NULL ? -1 : 0;
}

py_interp *py_isolated_of(ErlNifEnv *env, ERL_NIF_TERM term)
{
    handle *h;

    return enif_get_resource(env, term, handle_rtype, (void **)&h) ? h->interp : NULL;
}

void py_isolated_closed(py_interp *interp)
{
    if (interp->own && !atomic_exchange(&interp->left, true)) {
        atomic_fetch_add(&py_isolated_left, 1);
        atomic_fetch_add(&py_isolated_ending, 1);
    }
}

/* ---- the beginning ---- */

#if PY_VERSION_HEX >= 0x030D0000

#define TEXT_MAX 1024

typedef struct {
    py_main_job job;
    ErlNifPid caller;
    ErlNifEnv *env; /* owns ref and label, then the reply */
    ERL_NIF_TERM ref, label;
} start_job;

/* CPython ends the child of a fork with a fatal error while there are interpreters beside the main one. */
static int refuse_fork(const char *event, PyObject *args, void *data)
{
    (void)args;
    (void)data;
    if (event[0] == 'o' && (strcmp(event, "os.fork") == 0 || strcmp(event, "os.forkpty") == 0) &&
        atomic_load(&py_isolated_live) > 0) {
        PyErr_SetString(PyExc_RuntimeError, "fork: not while there are contexts with an interpreter of their own");
        return -1;
    }
    return 0;
}

/* Once, in the main interpreter before there is another one. The types of _datetime are static, and the last
 * interpreter that has them frees what the first one allocated for them: so the main one, which never ends, is to be
 * both. */
static void prepare_main(void)
{
    static bool done; /* the main thread's */
    PyObject *module;

    if (done) {
        return;
    }
    done = PySys_AddAuditHook(refuse_fork, NULL) == 0;
    PyErr_Clear();
    module = PyImport_ImportModule("_datetime");
    PyErr_Clear();
    (void)module; /* kept for good */
}

/* Attached to the new interpreter. NULL with an exception, and then nothing of ours is in it. */
static py_interp *adopt(start_job *job)
{
    PyObject *module = PyImport_ImportModule("_erlang");
    ErlNifBinary bin;
    char label[sizeof(((py_interp *)0)->label)];
    size_t len = 0;
    py_interp *interp;

    if (module == NULL) {
        return NULL;
    }
    if (enif_inspect_binary(job->env, job->label, &bin)) {
        len = bin.size < sizeof label ? bin.size : sizeof label - 1;
        memcpy(label, bin.data, len);
    }
    label[len] = '\0';
    interp = py_interp_new(py_state_of_module(module), true, label);
    Py_DECREF(module); /* sys.modules has it */
    return interp;
}

/* Attached to the main interpreter. NULL with `failure` filled in. */
static py_interp *create(start_job *job, char *failure)
{
    PyInterpreterConfig config = {
        .use_main_obmalloc = 0,
        .allow_fork = 0,
        .allow_exec = 0,
        .allow_threads = 1,
        .allow_daemon_threads = 1,
        .check_multi_interp_extensions = 1,
        .gil = PyInterpreterConfig_OWN_GIL,
    };
    PyThreadState *host = PyThreadState_Get(), *ts = NULL;
    PyStatus status;
    py_interp *interp;
    bool booted;

    prepare_main();
    status = Py_NewInterpreterFromConfig(&ts, &config);
    if (PyStatus_Exception(status)) {
        snprintf(failure, TEXT_MAX, "%s", status.err_msg == NULL ? "cannot be made" : status.err_msg);
        return NULL;
    }
    interp = adopt(job);
    if (interp == NULL) {
        py_runtime_describe_exception(failure, TEXT_MAX);
        Py_EndInterpreter(ts);
        PyEval_RestoreThread(host);
        return NULL;
    }
    atomic_fetch_add(&py_isolated_live, 1);
    booted = py_runtime_boot(false) == 0;
    if (!booted) {
        py_runtime_describe_exception(failure, TEXT_MAX);
    }
    PyEval_SaveThread(); /* its anchor from now on */
    PyEval_RestoreThread(host);
    if (!booted) {
        py_isolated_closed(interp);
        py_interp_leave(interp);
        return NULL;
    }
    return interp;
}

static ERL_NIF_TERM failed(ErlNifEnv *env, const char *text)
{
    ERL_NIF_TERM binary;

    memcpy(enif_make_new_binary(env, strlen(text), &binary), text, strlen(text));
    return enif_make_tuple2(env, py_atoms.error, binary);
}

static void run_start(py_main_job *main_job)
{
    start_job *job = (start_job *)main_job;
    char failure[TEXT_MAX];
    py_interp *interp = create(job, failure);
    handle *h;
    ERL_NIF_TERM result;

    if (interp == NULL) {
        result = failed(job->env, failure);
    } else {
        h = enif_alloc_resource(handle_rtype, sizeof *h);
        h->interp = interp;
        result = enif_make_tuple2(job->env, py_atoms.ok, enif_make_resource(job->env, h));
        enif_release_resource(h);
    }
    enif_send(NULL, &job->caller, job->env, enif_make_tuple2(job->env, job->ref, result));
    enif_free_env(job->env);
    enif_free(job);
}

PY_NIF(interpreter_start_nif)
{ /* (Ref, Label) */
    start_job *job;

    (void)argc;
    if (!enif_is_ref(env, argv[0]) || !enif_is_binary(env, argv[1])) {
        return enif_make_badarg(env);
    }
    if (py_runtime_interp() == NULL) {
        return enif_make_tuple2(env, py_atoms.error, py_atoms.not_started);
    }
    if (py_runtime_is_program()) { /* its main thread is the program's, and its end finalizes Python */
        return failed(env, "not in a program of erlpy");
    }
    if ((job = enif_alloc(sizeof *job)) == NULL) {
        return enif_make_tuple2(env, py_atoms.error, py_atoms.system_limit);
    }
    job->job.run = run_start;
    job->env = enif_alloc_env();
    job->ref = enif_make_copy(job->env, argv[0]);
    job->label = enif_make_copy(job->env, argv[1]);
    enif_self(env, &job->caller);
    py_runtime_run_on_main(&job->job);
    return py_atoms.ok;
}

#else

PY_NIF(interpreter_start_nif)
{ /* (Ref, Label) */
    static const char text[] = "needs Python 3.13";
    ERL_NIF_TERM binary;

    (void)argc;
    (void)argv;
    memcpy(enif_make_new_binary(env, sizeof text - 1, &binary), text, sizeof text - 1);
    return enif_make_tuple2(env, py_atoms.error, binary);
}

#endif

/* ---- the end ---- */

/* Attached. Whether a thread of Python's, or of ours, is in it beside the janitor's own. */
static bool has_threads(py_interp *interp)
{
    PyThreadState *me = PyThreadState_Get(), *ts;

    for (ts = PyInterpreterState_ThreadHead(interp->interp); ts != NULL; ts = PyThreadState_Next(ts)) {
        if (ts != me && ts != interp->anchor) {
            return true;
        }
    }
    return false;
}

/* Attached, but not all the time. A thread that has left may still be on its last steps inside CPython, which use the
 * interpreter and cannot be seen. */
static void settle(void)
{
    PyThreadState *ts = PyEval_SaveThread();
    py_parker nobody;

    py_parker_init(&nobody);
    py_parker_prepare(&nobody);
    py_parker_sleep(&nobody, SETTLE_NS);
    py_parker_destroy(&nobody);
    PyEval_RestoreThread(ts);
}

/* Attached. Threads that Python would wait for, for a while, and atexit callbacks. */
static void say_goodbye(void)
{
    PyObject *module = PyImport_ImportModule("erlang._boot");
    PyObject *done = module == NULL ? NULL : PyObject_CallMethod(module, "flush", "O", Py_True);

    if (done == NULL) {
        PyErr_WriteUnraisable(module);
    }
    Py_XDECREF(done);
    Py_XDECREF(module);
}

/* Attached: another thread state, so that what Python keeps for this thread goes while its modules are there. */
static void renew(py_interp *interp)
{
    PyThreadState *old = PyEval_SaveThread();

    PyEval_RestoreThread(PyThreadState_New(interp->interp));
    PyThreadState_Clear(old);
    PyThreadState_Delete(old);
}

static bool is_unused(py_interp *interp)
{
    return atomic_load(&interp->users) == 0 && !atomic_load(&interp->jobs_pending) &&
           atomic_load(&interp->drops_pending) == 0;
}

/* Attached. True when nothing is left of it that an end could hurt. */
static bool may_end(py_interp *interp)
{
    if (!is_unused(interp) || has_threads(interp)) {
        return false;
    }
    renew(interp);
    settle();
    return is_unused(interp) && !has_threads(interp);
}

bool py_isolated_end(py_interp *interp, uint64_t *pause)
{
    bool first = *pause == PY_FOREVER, left = atomic_load(&interp->left), end;

    if (first) {
        say_goodbye();
    }
    end = may_end(interp);
    if (end) {
        pthread_mutex_lock(&interp->drop_lock);
        atomic_store(&interp->alive, false);
        pthread_mutex_unlock(&interp->drop_lock);
        PyThreadState_Clear(interp->anchor);
        PyThreadState_Delete(interp->anchor);
        Py_EndInterpreter(PyThreadState_Get());
        atomic_fetch_sub(&py_isolated_live, 1);
        atomic_fetch_sub(&py_isolated_left, left ? 1 : 0);
        py_interp_release(interp);
    } else {
        *pause = first ? FIRST_PAUSE_NS : *pause * 2 < LAST_PAUSE_NS ? *pause * 2 : LAST_PAUSE_NS;
    }
    if (first && left) {
        atomic_fetch_sub(&py_isolated_ending, 1);
    }
    return end;
}

/* ---- questions ---- */

typedef struct {
    py_interp_job job;
    py_interp *interp; /* used */
    ErlNifPid caller;
    ErlNifEnv *env;
    ERL_NIF_TERM ref;
    char function[32];
} ask_job;

static void run_ask(py_interp_job *interp_job)
{
    ask_job *job = (ask_job *)interp_job;
    py_state *st = job->interp->state;
    PyObject *module = PyImport_ImportModule("erlang._admin");
    PyObject *answer = module == NULL ? NULL : PyObject_CallMethod(module, job->function, NULL), *exc;
    ERL_NIF_TERM term;

    if (answer != NULL && py_py_to_term(st, job->env, answer, PY_CONV_NO_REFS, &term) == 0) {
        term = enif_make_tuple2(job->env, py_atoms.ok, term);
    } else {
        exc = PyErr_GetRaisedException();
        term = enif_make_tuple2(job->env, py_atoms.error, py_exception_to_term(st, job->env, exc));
        Py_XDECREF(exc);
    }
    Py_XDECREF(answer);
    Py_XDECREF(module);
    enif_send(NULL, &job->caller, job->env, enif_make_tuple2(job->env, job->ref, term));
    enif_free_env(job->env);
    py_interp_unuse(job->interp);
    enif_free(job);
}

PY_NIF(interpreter_ask_nif)
{ /* (Context, Ref, Function) */
    py_context *context;
    ask_job *job;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context) || !enif_is_ref(env, argv[1]) ||
        (job = enif_alloc(sizeof *job)) == NULL) {
        return enif_make_badarg(env);
    }
    if (enif_get_atom(env, argv[2], job->function, sizeof job->function, ERL_NIF_LATIN1) == 0) {
        enif_free(job);
        return enif_make_badarg(env);
    }
    if (!py_interp_try_use(context->interp)) {
        enif_free(job);
        return py_atoms.noproc;
    }
    job->job.run = run_ask;
    job->interp = context->interp;
    job->env = enif_alloc_env();
    job->ref = enif_make_copy(job->env, argv[1]);
    enif_self(env, &job->caller);
    py_interp_run_later(job->interp, &job->job);
    return py_atoms.ok;
}

PY_NIF(ref_context_nif)
{ /* (PyRef) */
    py_interp *interp = py_ref_interp(env, argv[0]);
    ERL_NIF_TERM found = py_atoms.noproc;

    (void)argc;
    if (interp == NULL) {
        return enif_make_badarg(env);
    }
    if (!interp->own) {
        return py_atoms.main_;
    }
    pthread_mutex_lock(&interp->jobs_lock);
    if (interp->context != NULL) {
        found = enif_make_tuple2(env, py_atoms.ok, enif_make_resource(env, interp->context));
    }
    pthread_mutex_unlock(&interp->jobs_lock);
    return found;
}
