/* A context's loop: one thread with an ErlangEventLoop, started by the first request for it, and the requests that run
 * there. A request is on one of two lists from the moment it is submitted until it is freed, so whoever has to answer
 * it early (deadline, dead caller, closing context) finds it wherever it is: waiting in the poller, running a step, or
 * suspended. The state machine of request.h decides who replies; the loop's thread alone frees.
 *
 * Stopping one is asking its task to cancel: it moves to `stopping`, and the loop's thread cancels it at its next poll.
 * A step that goes on for longer is interrupted through the janitor, aimed at `current` under the lock. One that has
 * not ended within the grace period is answered {error, {Why, abandoned}}.
 *
 * Fields marked A are guarded by `lock` (rank: context.take_lock's; never both). */
#ifndef ERLANG_PYTHON_ASYNC_H
#define ERLANG_PYTHON_ASYNC_H

#include "common.h"

#include "poller.h"
#include "request.h"

enum { PY_ASYNC_OFF, PY_ASYNC_STARTING, PY_ASYNC_RUNNING, PY_ASYNC_STOPPING };

typedef struct {
    pthread_mutex_t lock;
    int state;                     /* A */
    _Atomic bool closed;           /* A: for good, the context is; the loop looks without the lock */
    _Atomic size_t unanswered;     /* how many of `live` are to be looked at since it was closed; written under lock */
    py_poller *poller;             /* A: kept, while RUNNING or STOPPING */
    py_link live, stopping;        /* A */
    _Atomic size_t count;          /* of both; written under lock */
    py_event *waiting, **behind;   /* A: posted when the loop is up */
    size_t waiting_count;          /* A */
    py_event cancel;               /* tells the loop to look at `stopping` */
    bool cancel_posted;            /* A */
    uint64_t cancel_ns;            /* A: since when */
    PyObject *loop;                /* A: strong, while the loop runs */
    bool freed;                    /* A: what held up the loop was interrupted */
    py_event leave;                /* tells the loop to shut down */
    bool leave_posted;             /* A */
    uint64_t drain_ns;             /* A: how long a graceful stop waits */
    uint64_t next_look;            /* A: when the watchdog has to go through the lists */
    bool stop_pending;             /* A: an interrupt was sent for the current step */
    unsigned long thread_id;       /* Python's; set before RUNNING */
    ErlNifEnv *stop_env;           /* A: owns stop_refs */
    ERL_NIF_TERM stop_refs;        /* A: [{Pid, Ref}]: told {Ref, ok} when the loop has ended */
    _Atomic(py_request *) current; /* whose step runs; the loop thread's, cleared under lock */
    _Atomic uint64_t step;         /* counts steps */
    uint64_t watched_step;         /* the watchdog's */
    uint64_t watched_since;        /* the same: when it saw that step first */
} py_async;

int py_async_init(py_context *context);
void py_async_destroy(py_context *context);

/* Sends a request to the loop, starting it where it does not run. ok, or why not (noproc, overloaded, stopped,
 * system_limit), in which case the request is still the caller's. Any thread. */
ERL_NIF_TERM py_async_push(py_context *context, py_request *req);

/* Has the loop run `coro` (stolen) in place of what a worker runs as `req`: a new request with its reference, caller
 * and deadline replies, and `req` shall not. False when memory is out. Attached. */
bool py_async_adopt(py_request *req, PyObject *coro);

/* Posts an event to the loop; false when it does not run. Any thread. */
bool py_async_post(py_context *context, py_event *event);

/* Starts the loop if it does not run: ok, noproc, stopped (it is about to end), system_limit. Any thread. */
ERL_NIF_TERM py_async_start(py_context *context);

/* Asks a request of the loop to stop; the caller makes sure that it is not freed meanwhile. Any thread. */
void py_async_stop(py_request *req, int stop);

/* How many requests have not been answered. Any thread. */
size_t py_async_open(py_context *context);

/* Asks all that run to stop. Any thread. */
void py_async_stop_running(py_context *context, int stop);

/* Whether the loop has been asked to end. Any thread. */
bool py_async_is_leaving(py_async *async);

/* Interrupts the step that runs if it is of the request `serial`. With 0: a task that holds up the loop, if a request
 * that is to stop started it. Attached (the janitor). */
bool py_async_interrupt(py_context *context, uint64_t serial);

/* The watchdog's look; how many requests there are. */
size_t py_async_watch(py_context *context, uint64_t now, bool sweep);

/* No new requests; what waits is answered, what runs asked to stop, and the loop ends. Many are left to the watchdog.
 */
void py_async_close(py_context *context, ErlNifEnv *env);

/* The context whose loop this thread runs, or NULL. */
py_context *py_async_context(void);

/* ---- on the loop's thread, attached ---- */

/* A step of `req` begins: gives what ran before, for py_async_leave. */
static inline py_request *py_async_enter(py_async *async, py_request *req)
{
    py_request *before = atomic_load_explicit(&async->current, memory_order_relaxed);

    atomic_fetch_add_explicit(&async->step, 1, memory_order_relaxed);
    atomic_store_explicit(&async->current, req, memory_order_release);
    return before;
}

/* The step is over, and the request goes on later. `driver` (may be NULL) is kept as what its stop cancels. */
void py_async_leave(py_async *async, py_request *req, py_request *before, PyObject *driver);

/* The step is over, and so is the request: frees it. `before` as above; NULL when no step of it ran. */
void py_async_retire(py_async *async, py_request *req, py_request *before);

#endif
