/* Many async calls as one request: one crossing in, one reply out. The children are the loop thread's alone; to
 * everyone else there is just the request, whose deadline, cancel and caller hold for all of them. Attached, the loop's
 * thread. */
#ifndef ERLANG_PYTHON_GATHER_H
#define ERLANG_PYTHON_GATHER_H

#include "common.h"

#include "loop.h"
#include "request.h"

/* The request has been started: target is `stop` or `collect`, function the most children at once (0: all), args the
 * list of {M, F, Args} and {M, F, Args, Kwargs}. */
void py_gather_run(py_request *req, py_loop *loop);

/* A child's value, or for NULL the exception that is set. */
void py_gather_result(py_gather *gather, unsigned index, PyObject *value);

/* A child's step ended with a result, outside of those functions: ends the step and goes on. */
void py_gather_step(py_gather *gather, py_request *before);

/* Cancels all children. */
void py_gather_cancel(py_gather *gather);

/* The loop is gone: forgets the children. The request is still to be answered and retired. */
void py_gather_abandon(py_gather *gather);

#endif
