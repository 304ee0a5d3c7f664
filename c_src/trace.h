/* Where a request spends its time, and the trace it belongs to.
 *
 * Timing is off until Erlang turns it on (py_telemetry); then workers read the clock around their wait for the GIL, and
 * a request with PY_REQ_TIMED is answered {Ref, Result, {QueueNs, RunNs, GilNs}}.
 *
 * A trace is opaque here (a W3C traceparent for those who use it): a request brings it along, a span of Python's
 * replaces it (a context variable), a call into Erlang takes it further. */
#ifndef ERLANG_PYTHON_TRACE_H
#define ERLANG_PYTHON_TRACE_H

#include "common.h"

typedef struct {
    PyObject *span; /* ContextVar: the trace of the innermost span of Python's, or None */
    bool spans;     /* there has been one */
} py_trace_part;

int py_trace_init(PyObject *module, py_state *st);
int py_trace_traverse(py_state *st, visitproc visit, void *arg);
void py_trace_clear(py_state *st);

/* The trace that a call into Erlang carries, made in `env`; `undefined` for none. `brought`: that of the request,
 * 0 for none. Attached. */
ERL_NIF_TERM py_trace_term(py_state *st, ERL_NIF_TERM brought, ErlNifEnv *env);

extern _Atomic bool py_trace_timing;

/* timing(Bool) -> ok */
PY_NIF(timing_nif);

#endif
