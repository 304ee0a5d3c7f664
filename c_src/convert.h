/* The border of types: one function each way, per docs/types.md. Both need the caller attached to `st`'s interpreter
 * and neither keeps `env`. They never crash on depth, cycles or mutation: they raise. */
#ifndef ERLANG_PYTHON_CONVERT_H
#define ERLANG_PYTHON_CONVERT_H

#include "common.h"

enum {
    PY_CONV_BYTES = 1u << 0,   /* every Erlang binary becomes bytes (`binaries => bytes`) */
    PY_CONV_NO_REFS = 1u << 1, /* an object that would become a ref is a TypeError instead */
};

#define PY_CONV_MAX_DEPTH 1000
#define PY_CONV_SAFE_DEPTH 50 /* levels that every stack has room for; from there on it is looked at */

/* term_to_py.c: a new reference, or NULL with a Python exception set. `env` may be any env that owns `term`. */
PyObject *py_term_to_py(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term, unsigned flags);

/* py_to_term.c: 0 and *out made in `env`, or -1 with a Python exception set. */
int py_py_to_term(py_state *st, ErlNifEnv *env, PyObject *obj, unsigned flags, ERL_NIF_TERM *out);

/* exception.c: {Class, #{message, class, module, traceback, ...}} for an exception (docs/errors.md).
 * Never fails and leaves no exception set: an exception that cannot be described is described by its class. */
ERL_NIF_TERM py_exception_to_term(py_state *st, ErlNifEnv *env, PyObject *exc);

#endif
