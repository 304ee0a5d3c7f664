/* A worker: an OS thread of a context with one PyThreadState for life and an 8 MB stack (CPython's recursion limit
 * assumes megabytes). Fields marked T are guarded by the context's take_lock; the rest is the worker's own. */
#ifndef ERLANG_PYTHON_WORKER_H
#define ERLANG_PYTHON_WORKER_H

#include "common.h"

#include "callback.h"
#include "park.h"

#define PY_STACK_BYTES ((size_t)8 << 20)

struct py_worker {
    py_context *context;     /* kept */
    py_worker *next;         /* T: in context->workers */
    py_worker *standby_next; /* T */
    py_request *current;     /* T: what it runs; below it (req->under) what waits for Erlang meanwhile */
    py_request *nested;      /* T: requests for its waits, oldest first; see callback.h */
    py_callback *waiting;    /* T: its innermost wait for Erlang */
    unsigned depth;          /* nested requests on its stack */
    bool stop_pending;       /* T: an interrupt was sent for `current` */
    bool stalled;            /* T: the watchdog saw no progress */
    bool lost;               /* T: written off; leaves when it comes back */
    unsigned long thread_id; /* Python's, for PyThreadState_SetAsyncExc; set before it takes anything */
    PyThreadState *ts;
    py_parker parker; /* sleeps here on standby */
    unsigned spin_score;
    uint64_t gil_ns;     /* how long it waited for the GIL the last time, while timing is on */
    bool output_pending; /* its request left a line open */
    uint64_t coarse_now; /* the watchdog's clock when it was last looked at */
};

/* Starts a thread for `context` (which is kept until it leaves). take_lock held; false when the OS refuses. */
bool py_worker_start(py_context *context);

/* A thread with our stack size, detached from its starter. */
bool py_thread_start(void *(*main)(void *), void *arg, const char *name);

/* Takes one nested request of that wait, if there is one, and runs it on this stack. Attached; the worker's thread. */
void py_worker_serve(py_worker *w, py_callback *cb);

/* Has the worker look why it should not wait for Erlang any more. take_lock held. */
static inline void py_worker_wake_waiting(py_worker *w)
{
    if (w->waiting != NULL) {
        py_parker_wake(&w->waiting->parker);
    }
}

/* The worker whose thread this is, or NULL. */
py_worker *py_worker_current(void);

#endif
