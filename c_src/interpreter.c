/* Interpreters and their janitors. See interpreter.h. */
#include "interpreter.h"

#include "context.h"
#include "isolated.h"
#include "program.h"
#include "state.h"
#include "worker.h"

typedef struct {
    py_interp_job job;
    py_interp *interp;
    py_context *context; /* kept */
    uint64_t serial;
} interrupt_job;

#define DROP_DELAY_NS UINT64_C(2000000)

static _Atomic uint64_t next_id = 1;

void py_interp_keep(py_interp *interp) { atomic_fetch_add(&interp->refcount, 1); }

void py_interp_release(py_interp *interp)
{
    if (atomic_fetch_sub(&interp->refcount, 1) == 1) {
        pthread_mutex_destroy(&interp->drop_lock);
        pthread_mutex_destroy(&interp->jobs_lock);
        py_parker_destroy(&interp->parker);
        enif_free(interp->drops);
        enif_free(interp);
    }
}

void py_interp_use(py_interp *interp)
{
    py_interp_keep(interp);
    atomic_fetch_add(&interp->users, 1);
}

bool py_interp_try_use(py_interp *interp)
{
    long users = atomic_load(&interp->users);

    while (users > 0) {
        if (atomic_compare_exchange_weak(&interp->users, &users, users + 1)) {
            py_interp_keep(interp);
            return true;
        }
    }
    return false;
}

/* The caller still keeps the struct. */
static void tell_janitor(py_interp *interp)
{
    atomic_store(&interp->news, true);
    py_parker_wake(&interp->parker);
}

void py_interp_unuse(py_interp *interp)
{
    if (atomic_fetch_sub(&interp->users, 1) == 1) {
        tell_janitor(interp);
    }
    py_interp_release(interp);
}

void py_interp_enter(py_interp *interp)
{
    py_interp_use(interp);
    atomic_fetch_add(&interp->contexts, 1);
}

void py_interp_leave(py_interp *interp)
{
    if (atomic_fetch_sub(&interp->contexts, 1) == 1) {
        tell_janitor(interp);
    }
    py_interp_unuse(interp);
}

void py_interp_drop_later(py_interp *interp, PyObject *obj)
{
    bool first;

    if (!atomic_load(&interp->alive)) {
        return;
    }
    pthread_mutex_lock(&interp->drop_lock);
    if (interp->drops_len == interp->drops_cap) {
        size_t cap = interp->drops_cap == 0 ? 64 : interp->drops_cap * 2;
        PyObject **grown = enif_realloc(interp->drops, cap * sizeof *grown);
        if (grown == NULL) { /* leak one object rather than the VM */
            pthread_mutex_unlock(&interp->drop_lock);
            return;
        }
        interp->drops = grown;
        interp->drops_cap = cap;
    }
    interp->drops[interp->drops_len++] = obj;
    first = atomic_fetch_add(&interp->drops_pending, 1) == 0;
    pthread_mutex_unlock(&interp->drop_lock);
    if (first && !atomic_load(&interp->delaying)) {
        py_parker_wake(&interp->parker);
    }
}

void py_interp_run_drops(py_interp *interp)
{
    PyObject **drops;
    size_t len, i;

    pthread_mutex_lock(&interp->drop_lock);
    drops = interp->drops;
    len = interp->drops_len;
    interp->drops = NULL;
    interp->drops_len = interp->drops_cap = 0;
    atomic_store(&interp->drops_pending, 0);
    pthread_mutex_unlock(&interp->drop_lock);
    for (i = 0; i < len; i++) {
        Py_DECREF(drops[i]);
    }
    enif_free(drops);
}

void py_interp_run_later(py_interp *interp, py_interp_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&interp->jobs_lock);
    *interp->jobs_tail = job;
    interp->jobs_tail = &job->next;
    atomic_store(&interp->jobs_pending, true);
    pthread_mutex_unlock(&interp->jobs_lock);
    py_parker_wake(&interp->parker);
}

/* Attached. take_lock makes "this worker runs this request" and "its thread gets the exception" one step; the worker
 * looks at stop_pending under the same lock before it takes the next request. */
