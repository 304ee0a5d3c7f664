/* The end of a line that a request left open: python/erlang/_io.py keeps it, whoever runs the request ends it. */
#ifndef ERLANG_PYTHON_OUTPUT_H
#define ERLANG_PYTHON_OUTPUT_H

#include "common.h"

#include "worker.h"

typedef struct {
    PyObject *flush; /* erlang._io.flush_request, once it was needed */
} py_output_part;

int py_output_init(PyObject *module, py_state *st);
int py_output_traverse(py_state *st, visitproc visit, void *arg);
void py_output_clear(py_state *st);

/* Attached; what is set as an exception stays. */
void py_output_flush(py_state *st);

/* At the end of a request. Attached; the worker's thread. */
static inline void py_output_end(py_state *st, py_worker *w)
{
    if (PY_UNLIKELY(w->output_pending)) {
        w->output_pending = false;
        py_output_flush(st);
    }
}

#endif
