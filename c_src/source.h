/* Evals and execs: source text to a result, in the namespace of the request's context. Attached. */
#ifndef ERLANG_PYTHON_SOURCE_H
#define ERLANG_PYTHON_SOURCE_H

#include "common.h"

/* Sources up to PY_SOURCE_CACHED bytes are compiled once: {mode and source as bytes: code}, emptied when it is full. */
#define PY_SOURCE_CACHED 1024
#define PY_SOURCE_CODES 512

typedef struct {
    PyObject *codes;
} py_source_part;

int py_source_init(PyObject *module, py_state *st);
int py_source_traverse(py_state *st, visitproc visit, void *arg);
void py_source_clear(py_state *st);

/* Runs the source that the request has for its target: a new reference, or NULL with an exception. */
PyObject *py_source_run(py_context *context, py_request *req);

#endif
