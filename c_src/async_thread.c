/* The thread that runs a context's loop: its start, its end, and the NIFs that ask for either. What the loop is and how
 * it drains is Python: erlang._context_loop. */
#include "async_thread.h"

#include "atoms.h"
#include "context.h"
#include "driver.h"
#include "gather.h"
#include "interpreter.h"
#include "runtime.h"
#include "state.h"

#define REQ_OF_EVENT(e) ((py_request *)((char *)(e)-offsetof(py_request, event)))
#define REQ_OF_LINK(l) ((py_request *)((char *)(l)-offsetof(py_request, link)))
#define ASYNC_OF(e, field) ((py_async *)((char *)(e)-offsetof(py_async, field)))

#define MODULE "erlang._context_loop"

/* ---- start ---- */

/* The loop could not be made: everyone who waits for it is told why. */
static void fail(py_context *context)
{
    py_async *async = &context->async;
    PyObject *exc = PyErr_GetRaisedException();
    py_event *event, *next;

    pthread_mutex_lock(&async->lock);
    event = async->waiting;
    async->waiting = NULL;
    async->behind = &async->waiting;
    async->waiting_count = 0;
    async->state = PY_ASYNC_STOPPING;
    pthread_mutex_unlock(&async->lock);
    for (; event != NULL; event = next) {
        py_request *req = REQ_OF_EVENT(event);

        next = event->next;
        if (py_request_finish(req)) {
            ERL_NIF_TERM term;

            PyErr_SetRaisedException(Py_NewRef(exc));
            term = py_call_error(context->interp->state, req, req->env);
            py_request_reply(req, NULL, req->env, term);
        }
        py_async_retire(async, req, NULL);
    }
    Py_XDECREF(exc);
}

/* From now on requests go to the poller. */
static void open_for_requests(py_async *async, py_poller *poller)
{
    py_event *first, *last = NULL, *event;
    size_t n;
    bool leave;

    pthread_mutex_lock(&async->lock);
    py_poller_keep(poller);
    async->poller = poller;
    first = async->waiting;
    n = async->waiting_count;
    async->waiting = NULL;
    async->behind = &async->waiting;
    async->waiting_count = 0;
    leave = async->closed || async->stop_env != NULL;
    async->leave_posted = leave;
    async->state = leave ? PY_ASYNC_STOPPING : PY_ASYNC_RUNNING;
    for (event = first; event != NULL; event = event->next) {
        last = event;
    }
    pthread_mutex_unlock(&async->lock);
    if (first != NULL) {
        (void)py_poller_post(poller, first, last, n);
    }
    if (leave) {
        (void)py_poller_post(poller, &async->leave, &async->leave, 1);
    }
}

/* ---- end ---- */

int py_async_run_leave(py_event *event, py_loop *loop)
{
    py_async *async = ASYNC_OF(event, leave);
    PyObject *module = PyImport_ImportModule(MODULE), *done = NULL;
    uint64_t drain_ns;

    pthread_mutex_lock(&async->lock);
    drain_ns = async->drain_ns;
    pthread_mutex_unlock(&async->lock);
    if (module != NULL) {
        done = PyObject_CallMethod(module, "leave", "Od", py_loop_object(loop), (double)drain_ns / 1e9);
        Py_DECREF(module);
    }
    if (done == NULL) {
        return py_loop_report(loop, "the loop cannot shut down");
    }
    Py_DECREF(done);
    return 0;
}

/* Lock held. Is there such a request, and is it to stop? */
static bool is_stopping(py_async *async, uint64_t serial)
{
    py_link *lists[] = {&async->stopping, &async->live}, *link;

    for (size_t i = 0; i < 2; i++) {
        for (link = lists[i]->next; link != lists[i]; link = link->next) {
            if (REQ_OF_LINK(link)->serial == serial) {
                return atomic_load(&REQ_OF_LINK(link)->stop) != PY_STOP_NONE;
            }
        }
    }
    return false;
}

bool py_async_free_loop(py_context *context)
{
    py_async *async = &context->async;
    py_state *st = context->interp->state;
    PyObject *loop, *module, *origin = NULL;
    uint64_t serial;
    bool found = false;

    pthread_mutex_lock(&async->lock);
    loop = Py_XNewRef(async->loop);
    pthread_mutex_unlock(&async->lock);
    module = loop == NULL ? NULL : PyImport_ImportModule(MODULE);
    if (module != NULL) {
        origin = PyObject_CallMethod(module, "holder", "OO", loop, st->origin.var);
        Py_DECREF(module);
    }
    if (origin != NULL && (serial = py_origin_serial(st, origin)) != 0) {
        pthread_mutex_lock(&async->lock);
        found = async->cancel_posted && atomic_load(&async->current) == NULL && is_stopping(async, serial);
        if (found) {
            async->freed = true;
            PyThreadState_SetAsyncExc(async->thread_id, st->call.interrupted);
        }
        pthread_mutex_unlock(&async->lock);
    }
    Py_XDECREF(origin);
    Py_XDECREF(loop);
    PyErr_Clear();
    return found;
}

/* The loop is closed, and the poller has dropped what it held: answers what has not ended even now. */
static void answer_leftovers(py_async *async)
{
    for (;;) {
        py_link *link;
        py_request *req;
        PyObject *driver;

        pthread_mutex_lock(&async->lock);
        link = async->stopping.next != &async->stopping ? async->stopping.next : async->live.next;
        if (link == &async->live) {
            pthread_mutex_unlock(&async->lock);
            return;
        }
        req = REQ_OF_LINK(link);
        driver = Py_XNewRef(req->driver);
        pthread_mutex_unlock(&async->lock);
        if (driver != NULL) {
            py_driver_detach(driver);
            Py_DECREF(driver);
        }
        if (req->gather != NULL) {
            py_gather_abandon(req->gather);
        }
        if (py_request_finish(req)) {
            py_request_reply_stop(req, NULL, PY_STOP_STOPPED, false);
        }
        py_async_retire(async, req, NULL);
    }
}