static void interrupt_run(py_interp_job *job)
{
    interrupt_job *interrupt = (interrupt_job *)job;
    py_context *context = interrupt->context;
    py_worker *w;

    pthread_mutex_lock(&context->take_lock);
    for (w = context->workers; w != NULL; w = w->next) {
        /* the one on top: those below look when it is gone */
        if (w->current != NULL && w->current->serial == interrupt->serial) {
            w->stop_pending = true;
            PyThreadState_SetAsyncExc(w->thread_id, interrupt->interp->state->call.interrupted);
            atomic_fetch_add(&w->current->nudges, 1);
            py_worker_wake_waiting(w);
            break;
        }
    }
    pthread_mutex_unlock(&context->take_lock);
    if (w == NULL) {
        py_async_interrupt(context, interrupt->serial);
    }
    enif_release_resource(context);
    enif_free(interrupt);
}

void py_interp_interrupt(py_interp *interp, py_context *context, uint64_t serial)
{
    interrupt_job *interrupt = enif_alloc(sizeof *interrupt);

    if (interrupt == NULL) {
        return; /* the watchdog asks again */
    }
    enif_keep_resource(context);
    interrupt->job.run = interrupt_run;
    interrupt->interp = interp;
    interrupt->context = context;
    interrupt->serial = serial;
    py_interp_run_later(interp, &interrupt->job);
}

static void run_jobs(py_interp *interp)
{
    py_interp_job *job, *jobs;

    pthread_mutex_lock(&interp->jobs_lock);
    jobs = interp->jobs;
    interp->jobs = NULL;
    interp->jobs_tail = &interp->jobs;
    atomic_store(&interp->jobs_pending, false);
    pthread_mutex_unlock(&interp->jobs_lock);
    while ((job = jobs) != NULL) {
        jobs = job->next;
        job->run(job);
    }
}

/* Detached: sleeps until there is something to do, for `ns` at most. */
static void janitor_wait(py_interp *interp, uint64_t ns)
{
    py_parker_prepare(&interp->parker);
    if (atomic_load(&interp->jobs_pending) || atomic_load(&interp->news)) {
        py_parker_cancel(&interp->parker);
    } else if (atomic_load(&interp->drops_pending) != 0) {
        /* Workers drop between requests; wait a little, so that a busy one gets there first and many go at once.
         * Who drops meanwhile, a scheduler, need not wake us: we look again after `delaying` is false. */
        atomic_store(&interp->delaying, true);
        py_parker_sleep(&interp->parker, DROP_DELAY_NS);
        atomic_store(&interp->delaying, false);
    } else {
        py_parker_sleep(&interp->parker, ns);
    }
}

static void *janitor_main(void *arg)
{
    py_interp *interp = arg;
    PyThreadState *ts = NULL; /* made when there is something to do: an idle janitor is no thread that Python knows */
    uint64_t pause = PY_FOREVER;
    bool ending = false;

    py_program_block_signals();
    for (;;) {
        janitor_wait(interp, pause);
        ending |= atomic_exchange(&interp->news, false) && interp->own && atomic_load(&interp->contexts) == 0;
        if (!ending && !atomic_load(&interp->jobs_pending) && atomic_load(&interp->drops_pending) == 0) {
            continue;
        }
        if (ts == NULL) {
            ts = PyThreadState_New(interp->interp);
        }
        PyEval_RestoreThread(ts);
        run_jobs(interp);
        py_interp_run_drops(interp);
        if (ending && py_isolated_end(interp, &pause)) {
            return NULL;
        }
        ts = PyEval_SaveThread();
    }
    return NULL;
}

py_interp *py_interp_new(py_state *state, bool own, const char *label)
{
    py_interp *interp = enif_alloc(sizeof *interp);

    if (interp == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(interp, 0, sizeof *interp);
    atomic_init(&interp->refcount, 2); /* the janitor's and the caller's */
    atomic_init(&interp->users, 1);
    atomic_init(&interp->contexts, 1);
    atomic_init(&interp->alive, true);
    interp->id = atomic_fetch_add(&next_id, 1);
    interp->own = own;
    snprintf(interp->label, sizeof interp->label, "%s", label);
    interp->interp = PyInterpreterState_Get();
    interp->anchor = PyThreadState_Get();
    interp->state = state;
    pthread_mutex_init(&interp->drop_lock, NULL);
    pthread_mutex_init(&interp->jobs_lock, NULL);
    interp->jobs_tail = &interp->jobs;
    py_parker_init(&interp->parker);
    state->interp = interp;
    if (!py_thread_start(janitor_main, interp, "py_janitor")) {
        PyErr_SetString(PyExc_RuntimeError, "cannot start a thread");
        state->interp = NULL;
        atomic_store(&interp->refcount, 1);
        py_interp_release(interp);
        return NULL;
    }
    return interp;
}
