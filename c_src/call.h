/* Running one request: terms to objects, look up, call, object to term. Attached to the context's interpreter. */
#ifndef ERLANG_PYTHON_CALL_H
#define ERLANG_PYTHON_CALL_H

#include "common.h"

#include "compat.h"

#define PY_CALL_NAMES 1024 /* a power of two */

/* A module and a dotted function, by the words of their atoms: the names as interned strings. The objects are looked up
 * at each call (19 ns), so patching and reload() work. */
typedef struct {
    ERL_NIF_TERM target, function;
    PyObject *module_name, *function_name;
    bool dotted;
} py_call_name;

typedef struct {
    py_ft_mutex lock; /* names */
    py_call_name *names;
    PyObject *interrupted; /* erlang.Interrupted: how a request is told to stop */
} py_call_part;

int py_call_init(PyObject *module, py_state *st);
int py_call_traverse(py_state *st, visitproc visit, void *arg);
void py_call_clear(py_state *st);

/* The reply to `req`, made in `env`: {ok, T}, ok or {error, E}. A result that takes long to free is left in *rest for
 * the caller to drop when the reply is on its way. */
ERL_NIF_TERM py_call_run(py_context *context, py_request *req, ErlNifEnv *env, PyObject **rest);

/* What the request calls or evaluates: a new reference, or NULL with an exception. */
PyObject *py_call_value(py_context *context, py_request *req);

/* An atom or UTF-8 binary as an exact str. That of an atom is interned; binaries are without end, and 3.12 keeps what
 * is interned for good. */
PyObject *py_call_name_of(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term, const char *what);

/* How the terms of the request are converted. */
unsigned py_call_conv_flags(py_context *context, py_request *req);

/* The pieces, for whoever runs requests elsewhere (the loop). New references, or NULL with an exception.
 * py_call_target: the callable that the request names. py_call_apply: calls it with the request's arguments. */
PyObject *py_call_target(py_context *context, py_request *req);
PyObject *py_call_apply(py_context *context, py_request *req, PyObject *callable);

/* {error, E} for the exception that is set, with the request's stop reason in its place if it was told to stop. */
ERL_NIF_TERM py_call_error(py_state *st, py_request *req, ErlNifEnv *env);

#endif
