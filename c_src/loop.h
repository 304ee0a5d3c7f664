/* The hot path of an asyncio loop: ready ring, timer heap, handles, fd table and the run-once step, as the C type
 * `_erlang.LoopBase` that erlang.ErlangEventLoop puts in front of asyncio's selector loop (docs/loop.md).
 *
 * A py_loop belongs to the thread that runs it, attached; only the poller may be touched by others. */
#ifndef ERLANG_PYTHON_LOOP_H
#define ERLANG_PYTHON_LOOP_H

#include "common.h"
#include "poller.h"

typedef struct py_loop_handle py_loop_handle; /* loop_handle.h */

/* This file's part of py_state. */
typedef struct {
    PyTypeObject *loop_type, *handle_type, *timer_handle_type, *threadsafe_handle_type, *ready_type;
    /* of asyncio, imported by the first loop */
    /* the stock classes: for debug mode and isinstance; the last is NULL before 3.14 */
    PyObject *asyncio_handle, *asyncio_timer_handle, *asyncio_threadsafe_handle;
    PyObject *tasks, *futures;                 /* modules */
    PyObject *eager_task_factory, *eager_task; /* asyncio.eager_task_factory, and the class of its tasks and ours */
    PyObject *format_callback;                 /* asyncio.format_helpers._format_callback_source */
    PyObject *kw_debug, *kw_context, *no_args; /* names of keyword arguments, as tuples */
    PyObject *str_cancelled, *str_run, *str_scheduled, *str_context, *str_loop, *str_name, *str_task, *str_future,
        *str_select, *str_process_events, *str_run_once, *str_time, *str_call_exception_handler, *str_call_at,
        *str_check_thread, *str_check_callback, *str_callback, *str_delay, *str_when;
} py_loop_part;

int py_loop_init(PyObject *module, py_state *st);
int py_loop_traverse(py_state *st, visitproc visit, void *arg);
void py_loop_clear(py_state *st);

/* The loop behind a Python object: borrowed; NULL with TypeError set. Attached. */
py_loop *py_loop_of(py_state *st, PyObject *obj);
PyObject *py_loop_object(py_loop *loop); /* borrowed */
py_state *py_loop_state(py_loop *loop);

/* The loop's poller, for posting from elsewhere: borrowed, or NULL when the loop runs on a selector of the caller's.
 * Keep it before leaving the attached section. */
py_poller *py_loop_poller(py_loop *loop);

/* asyncio.Task's keyword arguments for a driver of this loop, all but "context": kept, because making such a dict costs
 * more than what the task does with it. Borrowed, NULL with an exception. Loop's thread, attached. */
PyObject *py_loop_driver_kwargs(py_loop *loop);

/* loop.call_soon(callback, *args) from C: 0 or -1 with an exception. Loop's thread, attached. context may be NULL. */
int py_loop_call_soon(py_loop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *context);

/* The fd is ready for PY_POLL_READ and/or PY_POLL_WRITE: queues its handles. For the events of a backend other than
 * native. Loop's thread, attached. 0 or -1 with an exception. */
int py_loop_fd_ready(py_loop *loop, int fd, unsigned mask);

/* Reports the exception that is set, with a message, to the loop's exception handler. 0, or -1 with an exception set
 * that shall end the loop. Loop's thread, attached. */
int py_loop_report(py_loop *loop, const char *message);

#endif
