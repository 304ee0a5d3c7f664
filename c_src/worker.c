/* Worker threads: take, run, reply; spin, sleep, stand by. Runs on worker threads only, but for py_worker_start. */
#include "worker.h"

#include "call.h"
#include "context.h"
#include "interpreter.h"
#include "program.h"
#include "runtime.h"
#include "state.h"
#include "stream.h"
#include "trace.h"
#include "watchdog.h"

#include <signal.h>
#include <unistd.h>

#define SPIN_SCORE_MAX 16
#define CALLER_CHECK_NS UINT64_C(20000000)
#define MAX_DEPTH 1000 /* nested requests: about 2.5 KB of stack each */
#define SPIN_PROBE 8   /* while spinning does not pay, try it once in so many waits */

static _Thread_local py_worker *current;

py_worker *py_worker_current(void) { return current; }

bool py_thread_start(void *(*main)(void *), void *arg, const char *name)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t before;
    int rc;

    if (pthread_attr_init(&attr) != 0) {
        return false;
    }
    pthread_attr_setstacksize(&attr, PY_STACK_BYTES);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_sigmask(SIG_SETMASK, py_program_signal_mask(), &before);
    rc = pthread_create(&thread, &attr, main, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attr);
#ifdef __linux__
    if (rc == 0) {
        pthread_setname_np(thread, name);
    }
#else
    (void)name;
#endif
    return rc == 0;
}

/* Detached. Spins while that has paid lately. True when there is something to do. */
static bool worker_spin(py_worker *w)
{
    py_context *context = w->context;
    uint64_t end;
    int i;

    if (context->spin_ns == 0) {
        return false;
    }
    if (w->spin_score == 0) {
        w->spin_score = SPIN_SCORE_MAX + SPIN_PROBE;
    }
    if (w->spin_score > SPIN_SCORE_MAX + 1) { /* counting down to the next probe */
        w->spin_score--;
        return false;
    }
    end = py_now_ns() + context->spin_ns;
    do {
        for (i = 0; i < 32; i++) {
            if (atomic_load_explicit(&context->queued, memory_order_acquire) != 0) {
                w->spin_score = SPIN_SCORE_MAX;
                return true;
            }
            py_cpu_relax();
        }
    } while (py_now_ns() < end);
    w->spin_score = w->spin_score > SPIN_SCORE_MAX ? 0 : w->spin_score - 1;
    return false;
}

/* Detached. The active worker waits for the queue, any other on its own parker, until it may have something to do. */
static void worker_wait_detached(py_worker *w, bool active)
{
    py_context *context = w->context;

    if (!active) {
        py_parker_sleep(&w->parker, PY_FOREVER);
        return;
    }
    if (worker_spin(w)) {
        return;
    }
    py_parker_prepare(&context->parker);
    if (atomic_load(&context->queued) != 0 || atomic_load(&context->closing)) {
        py_parker_cancel(&context->parker);
        return;
    }
    py_parker_sleep(&context->parker, PY_FOREVER);
    if (context->spin_ns != 0 && w->spin_score == 0) {
        w->spin_score = SPIN_SCORE_MAX + SPIN_PROBE;
    }
}

/* The reply, or 0 when there is none now. */
static ERL_NIF_TERM run(py_context *context, py_request *req, PyObject **rest)
{
    if (PY_LIKELY(!(req->flags & (PY_REQ_STREAM | PY_REQ_COLLECT)))) {
        return py_call_run(context, req, req->env, rest);
    }
    return req->flags & PY_REQ_STREAM ? py_stream_step(context, req) : py_stream_collect(context, req);
}

static ERL_NIF_TERM run_timed(py_worker *w, py_request *req, PyObject **rest)
{
    uint64_t started = py_now_ns(), waited = started - req->submitted_ns;
    ERL_NIF_TERM result = run(w->context, req, rest);

    req->gil_ns = w->gil_ns < waited ? w->gil_ns : waited;
    req->queue_ns = waited - req->gil_ns;
    req->run_ns = py_now_ns() - started;
    return result;
}

/* Attaches again after a wait. */
static void worker_attach(py_worker *w)
{
    uint64_t started = atomic_load_explicit(&py_trace_timing, memory_order_relaxed) ? py_now_ns() : 0;

    PyEval_RestoreThread(w->ts);
    w->gil_ns = PY_UNLIKELY(started != 0) ? py_now_ns() - started : 0;
}

/* Puts `vars` in the place of the thread's context variables and gives those that were there. As PyContext_Enter and
 * PyContext_Exit, without a Context for a request that sets none. */
static PyObject *swap_context_vars(PyThreadState *ts, PyObject *vars)
{
    PyObject *before = ts->context;

    ts->context = vars;
    ts->context_ver++;
    return before;
}