static void set_loop(py_async *async, PyObject *loop)
{
    PyObject *old;

    pthread_mutex_lock(&async->lock);
    old = async->loop;
    async->loop = Py_XNewRef(loop);
    pthread_mutex_unlock(&async->lock);
    Py_XDECREF(old);
}

static void run_loop(py_context *context)
{
    py_state *st = context->interp->state;
    py_async *async = &context->async;
    PyObject *module = PyImport_ImportModule(MODULE), *object, *done;
    py_loop *loop;
    py_poller *poller;

    object =
        module == NULL ? NULL : PyObject_CallMethod(module, "new_loop", "s", context->loop_on_beam ? "beam" : "native");
    loop = object == NULL ? NULL : py_loop_of(st, object);
    poller = loop == NULL ? NULL : py_loop_poller(loop);
    if (poller == NULL || py_driver_prepare(st) < 0) {
        fail(context);
        goto done;
    }
    py_poller_keep(poller);
    set_loop(async, object);
    open_for_requests(async, poller);
    done = PyObject_CallMethod(module, "run", "O", object);
    Py_XDECREF(done);
    pthread_mutex_lock(&async->lock);
    async->state = PY_ASYNC_STOPPING;
    async->poller = NULL;
    pthread_mutex_unlock(&async->lock);
    py_poller_release(poller);
    if (done == NULL) {
        PyErr_WriteUnraisable(object);
    }
    set_loop(async, NULL);
    done = PyObject_CallMethod(module, "close", "O", object);
    if (done == NULL) {
        PyErr_WriteUnraisable(object);
    }
    Py_XDECREF(done);
    py_poller_close(poller);
    py_poller_release(poller);
    answer_leftovers(async);
done:
    Py_XDECREF(object);
    Py_XDECREF(module);
}

/* The loop is off: tells those who asked for that. */
static void tell_stopped(py_async *async)
{
    ErlNifEnv *env, *msg_env;
    ERL_NIF_TERM head, tail;

    pthread_mutex_lock(&async->lock);
    env = async->stop_env;
    tail = async->stop_refs;
    async->stop_env = NULL;
    async->state = PY_ASYNC_OFF;
    async->leave_posted = async->cancel_posted = false;
    pthread_mutex_unlock(&async->lock);
    if (env == NULL) {
        return;
    }
    msg_env = enif_alloc_env();
    while (enif_get_list_cell(env, tail, &head, &tail)) {
        const ERL_NIF_TERM *pair;
        int arity;
        ErlNifPid pid;

        if (enif_get_tuple(env, head, &arity, &pair) && enif_get_local_pid(env, pair[0], &pid)) {
            enif_send(NULL, &pid, msg_env, enif_make_tuple2(msg_env, enif_make_copy(msg_env, pair[1]), py_atoms.ok));
            enif_clear_env(msg_env);
        }
    }
    enif_free_env(msg_env);
    enif_free_env(env);
}

static _Thread_local py_context *here;

py_context *py_async_context(void) { return here; }

void *py_async_main(void *arg)
{
    py_context *context = arg;
    PyThreadState *ts = PyThreadState_New(context->interp->interp);

    here = context;
    PyEval_RestoreThread(ts);
    context->async.thread_id = PyThread_get_thread_ident();
    py_context_enter(context);
    run_loop(context);
    PyErr_Clear();
    PyThreadState_Clear(ts);
    PyThreadState_DeleteCurrent();
    tell_stopped(&context->async);
    py_context_thread_gone(context);
    enif_release_resource(context);
    return NULL;
}

/* ---- NIFs ---- */

PY_NIF(loop_start_nif)
{ /* (Context) */
    py_context *context;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context)) {
        return enif_make_badarg(env);
    }
    return py_async_start(context);
}

PY_NIF(loop_stop_nif)
{ /* (Context, Ref, DrainMs) */
    py_context *context;
    py_async *async;
    py_poller *poller = NULL;
    ErlNifUInt64 drain_ms;
    ErlNifPid self;
    ERL_NIF_TERM item;
    bool running;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context) || !enif_is_ref(env, argv[1]) ||
        !enif_get_uint64(env, argv[2], &drain_ms)) {
        return enif_make_badarg(env);
    }
    async = &context->async;
    enif_self(env, &self);
    pthread_mutex_lock(&async->lock);
    running = async->state != PY_ASYNC_OFF;
    if (running) {
        if (async->stop_env == NULL) {
            async->stop_env = enif_alloc_env();
            async->stop_refs = enif_make_list(async->stop_env, 0);
        }
        item = enif_make_tuple2(async->stop_env, enif_make_pid(async->stop_env, &self),
                                enif_make_copy(async->stop_env, argv[1]));
        async->stop_refs = enif_make_list_cell(async->stop_env, item, async->stop_refs);
        if (!async->leave_posted) {
            async->drain_ns = drain_ms * 1000000u;
        }
        if (async->poller != NULL && !async->leave_posted) {
            async->state = PY_ASYNC_STOPPING;
            async->leave_posted = true;
            poller = async->poller;
            py_poller_keep(poller);
        }
    }
    pthread_mutex_unlock(&async->lock);
    if (poller != NULL) {
        (void)py_poller_post(poller, &async->leave, &async->leave, 1);
        py_poller_release(poller);
    }
    return running ? py_atoms.ok : py_atoms.not_started;
}
