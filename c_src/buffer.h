/* erlang.Buffer: bytes that cross without a copy. One made from an Erlang binary holds that binary; one made in Python
 * holds another object's buffer and becomes an Erlang binary over the same memory. Attached. */
#ifndef ERLANG_PYTHON_BUFFER_H
#define ERLANG_PYTHON_BUFFER_H

#include "common.h"

/* Bytes objects and ASCII strings of at least this size become binaries over the object itself, smaller ones are
 * copied (docs/types.md has the measurement). */
#define PY_BUFFER_PIN_MIN ((size_t)32 * 1024)

int py_buffer_init(PyObject *module, py_state *st);
PyObject *py_buffer_from_term(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term);
int py_buffer_to_term(py_state *st, ErlNifEnv *env, PyObject *buffer, ERL_NIF_TERM *out);

#endif
