/* One Python interpreter as C sees it, counted by reference because refs (resources that Erlang holds) outlive it, and
 * its *janitor*: a thread that attaches for those who must not. It sends interrupts (the watchdog never attaches) and
 * drops references that destructors left (they run on schedulers, which never attach).
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
    _Atomic long refcount;
    uint64_t id;
    PyInterpreterState *interp;
    py_state *state;    /* set by py_interp_bind, before the first request */
    _Atomic bool alive; /* false once it is ended: refs into it are errors, drops are forgotten */

    pthread_mutex_t drop_lock;
    PyObject **drops;
    size_t drops_len, drops_cap;
    _Atomic size_t drops_pending; /* a cheap look before taking the lock */
    _Atomic bool delaying;        /* the janitor looks at the drops by itself soon */

    pthread_mutex_t jobs_lock;
    py_interp_job *jobs, **jobs_tail;
    _Atomic bool jobs_pending;
    py_parker parker;
};

/* An interpreter whose `_erlang` state is `state`, with its janitor running. Attached to it. NULL with an exception. */
py_interp *py_interp_new(py_state *state);

void py_interp_keep(py_interp *interp);
void py_interp_release(py_interp *interp);

/* Leaves one reference to `obj` to be dropped by an attached thread. Any thread; never attaches. */
void py_interp_drop_later(py_interp *interp, PyObject *obj);

/* Drops what was left. Attached to that interpreter. */
void py_interp_run_drops(py_interp *interp);

/* Has `job` run by the janitor, after the jobs before it. Any thread. */
void py_interp_run_later(py_interp *interp, py_interp_job *job);

/* Has the request `serial` of `context` interrupted, if it still runs when the janitor gets there. Any thread. */
void py_interp_interrupt(py_interp *interp, py_context *context, uint64_t serial);

#endif
