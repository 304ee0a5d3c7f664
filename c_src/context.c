/* Contexts: life, queue, roles. See context.h for the design and its locks. */
#include "context.h"

#include "atoms.h"
#include "callback.h"
#include "convert.h"
#include "interpreter.h"
#include "isolated.h"
#include "runtime.h"
#include "state.h"
#include "watchdog.h"
#include "worker.h"

#define POOL_MAX 1024
#define ORPHANS 1000 /* answered at once */

ErlNifResourceType *py_context_rtype;
_Atomic long py_contexts_live;

static _Atomic uint64_t next_id = 1;

/* ---- life ---- */

/* Once. No thread of it is left, so its namespace may go, and its interpreter with that. */
static void release_interp(py_context *context)
{
    if (atomic_exchange(&context->gone, true)) {
        return;
    }
    if (context->main != NULL) {
        py_interp_drop_later(context->interp, context->main);
    }
    py_interp_leave(context->interp);
}

void py_context_thread_gone(py_context *context)
{
    if (atomic_fetch_sub(&context->threads_alive, 1) == 1) {
        py_runtime_forget(context);
        release_interp(context);
    }
}

static void context_dtor(ErlNifEnv *env, void *obj)
{
    py_context *context = obj;
    py_request *req;

    (void)env;
    while ((req = context->pool) != NULL) {
        context->pool = req->next;
        py_request_destroy(req);
    }
    release_interp(context);
    py_interp_release(context->interp);
    atomic_fetch_sub(&py_contexts_live, 1);
    py_parker_destroy(&context->parker);
    py_async_destroy(context);
    pthread_mutex_destroy(&context->inbox_lock);
    pthread_mutex_destroy(&context->take_lock);
    pthread_mutex_destroy(&context->pool_lock);
}

static void context_owner_down(ErlNifEnv *env, void *obj, ErlNifPid *pid, ErlNifMonitor *monitor)
{
    (void)pid;
    (void)monitor;
    py_context_close(obj, env);
}

int py_context_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = context_dtor, .down = context_owner_down};

    py_context_rtype = enif_open_resource_type_x(env, "py_context", &init, ERL_NIF_RT_CREATE, NULL);
    return py_context_rtype == NULL ? -1 : 0;
}

PY_NIF(context_new_nif)
{ /* (SharesMain, MaxThreads, SpinNs, MaxQueue, Flags, Interpreter | main) */
    py_context *context;
    py_interp *interp = py_isolated_of(env, argv[5]);
    ErlNifUInt64 spin_ns, max_queue;
    unsigned max_threads, flags;
    bool started = true;
    ERL_NIF_TERM term;

    (void)argc;
    if (!enif_get_uint(env, argv[1], &max_threads) || max_threads == 0 || !enif_get_uint64(env, argv[2], &spin_ns) ||
        !enif_get_uint64(env, argv[3], &max_queue) || !enif_get_uint(env, argv[4], &flags)) {
        return enif_make_badarg(env);
    }
    if (interp == NULL) {
        interp = py_runtime_interp();
    }
    if (interp == NULL) {
        return enif_make_tuple2(env, py_atoms.error, py_atoms.not_started);
    }
    context = enif_alloc_resource(py_context_rtype, sizeof *context);
    if (context == NULL) {
        return enif_make_tuple2(env, py_atoms.error, py_atoms.system_limit);
    }
    memset(context, 0, sizeof *context);
    context->id = atomic_fetch_add(&next_id, 1);
    context->shares_main = enif_is_identical(argv[0], py_atoms.true_);
    context->max_threads = max_threads;
    context->spin_ns = spin_ns;
    context->max_queue = max_queue;
    context->conv_flags = flags & (unsigned)PY_CONV_BYTES;
    context->loop_on_beam = flags & (unsigned)PY_CONTEXT_LOOP_ON_BEAM;
    context->next_deadline = UINT64_MAX;
    pthread_mutex_init(&context->inbox_lock, NULL);
    pthread_mutex_init(&context->take_lock, NULL);
    pthread_mutex_init(&context->pool_lock, NULL);
    py_parker_init(&context->parker);
    py_async_init(context);
    py_interp_keep(interp);
    py_interp_enter(interp);
    context->interp = interp;
    atomic_init(&context->threads_alive, 1);
    atomic_fetch_add(&py_contexts_live, 1);
    enif_self(env, &context->owner);
    py_runtime_remember(context);
    pthread_mutex_lock(&context->take_lock);
    /* A program's `__main__` is held, and a second thread there, only once Erlang calls into it: the watchdog starts
     * the worker then. */
    if (!context->shares_main || interp->own || !py_runtime_is_program()) {
        started = py_worker_start(context);
    }
    pthread_mutex_unlock(&context->take_lock);
    if (!started) {
        py_runtime_forget(context);
        enif_release_resource(context);
        return enif_make_tuple2(env, py_atoms.error, py_atoms.system_limit);
    }
    if (interp->own) {
        pthread_mutex_lock(&interp->jobs_lock);
        interp->context = context;
        pthread_mutex_unlock(&interp->jobs_lock);
    }
    if (enif_monitor_process(env, context, &context->owner, &context->monitor) != 0) {
        py_context_close(context, env);
    }
    term = enif_make_resource(env, context);
    enif_release_resource(context);
    return enif_make_tuple2(env, py_atoms.ok, term);
}

