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

static bool is_over(py_callback *cb, py_worker *w, py_request *req)
{
    return py_callback_state(cb) == PY_CB_DONE ||
           (w != NULL && (atomic_load_explicit(&cb->nested, memory_order_acquire) != 0 ||
                          (req != NULL && atomic_load_explicit(&req->stop, memory_order_acquire) != PY_STOP_NONE)));
}

/* Detached. True when is_over. One thread spins at a time: more would only take the cores from Erlang. */
static bool spin_detached(py_callback *cb, py_worker *w, py_request *req)
{
    bool over = is_over(cb, w, req);
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
                over = is_over(cb, w, req);
            }
        } while (!over && py_now_ns() < end);
    }
    atomic_fetch_sub(&spinners, 1);
    return over;
}

/* Detached. Until is_over, or the time, or a look at the signals is due. */
static void sleep_detached(py_callback *cb, py_worker *w, py_request *req, uint64_t until_ns)
{
    uint64_t now = until_ns == PY_FOREVER ? 0 : py_now_ns(), ns = PY_FOREVER;

    py_parker_prepare(&cb->parker);
    if (is_over(cb, w, req) || now >= until_ns) {
        py_parker_cancel(&cb->parker);
        return;
    }
    if (until_ns != PY_FOREVER) {
        ns = until_ns - now;
    }
    if (py_runtime_on_main() && ns > SIGNAL_SLICE_NS) {
        ns = SIGNAL_SLICE_NS;
    }
    py_parker_sleep(&cb->parker, ns);
}

int py_callback_wait(py_callback *cb, py_worker *w, uint64_t until_ns)
{
    py_request *req = w == NULL ? NULL : w->current;

    for (;;) {
        PyThreadState *ts = PyEval_SaveThread();
        if (!spin_detached(cb, w, req)) {
            sleep_detached(cb, w, req, until_ns);
        }
        PyEval_RestoreThread(ts);
        if (py_callback_state(cb) == PY_CB_DONE) {
            return PY_WAIT_DONE;
        }
        if (req != NULL && atomic_load(&req->stop) != PY_STOP_NONE) {
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
