/* The hold on a Python object of another node: `{py_ref, TypeName, Far}` on this one. The object is kept there under
 * the id; when nobody here has the resource any more, the relay (py_node_relay.erl) hears {py_far, Id}. Any thread. */
#ifndef ERLANG_PYTHON_FAR_H
#define ERLANG_PYTHON_FAR_H

#include "common.h"

int py_far_load(ErlNifEnv *env);

bool py_far_is(ErlNifEnv *env, ERL_NIF_TERM resource);

long py_far_count(void);

/* far_new(Relay, Id) -> Far */
PY_NIF(far_new_nif);
/* far_id(Reference) -> {Relay, Id} | none */
PY_NIF(far_id_nif);
/* ref_counts() -> {Refs, Fars} that live on this node */
PY_NIF(ref_counts_nif);

#endif
