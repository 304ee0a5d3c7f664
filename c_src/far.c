/* See far.h. The destructor runs on a scheduler. */
#include "far.h"

#include "atoms.h"
#include "ref.h"

typedef struct {
    ErlNifPid relay;
    ErlNifUInt64 id;
} far_hold;

static ErlNifResourceType *far_rtype;
static _Atomic long live;

static void far_dtor(ErlNifEnv *env, void *resource)
{
    far_hold *held = resource;
    ErlNifEnv *msg_env = enif_alloc_env();

    enif_send(env, &held->relay, msg_env,
              enif_make_tuple2(msg_env, py_atoms.py_far, enif_make_uint64(msg_env, held->id)));
    enif_free_env(msg_env);
    atomic_fetch_sub(&live, 1);
}

int py_far_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = far_dtor};

    far_rtype = enif_open_resource_type_x(env, "py_far", &init, ERL_NIF_RT_CREATE, NULL);
    return far_rtype == NULL ? -1 : 0;
}

bool py_far_is(ErlNifEnv *env, ERL_NIF_TERM resource)
{
    void *held;

    return enif_get_resource(env, resource, far_rtype, &held);
}

long py_far_count(void) { return atomic_load(&live); }

PY_NIF(far_new_nif)
{ /* (Relay, Id) */
    far_hold *held;
    ErlNifPid relay;
    ErlNifUInt64 id;
    ERL_NIF_TERM term;

    (void)argc;
    if (!enif_get_local_pid(env, argv[0], &relay) || !enif_get_uint64(env, argv[1], &id)) {
        return enif_make_badarg(env);
    }
    held = enif_alloc_resource(far_rtype, sizeof *held);
    held->relay = relay;
    held->id = id;
    atomic_fetch_add(&live, 1);
    term = enif_make_resource(env, held);
    enif_release_resource(held);
    return term;
}

PY_NIF(far_id_nif)
{ /* (Reference) */
    far_hold *held;

    (void)argc;
    if (!enif_get_resource(env, argv[0], far_rtype, (void **)&held)) {
        return py_atoms.none;
    }
    return enif_make_tuple2(env, enif_make_pid(env, &held->relay), enif_make_uint64(env, held->id));
}

PY_NIF(ref_counts_nif)
{ /* () */
    (void)argc;
    (void)argv;
    return enif_make_tuple2(env, enif_make_int64(env, py_ref_count()), enif_make_int64(env, py_far_count()));
}
