/* Handle and TimerHandle: what call_soon, call_at and add_reader return. C twins of asyncio's classes, for which they
 * answer isinstance() by their __class__; debug mode uses the stock classes themselves (loop.c).
 *
 * Freed handles wait in their loop's free list for the next call_soon. Only a handle nobody refers to is freed, so one
 * that has left the loop's hands is never used again for something else. Attached. */
#ifndef ERLANG_PYTHON_LOOP_HANDLE_H
#define ERLANG_PYTHON_LOOP_HANDLE_H

#include "loop.h"

enum { PY_HANDLE_INLINE = 3 };

struct py_loop_handle {
    PyObject_HEAD py_loop *loop; /* strong */
    PyObject *callback;          /* NULL once cancelled */
    PyObject *context;
    PyObject *args;    /* the tuple, if there are more than PY_HANDLE_INLINE or somebody asked for it */
    PyObject *scratch; /* argv[-1], for the callee of a vectorcall */
    PyObject *argv[PY_HANDLE_INLINE];
    PyObject *repr; /* kept by a cancel() in debug mode */
    PyObject *weakrefs;
    double when;
    uint8_t nargs; /* in argv */
    bool cancelled, scheduled;
    _Atomic bool running;
    bool threadsafe;      /* of call_soon_threadsafe, from 3.14 on: cancel() of another thread waits for the callback */
    unsigned long runner; /* the thread that runs it */
};

/* A new handle. context NULL: a copy of the current one. */
py_loop_handle *py_loop_handle_new(py_loop *loop, PyTypeObject *type, PyObject *callback, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *context);
/* Frees what the free list holds. */
void py_loop_handle_drain(py_loop *loop);

/* Runs the callback in its context. Its exception goes to the loop's exception handler; -1 only for what shall end the
 * loop. */
int py_loop_handle_run(py_loop_handle *handle);
int py_loop_handle_cancel(py_loop_handle *handle);

/* Is it one of our types? */
bool py_loop_handle_is_own(py_loop *loop, PyObject *handle);

/* For anything in the ring or heap, ours or stock: 1, 0 or -1 with an exception. */
int py_loop_handle_is_cancelled(py_loop *loop, PyObject *handle);

int py_loop_handle_init(PyObject *module, py_state *st);

#endif
