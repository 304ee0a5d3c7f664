/* How a Python thread waits for Erlang: detached, spinning for a moment, then asleep on the slot's parker; a worker
 * serves requests of its own chain meanwhile. Attached on entry and on exit; runs on the waiting thread only. */
#include "callback.h"

#include "atoms.h"
#include "context.h"
#include "interpreter.h"
#include "request.h"
#include "runtime.h"
#include "state.h"
#include "worker.h"

#define SPIN_NS UINT64_C(20000)
#define OVERDUE_SLICE_NS UINT64_C(1000000)
#define OVERDUE_TRIES 50
#define LOOP_SLICE_NS UINT64_C(5000000)    /* a step of a loop looks for its interrupt this often */
#define SIGNAL_SLICE_NS UINT64_C(50000000) /* Python's main thread looks for signals this often */

static _Atomic int spinners;

void py_callback_push(py_callback *cb, py_worker *w)
{
    if (w != NULL) {
        pthread_mutex_lock(&w->context->take_lock);
        cb->under = w->waiting;
        w->waiting = cb;
        pthread_mutex_unlock(&w->context->take_lock);
    }
}

void py_callback_enter(py_callback *cb, py_worker *w)
{
    if (w != NULL) {
        cb->worker = w;
        cb->context = w->context;
    } else {
        cb->loop = py_async_context();
    }
    py_callback_push(cb, w);
    py_callback_open(cb);
}

/* Requests that came for this wait and were not served: the chain goes on without waiting for them. */
static py_request *take_leftovers(py_worker *w, py_callback *cb)
{
    py_request **at = &w->nested, *req, *left = NULL, **tail = &left;

    while ((req = *at) != NULL) {
        if (req->nest == cb->id) {
            *at = req->next;
            req->next = NULL;
            *tail = req;
            tail = &req->next;
        } else {
            at = &req->next;
        }
    }
    return left;
}

void py_callback_leave(py_callback *cb, py_worker *w)
{
    py_request *req, *left = NULL;

    if (w == NULL) {
        return;
    }
    pthread_mutex_lock(&w->context->take_lock);
    w->waiting = cb->under;
    if (PY_UNLIKELY(atomic_load_explicit(&cb->nested, memory_order_relaxed) != 0)) {
        left = take_leftovers(w, cb);
    }
    pthread_mutex_unlock(&w->context->take_lock);
    while ((req = left) != NULL) {
        left = req->next;
        req->next = NULL;
        if (py_context_push(w->context, req) != py_atoms.ok) {
            if (py_request_finish(req)) {
                py_request_reply_stop(req, NULL, PY_STOP_STOPPED, false);
            }
            py_request_free(req);
        }
    }
}

/* One that was asked before it came here has been told, or will be again: what it does now may be its cleaning up. */
typedef struct {
    py_callback *cb;
    py_request *req;
    unsigned nudges;
} wait;

static bool is_over(wait *what)
{
    return py_callback_state(what->cb) == PY_CB_DONE ||
           atomic_load_explicit(&what->cb->nested, memory_order_acquire) != 0 ||
           (what->req != NULL && atomic_load_explicit(&what->req->nudges, memory_order_acquire) != what->nudges);
}

py_request *py_callback_request(void)
{
    py_worker *w = py_worker_current();
    py_context *context;

    if (w != NULL) {
        return w->current;
    }
    context = py_async_context();
    return context == NULL ? NULL : atomic_load_explicit(&context->async.current, memory_order_relaxed);
}

/* Detached. True when is_over. One thread spins at a time: more would only take the cores from Erlang. */
static bool spin_detached(wait *what)
{
    bool over = is_over(what);
    uint64_t end;
    int i;

    if (over) {
        return true;
    }
    if (atomic_fetch_add(&spinners, 1) == 0) {
        end = py_now_ns() + SPIN_NS;
        do {
            for (i = 0; i < 32 && !over; i++) {
                py_cpu_relax();
                over = is_over(what);
            }
        } while (!over && py_now_ns() < end);
    }
    atomic_fetch_sub(&spinners, 1);
    return over;
}

/* Detached. Until is_over, or the time, or a look at what does not wake us is due. */
static void sleep_detached(wait *what, uint64_t until_ns, uint64_t slice_ns)
{
    uint64_t now = until_ns == PY_FOREVER ? 0 : py_now_ns(), ns = PY_FOREVER;

    py_parker_prepare(&what->cb->parker);
    if (is_over(what) || now >= until_ns) {
        py_parker_cancel(&what->cb->parker);
        return;
    }
    if (until_ns != PY_FOREVER) {
        ns = until_ns - now;
    }
    py_parker_sleep(&what->cb->parker, ns < slice_ns ? ns : slice_ns);
}

static bool is_nudged(wait *what) { return what->req != NULL && atomic_load(&what->req->nudges) != what->nudges; }

/* An error that comes when the request is overdue may be nothing but what its own deadline did further down the chain.
 * Then it ends as overdue, and no `except Exception` makes something else of it. Attached. */
static bool ends_overdue(wait *what, py_worker *w)
{
    int arity, tries;
    const ERL_NIF_TERM *items;
    py_request *req = what->req;

    if (w == NULL || req == NULL || req->deadline_ns == 0 || atomic_load(&req->stop) != PY_STOP_NONE ||
        !enif_get_tuple(what->cb->env, what->cb->result, &arity, &items) || arity != 5 ||
        py_now_ns() < req->deadline_ns) {
        return false;
    }
    py_context_stop_request(w->context, req->serial, PY_STOP_TIMEOUT);
    for (tries = 0; tries < OVERDUE_TRIES && !is_nudged(what); tries++) {
        PyThreadState *ts = PyEval_SaveThread(); /* the janitor attaches to interrupt us */
        py_parker_prepare(&what->cb->parker);
        if (is_nudged(what)) {
            py_parker_cancel(&what->cb->parker);
        } else {
            py_parker_sleep(&what->cb->parker, OVERDUE_SLICE_NS);
        }
        PyEval_RestoreThread(ts);
    }
    return is_nudged(what);
}

int py_callback_wait(py_callback *cb, py_worker *w, uint64_t until_ns)
{
    py_request *req = py_callback_request();
    wait what = {cb, req, req == NULL ? 0 : atomic_load(&req->nudges)};
    uint64_t slice_ns = w == NULL && req != NULL ? LOOP_SLICE_NS : py_runtime_on_main() ? SIGNAL_SLICE_NS : PY_FOREVER;

    for (;;) {
        PyThreadState *ts = PyEval_SaveThread();
        if (!spin_detached(&what)) {
            sleep_detached(&what, until_ns, slice_ns);
        }
        PyEval_RestoreThread(ts);
        if (!is_nudged(&what) && py_callback_state(cb) == PY_CB_DONE && !ends_overdue(&what, w)) {
            return PY_WAIT_DONE;
        }
        if (is_nudged(&what)) {
            PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), NULL); /* it is raised here, and once */
            return PY_WAIT_STOPPED;
        }
        if (w != NULL && atomic_load(&cb->nested) != 0) {
            py_worker_serve(w, cb);
        }
        if (until_ns != PY_FOREVER && py_now_ns() >= until_ns) {
            return PY_WAIT_TIMEOUT;
        }
        if (py_runtime_on_main() && PyErr_CheckSignals() < 0) {
            return PY_WAIT_SIGNAL;
        }
    }
}
