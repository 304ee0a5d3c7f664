/* The thread that runs a context's loop. See async.h. */
#ifndef ERLANG_PYTHON_ASYNC_THREAD_H
#define ERLANG_PYTHON_ASYNC_THREAD_H

#include "common.h"

#include "poller.h"

/* The thread; arg is its context, kept. */
void *py_async_main(void *arg);

/* Runs py_async.leave on the loop. */
int py_async_run_leave(py_event *event, py_loop *loop);

/* Interrupts the task that holds up the loop if it descends from a request that is to stop. Attached. */
bool py_async_free_loop(py_context *context);

/* loop_start(Context) -> ok | noproc | stopped | system_limit */
PY_NIF(loop_start_nif);
/* loop_stop(Context, Ref, DrainMs) -> ok | not_started, then {Ref, ok} when it has ended */
PY_NIF(loop_stop_nif);

#endif