void py_context_enter(py_context *context)
{
    PyObject *main;
    bool mine;

    pthread_mutex_lock(&context->take_lock);
    mine = context->main == NULL;
    pthread_mutex_unlock(&context->take_lock);
    if (!mine) {
        return;
    }
    if (context->shares_main) {
        main = PyImport_AddModule("__main__");
        Py_XINCREF(main);
    } else {
        main = PyModule_New("__main__");
    }
    if (main != NULL && PyDict_SetItemString(PyModule_GetDict(main), "__builtins__", PyEval_GetBuiltins()) < 0) {
        Py_CLEAR(main);
    }
    PyErr_Clear();
    pthread_mutex_lock(&context->take_lock);
    mine = context->main == NULL;
    if (mine) {
        context->main = main;
    }
    pthread_mutex_unlock(&context->take_lock);
    if (!mine) {
        Py_XDECREF(main);
    }
}

void py_context_leave(py_context *context, py_worker *w)
{
    py_worker **at;

    pthread_mutex_lock(&context->take_lock);
    for (at = &context->workers; *at != NULL && *at != w; at = &(*at)->next) {
    }
    *at = w->next;
    context->worker_count -= w->lost ? 0 : 1;
    if (context->active == w) {
        context->active = NULL;
    }
    pthread_mutex_unlock(&context->take_lock);
}

bool py_context_is_busy(py_context *context)
{
    return atomic_load(&context->async.count) != 0 || atomic_load(&context->async.unanswered) != 0 ||
           atomic_load(&context->queued) != 0 || atomic_load(&context->running) != 0 || context->watched_waiting ||
           atomic_load_explicit(&context->progress, memory_order_relaxed) != context->watched_progress;
}

/* ---- queue ---- */

ERL_NIF_TERM py_context_push(py_context *context, py_request *req)
{
    ERL_NIF_TERM why = py_atoms.ok;

    pthread_mutex_lock(&context->inbox_lock);
    if (PY_UNLIKELY(context->closed)) {
        why = py_atoms.noproc;
    } else if (PY_UNLIKELY(atomic_load_explicit(&context->queued, memory_order_relaxed) >= context->max_queue)) {
        why = py_atoms.overloaded;
    } else {
        if (context->inbox_tail == NULL) {
            context->inbox_head = req;
        } else {
            context->inbox_tail->next = req;
        }
        context->inbox_tail = req;
        if (req->deadline_ns != 0 && req->deadline_ns < context->next_deadline) {
            context->next_deadline = req->deadline_ns;
        }
        atomic_fetch_add(&context->queued, 1);
    }
    pthread_mutex_unlock(&context->inbox_lock);
    if (PY_LIKELY(why == py_atoms.ok)) {
        if (py_parker_is_sleeping(&context->parker)) {
            py_parker_wake_slow(&context->parker);
        } else {
            py_watchdog_waiting();
        }
    }
    return why;
}

/* take_lock held. */
static void refill(py_context *context)
{
    pthread_mutex_lock(&context->inbox_lock);
    context->ready = context->inbox_head;
    context->inbox_head = context->inbox_tail = NULL;
    pthread_mutex_unlock(&context->inbox_lock);
}

py_request *py_context_take(py_context *context, py_worker *w, py_take *take)
{
    py_request *req = NULL;
    int in_hand;

    pthread_mutex_lock(&context->take_lock);
    in_hand = w->current == NULL ? 0 : -1;
    take->stopped = w->stop_pending;
    take->leave = w->lost;
    w->stop_pending = false;
    w->stalled = false;
    w->current = NULL;
    if (w->lost) {
        goto done;
    }
    if (context->active != w) {
        if (context->active == NULL || context->active->stalled) {
            context->active = w;
        } else if (!atomic_load(&context->closing)) {
            w->standby_next = context->standby;
            context->standby = w;
            py_parker_prepare(&w->parker);
        }
    }
    take->active = context->active == w;
    if (take->active) {
        if (context->ready == NULL && atomic_load_explicit(&context->queued, memory_order_acquire) != 0) {
            refill(context);
        }
        if ((req = context->ready) != NULL) {
            context->ready = req->next;
            atomic_fetch_sub_explicit(&context->queued, 1, memory_order_relaxed);
            w->current = req;
            in_hand++;
            atomic_fetch_add_explicit(&context->progress, 1, memory_order_relaxed);
        }
    }
    take->leave = req == NULL && atomic_load(&context->closing);
done:
    if (in_hand != 0) {
        atomic_fetch_add_explicit(&context->running, (unsigned)in_hand, memory_order_relaxed);
    }
    pthread_mutex_unlock(&context->take_lock);
    return req;
}

