/* Running a request on the loop's thread: a plain function at once, a coroutine as an eager task over a *driver*, a
 * coroutine in C that hands every step on and, at the end, encodes and sends the result: no done callback, no extra
 * step of the loop. Attached, the loop's thread, except where it says otherwise. */
#ifndef ERLANG_PYTHON_DRIVER_H
#define ERLANG_PYTHON_DRIVER_H

#include "common.h"

#include "loop.h"
#include "request.h"

typedef struct {
    PyTypeObject *type;
    PyObject *cancelled_error; /* asyncio.CancelledError, imported by the first request */
    PyObject *wrap;            /* erlang._context_loop.wrap: a coroutine for another awaitable */
    PyObject *str_cancel;
} py_driver_part;

int py_driver_init(PyObject *module, py_state *st);
int py_driver_traverse(py_state *st, visitproc visit, void *arg);
void py_driver_clear(py_state *st);

/* Imports what drivers need of asyncio. 0 or -1 with an exception. */
int py_driver_prepare(py_state *st);

/* py_event.run of a request's event. */
int py_driver_run(py_event *event, py_loop *loop);

/* Enters a copy of the loop's context in which `req` is the origin; the caller exits it. NULL with an exception. */
PyObject *py_driver_enter(py_state *st, py_request *req);

/* Starts an eager task over `coro` (not stolen) in a fresh contextvars context. A driver whose coroutine has not ended
 * (py_driver_is_done tells), or NULL with an exception: then nothing was delivered. With `gather`, results go to its
 * place `index`. */
PyObject *py_driver_start(py_state *st, py_loop *loop, py_request *req, py_gather *gather, unsigned index,
                          PyObject *coro, PyObject *context);
bool py_driver_is_done(PyObject *driver);

/* The coroutine behind what an async call returned: itself, or one that awaits it; Py_None when it is no awaitable. New
 * reference, NULL with an exception. */
PyObject *py_driver_coroutine(py_state *st, PyObject *value);

/* Cancels its task. */
void py_driver_cancel(PyObject *driver);
/* It delivers nothing any more. Any attached thread. */
void py_driver_detach(PyObject *driver);

/* {error, E} for the exception that is set; a cancellation is `cancelled`. */
ERL_NIF_TERM py_driver_error(py_state *st, py_request *req, ErlNifEnv *env);

#endif
