/* Refs: Erlang's hold on a Python object, `{py_ref, TypeName, Resource}`. The object lives while the resource lives.
 * A resource keeps its py_interp, so it outlives the interpreter safely; it is destroyed on schedulers, which never
 * attach: the reference is left to py_interp_drop_later. */
#ifndef ERLANG_PYTHON_REF_H
#define ERLANG_PYTHON_REF_H

#include "common.h"

typedef struct {
    PyObject *module_name, *main_name, *builtins_name; /* interned "__module__", ... */
} py_ref_part;

/* Opens the resource types. Called by py_types_load. */
int py_ref_load(ErlNifEnv *env);

int py_ref_init(PyObject *module, py_state *st);
int py_ref_traverse(py_state *st, visitproc visit, void *arg);
void py_ref_clear(py_state *st);

/* Attached. 0, or -1 with an exception (in an interpreter that is not ours there are no refs). */
int py_ref_make(py_state *st, ErlNifEnv *env, PyObject *obj, ERL_NIF_TERM *out);

/* Any thread: the interpreter of a `{py_ref, _, _}` (borrowed, as long as the term lives), or NULL. */
py_interp *py_ref_interp(ErlNifEnv *env, ERL_NIF_TERM term);

/* Attached. A new reference to the object behind the third element of a `{py_ref, _, _}`; NULL without an exception
 * when it is no resource of ours; NULL with a ValueError when the object belongs to another interpreter. */
PyObject *py_ref_object(py_state *st, ErlNifEnv *env, ERL_NIF_TERM resource);

/* A binary over memory that `owner` (a bytes, str or Buffer) keeps; it holds `owner` while it lives. A copy in an
 * interpreter that is not ours. Attached. */
ERL_NIF_TERM py_ref_binary(py_state *st, ErlNifEnv *env, PyObject *owner, const void *data, size_t size);

/* Live refs and live pinned binaries in this VM. Any thread. */
long py_ref_count(void);
long py_ref_pin_count(void);

#endif
