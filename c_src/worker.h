/* A worker: an OS thread of a context with one PyThreadState for life and an 8 MB stack (CPython's recursion limit assumes
 * megabytes). Fields marked T are guarded by the context's take_lock; the rest is the worker's own. */
#ifndef ERLANG_PYTHON_WORKER_H
#define ERLANG_PYTHON_WORKER_H

#include "common.h"

#include "park.h"

#define PY_STACK_BYTES ((size_t)8 << 20)

struct py_worker {
    py_context *context;     /* kept */
    py_worker *next;         /* T: in context->workers */
    py_worker *standby_next; /* T */
    py_request *current;     /* T: what it runs */
    bool stop_pending;       /* T: an interrupt was sent for `current` */
    bool stalled;            /* T: the watchdog saw no progress */
    bool lost;               /* T: written off; leaves when it comes back */
    unsigned long thread_id; /* Python's, for PyThreadState_SetAsyncExc; set before it takes anything */
    PyThreadState *ts;
    py_parker parker; /* sleeps here on standby */
    unsigned spin_score;
    uint64_t coarse_now; /* the watchdog's clock when it was last looked at */
};

/* Starts a thread for `context` (which is kept until it leaves). take_lock held; false when the OS refuses. */
bool py_worker_start(py_context *context);

/* A thread with our stack size, detached from its starter. */
bool py_thread_start(void *(*main)(void *), void *arg, const char *name);

/* The worker whose thread this is, or NULL. */
py_worker *py_worker_current(void);

#endif
