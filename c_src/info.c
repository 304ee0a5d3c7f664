/* Information for operators. See info.h. */
#include "info.h"

#include "atoms.h"
#include "callback.h"
#include "channel.h"
#include "context.h"
#include "far.h"
#include "interpreter.h"
#include "isolated.h"
#include "park.h"
#include "ref.h"
#include "watchdog.h"
#include "worker.h"

static void put(ErlNifEnv *env, ERL_NIF_TERM *map, const char *key, ERL_NIF_TERM value)
{
    enif_make_map_put(env, *map, enif_make_atom(env, key), value, map);
}

PY_NIF(context_info_nif)
{ /* (Context) */
    py_context *context;
    py_worker *w;
    uint64_t now;
    ERL_NIF_TERM map = enif_make_new_map(env), running = enif_make_list(env, 0);

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context)) {
        return enif_make_badarg(env);
    }
    pthread_mutex_lock(&context->take_lock);
    now = py_now_ns(); /* after each of them was submitted */
    for (w = context->workers; w != NULL; w = w->next) {
        for (py_request *req = w->current; req != NULL; req = req->under) {
            if (py_request_is_done(req)) {
                continue;
            }
            ERL_NIF_TERM item = enif_make_new_map(env);
            put(env, &item, "id", enif_make_uint64(env, req->serial));
            put(env, &item, "module", req->shown_target);
            put(env, &item, "function", req->shown_function);
            put(env, &item, "caller", py_request_caller(env, req));
            put(env, &item, "age_us", enif_make_uint64(env, (now - req->submitted_ns) / 1000));
            put(env, &item, "thread", enif_make_uint64(env, w->thread_id));
            running = enif_make_list_cell(env, item, running);
        }
    }
    put(env, &map, "workers", enif_make_uint(env, context->worker_count));
    put(env, &map, "lost_workers", enif_make_uint64(env, context->lost_workers));
    put(env, &map, "calls", enif_make_uint64(env, context->progress));
    pthread_mutex_unlock(&context->take_lock);
    put(env, &map, "running", running);
    put(env, &map, "id", enif_make_uint64(env, context->id));
    put(env, &map, "max_threads", enif_make_uint(env, context->max_threads));
    put(env, &map, "queued", enif_make_uint64(env, atomic_load(&context->queued)));
    put(env, &map, "loop_requests", enif_make_uint64(env, py_async_open(context)));
    put(env, &map, "isolation", context->interp->own ? py_atoms.interpreter : py_atoms.thread);
    put(env, &map, "interpreter", enif_make_uint64(env, context->interp->id));
    put(env, &map, "closed", atomic_load(&context->closing) ? py_atoms.true_ : py_atoms.false_);
    return map;
}

PY_NIF(counters_nif)
{ /* () */
    ERL_NIF_TERM map = enif_make_new_map(env);

    (void)argc;
    (void)argv;
    put(env, &map, "requests", enif_make_int64(env, atomic_load(&py_requests_live)));
    put(env, &map, "refs", enif_make_int64(env, py_ref_count()));
    put(env, &map, "far_refs", enif_make_int64(env, py_far_count()));
    put(env, &map, "pins", enif_make_int64(env, py_ref_pin_count()));
    put(env, &map, "channels", enif_make_int64(env, atomic_load(&py_channels_live)));
    put(env, &map, "callbacks", enif_make_int64(env, atomic_load(&py_callbacks_live)));
    put(env, &map, "contexts", enif_make_int64(env, atomic_load(&py_contexts_live)));
    put(env, &map, "interpreters", enif_make_int64(env, atomic_load(&py_isolated_live)));
    put(env, &map, "interpreters_left", enif_make_int64(env, atomic_load(&py_isolated_left)));
    put(env, &map, "interpreters_ending", enif_make_int64(env, atomic_load(&py_isolated_ending)));
    put(env, &map, "atoms", enif_make_uint64(env, py_atoms_made()));
    return map;
}

PY_NIF(atom_quota_nif)
{ /* (Quota) */
    ErlNifUInt64 quota;

    (void)argc;
    if (!enif_get_uint64(env, argv[0], &quota)) {
        return enif_make_badarg(env);
    }
    py_atoms_set_quota(quota);
    return py_atoms.ok;
}

PY_NIF(grace_nif)
{ /* (Ms) */
    unsigned ms;

    (void)argc;
    if (!enif_get_uint(env, argv[0], &ms)) {
        return enif_make_badarg(env);
    }
    atomic_store(&py_watchdog_grace_ns, ms * UINT64_C(1000000));
    return py_atoms.ok;
}

static ERL_NIF_TERM text(ErlNifEnv *env, const char *s)
{
    ERL_NIF_TERM term;

    memcpy(enif_make_new_binary(env, strlen(s), &term), s, strlen(s));
    return term;
}

PY_NIF(python_version_nif)
{ /* () */
    (void)argc;
    (void)argv;
    return text(env, PY_VERSION);
}

PY_NIF(build_python_nif)
{ /* () */
    (void)argc;
    (void)argv;
    return text(env, PY_BUILD_PYTHON);
}
