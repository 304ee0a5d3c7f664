/* Python exceptions as Erlang terms (docs/errors.md). Attached. */
#ifndef ERLANG_PYTHON_EXCEPTION_H
#define ERLANG_PYTHON_EXCEPTION_H

#include "common.h"

typedef struct {
    PyObject *source_line; /* erlang._errors.source_line, once it was needed */
} py_exception_part;

int py_exception_init(PyObject *module, py_state *st);
int py_exception_traverse(py_state *st, visitproc visit, void *arg);
void py_exception_clear(py_state *st);

#endif
