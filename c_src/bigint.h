/* Integers beyond 64 bits, both ways, by the external term format: linear in their size, no decimal text.
 * Attached. */
#ifndef ERLANG_PYTHON_BIGINT_H
#define ERLANG_PYTHON_BIGINT_H

#include "common.h"

PyObject *py_bigint_from_term(ErlNifEnv *env, ERL_NIF_TERM term);

/* `obj` is an int (or a subclass of it): 0, or -1 with an exception. */
int py_bigint_to_term(ErlNifEnv *env, PyObject *obj, ERL_NIF_TERM *out);

#endif
