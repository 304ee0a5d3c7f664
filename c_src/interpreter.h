/* One Python interpreter as C sees it, counted by reference because refs (resources that Erlang holds) outlive it, and
 * its *janitor*: a thread that attaches for those who must not. It sends interrupts (the watchdog never attaches) and
 * drops references that destructors left (they run on schedulers, which never attach).
 *
 * The main interpreter is never ended. One with a GIL of its own (isolated.h) is ended by its janitor when it has no
 * *users* left: contexts, refs, pins, streams, callbacks into its loops. Whoever holds an object of it is one.
 *
 * Rank of drop_lock and jobs_lock: leaf. */
#ifndef ERLANG_PYTHON_INTERPRETER_H
#define ERLANG_PYTHON_INTERPRETER_H

#include "common.h"

#include "park.h"

/* Something for the janitor to do; embed it in a struct of your own. */
typedef struct py_interp_job {
    struct py_interp_job *next;
    void (*run)(struct py_interp_job *job); /* attached; owns the job; leaves no exception */
} py_interp_job;

struct py_interp {
    _Atomic long refcount; /* of this struct */
    _Atomic long users;    /* what the interpreter must live for */
    _Atomic long contexts; /* those of them that are contexts, or stand for one that is to come */
    _Atomic bool news;     /* the janitor is to look at the two */
    _Atomic bool left;     /* counted in py_isolated_left */
    uint64_t id;           /* C, as all that follow up to alive */
    bool own;              /* has a GIL of its own */
    char label[64];        /* whose it is, for messages */
    PyInterpreterState *interp;
    PyThreadState *anchor; /* own: the first thread state, which nobody runs on; the interpreter is never without one */
    py_state *state;
    _Atomic bool alive; /* false once it is ended: refs into it are errors, drops are forgotten */

    pthread_mutex_t drop_lock;
    PyObject **drops;
    size_t drops_len, drops_cap;
    _Atomic size_t drops_pending; /* a cheap look before taking the lock */
    _Atomic bool delaying;        /* the janitor looks at the drops by itself soon */

    pthread_mutex_t jobs_lock;
    py_interp_job *jobs, **jobs_tail;
    _Atomic bool jobs_pending;
    py_context *context; /* own, under jobs_lock: its context, until that is closed; not kept */
    py_parker parker;
};

/* An interpreter whose `_erlang` state is `state`, with its janitor running; the caller is one user and one context
 * (py_interp_leave). Attached to it. NULL with an exception. `own`: isolated.h. */
py_interp *py_interp_new(py_state *state, bool own, const char *label);

/* The struct only. Any thread. */
void py_interp_keep(py_interp *interp);
void py_interp_release(py_interp *interp);

/* A user, who keeps the struct too. use: by who is attached to it, or a user. try_use: any thread that keeps the
 * struct; false when there is no user any more. unuse: any thread. */
void py_interp_use(py_interp *interp);
bool py_interp_try_use(py_interp *interp);
void py_interp_unuse(py_interp *interp);

/* The same for a context; enter: by a user. */
void py_interp_enter(py_interp *interp);
void py_interp_leave(py_interp *interp);

/* Leaves one reference to `obj` to be dropped by an attached thread. Any thread; never attaches. */
void py_interp_drop_later(py_interp *interp, PyObject *obj);

/* Drops what was left. Attached to that interpreter. */
void py_interp_run_drops(py_interp *interp);

/* Has `job` run by the janitor, after the jobs before it. Any thread. */
void py_interp_run_later(py_interp *interp, py_interp_job *job);

/* Has the request `serial` of `context` interrupted, if it still runs when the janitor gets there. Any thread. */
void py_interp_interrupt(py_interp *interp, py_context *context, uint64_t serial);

#endif