bool py_context_promote(py_context *context)
{
    py_worker *w = context->standby;

    if (atomic_load(&context->closing)) {
        return false;
    }
    if (w != NULL) {
        context->standby = w->standby_next;
        context->active = w;
        py_parker_wake(&w->parker);
        return true;
    }
    return context->worker_count < context->max_threads && py_worker_start(context);
}

py_request *py_context_pool_get(py_context *context)
{
    py_request *req;

    pthread_mutex_lock(&context->pool_lock);
    if ((req = context->pool) != NULL) {
        context->pool = req->next;
        context->pool_size--;
    }
    pthread_mutex_unlock(&context->pool_lock);
    return req;
}

bool py_context_pool_put(py_context *context, py_request *req)
{
    bool kept;

    pthread_mutex_lock(&context->pool_lock);
    kept = context->pool_size < POOL_MAX;
    if (kept) {
        req->next = context->pool;
        context->pool = req;
        context->pool_size++;
    }
    pthread_mutex_unlock(&context->pool_lock);
    return kept;
}

/* ---- stopping ---- */

void py_context_stop_down_to(py_context *context, py_worker *w, py_request *last, int stop)
{
    py_request *req;
    int none;

    for (req = w->current; req != NULL; req = req->under) {
        none = PY_STOP_NONE;
        if (atomic_compare_exchange_strong(&req->stop, &none, stop)) {
            req->stop_ns = req->nudged_ns = py_now_ns();
        }
        if (req != w->current) { /* the interrupt is for the one on top */
            atomic_fetch_add(&req->nudges, 1);
        }
        if (req == last) {
            break;
        }
    }
    py_interp_interrupt(context->interp, context, w->current->serial);
}

void py_context_stop_request(py_context *context, uint64_t serial, int stop)
{
    py_worker *w;
    py_request *req = NULL;

    pthread_mutex_lock(&context->take_lock);
    for (w = context->workers; w != NULL && req == NULL; w = w->next) {
        for (req = w->current; req != NULL && req->serial != serial; req = req->under) {
        }
        if (req != NULL && atomic_load(&req->stop) == PY_STOP_NONE) {
            py_context_stop_down_to(context, w, req, stop);
        }
    }
    pthread_mutex_unlock(&context->take_lock);
    py_watchdog_waiting();
}

void py_context_stop_running(py_context *context, int stop)
{
    py_worker *w;

    pthread_mutex_lock(&context->take_lock);
    for (w = context->workers; w != NULL; w = w->next) {
        if (w->current != NULL) {
            py_context_stop_down_to(context, w, NULL, stop);
        }
    }
    pthread_mutex_unlock(&context->take_lock);
    py_async_stop_running(context, stop);
    py_watchdog_waiting();
}

/* Nobody is sent to the context of that interpreter any more. */
static void leave_interp(py_context *context)
{
    py_interp *interp = context->interp;

    pthread_mutex_lock(&interp->jobs_lock);
    if (interp->context == context) {
        interp->context = NULL;
    }
    pthread_mutex_unlock(&interp->jobs_lock);
    py_isolated_closed(interp);
}

void py_context_answer_orphans(py_context *context, ErlNifEnv *env)
{
    py_request *first, *req, **at;
    size_t n = 0;
    bool last;

    pthread_mutex_lock(&context->take_lock);
    first = context->orphans;
    for (at = &first; *at != NULL && n < ORPHANS; at = &(*at)->next) {
        n++;
    }
    context->orphans = *at;
    *at = NULL;
    pthread_mutex_unlock(&context->take_lock);
    while ((req = first) != NULL) {
        first = req->next;
        if (py_request_finish(req)) {
            py_request_reply_stop(req, env, PY_STOP_STOPPED, false);
        }
        py_request_free(req);
    }
    atomic_fetch_sub(&context->queued, n);
    pthread_mutex_lock(&context->take_lock);
    last = context->unanswered && atomic_load(&context->queued) == 0;
    context->unanswered = context->unanswered && !last;
    pthread_mutex_unlock(&context->take_lock);
    if (last) {
        py_context_thread_gone(context);
    }
}