static void worker_run(py_worker *w, py_request *req)
{
    ERL_NIF_TERM result;
    bool won;
    PyObject *vars, *rest = NULL;

    if (PY_UNLIKELY(req->deadline_ns != 0 &&
                    (req->deadline_ns <= w->coarse_now || req->deadline_ns <= req->submitted_ns))) {
        if (py_request_finish(req)) {
            py_request_reply_stop(req, NULL, PY_STOP_TIMEOUT, false);
        }
        return;
    }
    /* A caller that died while its request waited wants nothing any more. */
    if (PY_UNLIKELY(w->coarse_now > req->submitted_ns + CALLER_CHECK_NS) && !(req->flags & PY_REQ_NO_REPLY) &&
        !enif_is_process_alive(NULL, &req->caller)) {
        py_request_finish(req);
        return;
    }
    if (!py_request_start(req)) {
        return;
    }
    vars = swap_context_vars(w->ts, NULL); /* what a request sets is its own */
    if (PY_UNLIKELY(w->depth > MAX_DEPTH)) {
        PyErr_Format(PyExc_RecursionError, "chain %llu is %u nested requests deep on one thread",
                     (unsigned long long)req->chain, w->depth - 1);
        result = py_call_error(w->context->interp->state, req, req->env);
    } else {
        result = PY_UNLIKELY(req->flags & PY_REQ_TIMED) ? run_timed(w, req, &rest) : run(w->context, req, &rest);
    }
    if (PY_UNLIKELY(py_forked)) {
        _exit(0); /* as a thread that forked ends its child */
    }
    py_output_end(w->context->interp->state, w);
    vars = swap_context_vars(w->ts, vars);
    Py_XDECREF(vars);
    won = py_request_finish(req);
    if (won && result != 0) {
        py_request_reply(req, NULL, req->env, result);
    }
    Py_XDECREF(rest);
    if (PY_UNLIKELY(req->stream != NULL)) {
        py_stream_rest(req, !won || result != 0);
    }
}

/* take_lock is taken here. The oldest nested request of that wait becomes the current one; NULL when there is none, or
 * the one below is to stop. */
static py_request *push_nested(py_worker *w, py_callback *cb)
{
    py_request **at, *req = NULL;

    pthread_mutex_lock(&w->context->take_lock);
    if (w->current == NULL || atomic_load(&w->current->stop) == PY_STOP_NONE) {
        for (at = &w->nested; *at != NULL && (*at)->nest != cb->id; at = &(*at)->next) {
        }
        if ((req = *at) != NULL) {
            *at = req->next;
            atomic_fetch_sub(&cb->nested, 1);
            req->under = w->current;
            w->current = req;
            atomic_fetch_add_explicit(&w->context->progress, 1, memory_order_relaxed);
        }
    }
    pthread_mutex_unlock(&w->context->take_lock);
    return req;
}

void py_worker_serve(py_worker *w, py_callback *cb)
{
    py_request *req = push_nested(w, cb);
    bool stopped;

    if (req == NULL) {
        return;
    }
    w->depth++;
    worker_run(w, req);
    w->depth--;
    pthread_mutex_lock(&w->context->take_lock);
    w->current = req->under;
    if (w->current != NULL && w->current->stop_ns != 0) { /* its time to stop begins now */
        w->current->stop_ns = w->current->nudged_ns = py_now_ns();
    }
    stopped = w->stop_pending;
    w->stop_pending = false;
    pthread_mutex_unlock(&w->context->take_lock);
    if (PY_UNLIKELY(stopped)) { /* it must not hit the one below, which looks at its own `stop` */
        PyThreadState_SetAsyncExc(w->thread_id, NULL);
    }
    py_request_free(req);
}

static void worker_loop(py_worker *w)
{
    py_context *context = w->context;
    py_interp *interp = context->interp;
    py_request *req, *before = NULL;
    uint64_t now;
    py_take take;

    for (;;) {
        req = py_context_take(context, w, &take);
        if (PY_UNLIKELY(take.stopped)) {
            PyThreadState_SetAsyncExc(w->thread_id, NULL);
        }
        if (before != NULL) {
            py_request_free(before);
            before = NULL;
        }
        if (PY_UNLIKELY(atomic_load_explicit(&interp->drops_pending, memory_order_relaxed) != 0)) {
            py_interp_run_drops(interp);
        }
        if (req == NULL) {
            if (take.leave) {
                return;
            }
            PyEval_SaveThread();
            worker_wait_detached(w, take.active);
            worker_attach(w);
            w->coarse_now = atomic_load_explicit(&py_watchdog_now, memory_order_relaxed);
            continue;
        }
        py_watchdog_running();
        worker_run(w, req);
        w->gil_ns = 0;
        before = req;
        now = atomic_load_explicit(&py_watchdog_now, memory_order_relaxed);
        if (PY_UNLIKELY(now !=
                        w->coarse_now)) { /* about a millisecond went by: whoever waits for the GIL gets it now */
            w->coarse_now = now;
            PyEval_SaveThread();
            PyEval_RestoreThread(w->ts);
        }
    }
}

static void worker_free(py_worker *w)
{
    py_parker_destroy(&w->parker);
    enif_free(w);
}

static void *worker_main(void *arg)
{
    py_worker *w = arg;
    py_context *context = w->context;

    current = w;
    w->ts = PyThreadState_New(context->interp->interp);
    PyEval_RestoreThread(w->ts);
    w->thread_id = PyThread_get_thread_ident();
    py_context_enter(context);
    worker_loop(w);
    py_context_leave(context, w);
    PyThreadState_Clear(w->ts);
    PyThreadState_DeleteCurrent();
    worker_free(w);
    py_context_thread_gone(context);
    enif_release_resource(context);
    return NULL;
}

bool py_worker_start(py_context *context)
{
    py_worker *w = enif_alloc(sizeof *w);

    if (w == NULL) {
        return false;
    }
    memset(w, 0, sizeof *w);
    w->context = context;
    w->spin_score = SPIN_SCORE_MAX;
    py_parker_init(&w->parker);
    enif_keep_resource(context);
    atomic_fetch_add(&context->threads_alive, 1);
    w->next = context->workers;
    context->workers = w;
    context->worker_count++;
    context->active = w;
    if (!py_thread_start(worker_main, w, "py_worker")) {
        context->workers = w->next;
        context->worker_count--;
        context->active = NULL;
        atomic_fetch_sub(&context->threads_alive, 1);
        worker_free(w);
        enif_release_resource(context);
        return false;
    }
    return true;
}
