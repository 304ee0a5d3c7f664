/* One Python interpreter as C sees it: counted by reference, because refs (resources that Erlang holds) outlive it.
 * `drops` is where any thread leaves objects to be decref'd: destructors run on schedulers, which never attach. A worker
 * takes the list between two requests, the watchdog wakes one when nobody came by. */
#ifndef ERLANG_PYTHON_INTERPRETER_H
#define ERLANG_PYTHON_INTERPRETER_H

#include "common.h"

struct py_interp {
    _Atomic long refcount;
    uint64_t id;
    PyInterpreterState *interp;
    py_state *state;    /* NULL until `_erlang` is imported there */
    _Atomic bool alive; /* false once it is ended: refs into it are errors, drops are forgotten */
    pthread_mutex_t drop_lock;
    PyObject **drops;
    size_t drops_len, drops_cap;
    _Atomic size_t drops_pending; /* a cheap look before taking the lock */
};

void py_interp_keep(py_interp *interp);
void py_interp_release(py_interp *interp);

/* Leaves one reference to `obj` to be dropped by an attached thread. Any thread; never attaches. */
void py_interp_drop_later(py_interp *interp, PyObject *obj);

/* Drops what was left. Attached to that interpreter. */
void py_interp_run_drops(py_interp *interp);

#endif