void py_context_close(py_context *context, ErlNifEnv *env)
{
    py_worker *w;
    bool first;

    pthread_mutex_lock(&context->take_lock);
    pthread_mutex_lock(&context->inbox_lock);
    first = !context->closed;
    context->closed = true;
    atomic_store(&context->closing, true);
    if (first) {
        context->orphans = context->ready;
        if (context->inbox_tail != NULL) {
            context->inbox_tail->next = context->ready;
            context->orphans = context->inbox_head;
        }
        context->unanswered = true;
    }
    context->ready = NULL;
    context->inbox_head = context->inbox_tail = NULL;
    pthread_mutex_unlock(&context->inbox_lock);
    context->standby = NULL; /* they leave by themselves */
    for (w = context->workers; w != NULL; w = w->next) {
        if (w->current != NULL) {
            py_context_stop_down_to(context, w, NULL, PY_STOP_STOPPED);
        }
        py_parker_wake(&w->parker);
    }
    pthread_mutex_unlock(&context->take_lock);
    if (first) {
        leave_interp(context);
    }
    py_parker_wake(&context->parker);
    py_async_close(context, env);
    py_watchdog_waiting();
    py_context_answer_orphans(context, env);
}

PY_NIF(context_close_nif)
{ /* (Context) */
    py_context *context;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context)) {
        return enif_make_badarg(env);
    }
    py_context_close(context, env);
    return py_atoms.ok;
}

PY_NIF(context_interrupt_nif)
{ /* (Context) */
    py_context *context;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context)) {
        return enif_make_badarg(env);
    }
    py_context_stop_running(context, PY_STOP_INTERRUPTED);
    return py_atoms.ok;
}

/* ---- submit ---- */

/* {py_chain, Chain, Parent, DeadlineNs, Trace, Callers}, made by callback_module.c. */
static bool inherit(py_request *req, ErlNifEnv *env, ERL_NIF_TERM chain)
{
    const ERL_NIF_TERM *items;
    ErlNifUInt64 id, parent, deadline;
    int arity;

    if (!enif_get_tuple(env, chain, &arity, &items) || arity != 6 || !enif_get_uint64(env, items[1], &id) ||
        !enif_get_uint64(env, items[2], &parent) || !enif_get_uint64(env, items[3], &deadline)) {
        return false;
    }
    req->chain = id;
    req->parent = parent;
    if (deadline != 0 && (req->deadline_ns == 0 || deadline < req->deadline_ns)) {
        req->deadline_ns = deadline;
    }
    req->trace = enif_make_copy(req->env, items[4]);
    req->callers = enif_make_copy(req->env, items[5]);
    return true;
}

static ERL_NIF_TERM submit(ErlNifEnv *env, const ERL_NIF_TERM argv[], const ERL_NIF_TERM *chain)
{
    py_context *context;
    py_request *req;
    unsigned op, flags;
    ErlNifSInt64 timeout_ms;
    ERL_NIF_TERM why;

    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context) || !enif_is_ref(env, argv[1]) ||
        !enif_get_uint(env, argv[2], &op) || op >= PY_OP_COUNT || !enif_get_int64(env, argv[7], &timeout_ms) ||
        !enif_get_uint(env, argv[8], &flags)) {
        return enif_make_badarg(env);
    }
    req = py_request_new(context);
    if (req == NULL) {
        return py_atoms.system_limit;
    }
    req->op = (int)op;
    req->flags = flags;
    py_request_fill(req, env, argv[1], &argv[3]);
    enif_self(env, &req->caller);
    req->submitted_ns = py_now_ns();
    req->deadline_ns = timeout_ms < 0 ? 0 : req->submitted_ns + (uint64_t)timeout_ms * 1000000u;
    if (chain != NULL && !inherit(req, env, *chain)) {
        py_request_free(req);
        return enif_make_badarg(env);
    }
    if (flags & PY_REQ_TRACKED) {
        py_request_track(req);
    }
    if (flags & PY_REQ_LOOP) {
        why = py_callback_loop_waits(context, req) ? py_atoms.deadlock : py_async_push(context, req);
    } else {
        why = req->parent == 0 ? py_atoms.undefined : py_callback_route(context, req);
        if (why == py_atoms.undefined) {
            why = py_context_push(context, req);
        }
    }
    if (PY_UNLIKELY(why != py_atoms.ok)) {
        if (why == py_atoms.deadlock) {
            why = enif_make_tuple2(env, why, enif_make_uint64(env, req->chain));
        }
        py_request_free(req);
    }
    return why;
}

PY_NIF(submit_nif)
{ /* (Context, Ref, Op, Target, Function, Args, Kwargs, TimeoutMs, Flags) */
    (void)argc;
    return submit(env, argv, NULL);
}

PY_NIF(submit_nested_nif)
{ /* (Context, Ref, Op, Target, Function, Args, Kwargs, TimeoutMs, Flags, Chain) */
    (void)argc;
    return submit(env, argv, &argv[9]);
}
