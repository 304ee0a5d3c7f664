/* A context: an interpreter, a namespace, a queue and its workers. An Erlang process owns it; when that process dies
 * the context stops and answers every open request.
 *
 * The queue has two ends. Submitters push on `inbox` under inbox_lock. Workers pop from `ready` under take_lock, and
 * when that is empty swap the whole inbox into it. So submitters and workers meet once per snapshot, and a request is
 * always where another worker can take it.
 *
 * One worker is *active*: it alone takes requests, spins and sleeps on `parker`. When the watchdog sees requests
 * waiting while the active worker made no progress, it makes another worker active (a standby one, or a new one up to
 * max_threads). A worker that comes back and finds another active and moving goes on standby; if that one is stalled
 * too it takes the role over. Short calls so run on one thread without hand-offs, and a long one stalls nobody.
 *
 * Fields marked T are guarded by take_lock, I by inbox_lock, C are constant after creation. */
#ifndef ERLANG_PYTHON_CONTEXT_H
#define ERLANG_PYTHON_CONTEXT_H

#include "common.h"

#include "async.h"
#include "park.h"
#include "request.h"

struct py_context {
    uint64_t id;          /* C */
    py_interp *interp;    /* C, kept, and used until it is gone */
    bool shares_main;     /* C: its namespace is sys.modules['__main__'] */
    unsigned max_threads; /* C */
    uint64_t spin_ns;     /* C */
    size_t max_queue;     /* C */
    unsigned conv_flags;  /* C */
    bool loop_on_beam;    /* C: the backend of its loop */
    ErlNifPid owner;      /* C */
    ErlNifMonitor monitor;

    PyObject *main; /* the namespace module; set by the first worker (T), constant after */

    pthread_mutex_t inbox_lock;
    py_request *inbox_head, *inbox_tail; /* I */
    uint64_t next_deadline;              /* I: no request on the queue has an earlier one */
    bool closed;                         /* I */
    _Atomic bool closing;                /* the same, for a look without the lock */
    _Atomic size_t queued;               /* in inbox and ready */

    pthread_mutex_t take_lock;
    py_request *ready;           /* T */
    py_request *orphans;         /* T: of a closed context, to be answered and freed */
    bool unanswered;             /* T: it is closed, and counts in threads_alive until all are */
    py_worker *active, *standby; /* T */
    py_worker *workers;          /* T: all that are not lost */
    unsigned worker_count;       /* T */
    _Atomic uint64_t progress;   /* requests taken so far; written under T */
    uint64_t watched_progress;   /* what the watchdog saw last; its own */
    bool watched_waiting;        /* the same */
    uint64_t lost_workers;       /* T: written off so far */
    _Atomic unsigned running;    /* workers with a request in hand; written under T */
    py_parker parker;            /* the active worker sleeps here */

    pthread_mutex_t pool_lock;
    py_request *pool;
    unsigned pool_size;

    py_async async; /* its loop */

    /* Workers, the loop, and one until it is closed. With the last of them the context is gone: it uses nothing of its
     * interpreter's any more. */
    _Atomic int threads_alive;
    _Atomic bool gone;
};

/* Of context_new, beside PY_CONV_BYTES. */
enum { PY_CONTEXT_LOOP_ON_BEAM = 1u << 8 };

extern ErlNifResourceType *py_context_rtype;
extern _Atomic long py_contexts_live;

int py_context_load(ErlNifEnv *env);

/* Puts a request on the queue and wakes the active worker if it sleeps. 0, or the reason as an atom (overloaded,
 * noproc), in which case the request is still the caller's. Never waits. Any thread. */
ERL_NIF_TERM py_context_push(py_context *context, py_request *req);

/* What a worker is to do when there is no request for it. */
typedef struct {
    bool stopped; /* its last request was interrupted, and the interrupt may still be pending */
    bool active;  /* wait on context->parker; else on its own, which is prepared */
    bool leave;   /* the context is closed, or the worker was written off */
} py_take;

/* The next request for worker `w`, or NULL. Attached; never waits. */
py_request *py_context_take(py_context *context, py_worker *w, py_take *take);

/* A worker's first and last steps in the context. Attached. */
void py_context_enter(py_context *context);
void py_context_leave(py_context *context, py_worker *w);

/* A thread's very last step, detached: one less of threads_alive. Keep the context meanwhile. */
void py_context_thread_gone(py_context *context);

/* Whether the watchdog has anything to look at. The watchdog's. */
bool py_context_is_busy(py_context *context);

/* Makes another worker active if there is one or may be one. take_lock held; the active worker runs a request or is
 * gone. */
bool py_context_promote(py_context *context);

/* Asks the request with this serial, if a worker runs it, to stop, with all that is nested in it. Any thread. */
void py_context_stop_request(py_context *context, uint64_t serial, int stop);

/* Marks `last` (NULL: the lowest) and all above it on the worker's stack, which descends from it, and asks for the
 * interrupt. take_lock held; the worker runs something. */
void py_context_stop_down_to(py_context *context, py_worker *w, py_request *last, int stop);

/* Asks all that runs to stop. */
void py_context_stop_running(py_context *context, int stop);

/* No new requests; queued ones are answered, running ones asked to stop, workers leave when idle. Of many that are
 * queued it answers some, and leaves the rest to the watchdog. `env`: see py_request_reply. */
void py_context_close(py_context *context, ErlNifEnv *env);

/* The watchdog's part of it. */
void py_context_answer_orphans(py_context *context, ErlNifEnv *env);

py_request *py_context_pool_get(py_context *context);
bool py_context_pool_put(py_context *context, py_request *req);

PY_NIF(context_new_nif);
PY_NIF(context_close_nif);
PY_NIF(context_interrupt_nif);
PY_NIF(submit_nif);
PY_NIF(submit_nested_nif);

#endif
