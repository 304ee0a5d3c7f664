/* Runs a coroutine as an eager asyncio.Task and tells C when it ends, without a done callback or another step of the
 * loop.
 *
 * The task's coroutine is a Driver, a C object that passes send, throw and close on to the real one. What does not
 * suspend has ended when py_driver_start returns. Inside it is a task like any other: current_task(), asyncio.timeout,
 * TaskGroup and contextvars work. Loop's thread, attached. */
#ifndef ERLANG_PYTHON_DRIVER_H
#define ERLANG_PYTHON_DRIVER_H

#include "common.h"

typedef struct py_loop py_loop; /* loop.h */

/* Called once for each coroutine started, attached: with its result (borrowed), or with NULL and its exception set,
 * which the callee takes or clears. Cancelled, and a task that was dropped before its end: CancelledError. It may not
 * raise. */
typedef void (*py_driver_done)(void *arg, PyObject *result);

/* Starts `coro`, a coroutine or anything else that can be awaited, in `context` (NULL: a copy of the current one). A
 * new reference to its task, to cancel it by; or NULL with an exception set, then `done` was not and will not be
 * called. */
PyObject *py_driver_start(py_loop *loop, PyObject *coro, PyObject *context, py_driver_done done, void *arg);

int py_driver_init(PyObject *module, py_state *st);

#endif
