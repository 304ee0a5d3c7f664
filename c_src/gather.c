/* Gathers. See gather.h. */
#include "gather.h"

#include "async.h"
#include "atoms.h"
#include "call.h"
#include "context.h"
#include "convert.h"
#include "driver.h"
#include "output.h"
#include "state.h"

#define CHUNK 256 /* children started before others get the loop */

#define GATHER_OF(e) ((py_gather *)((char *)(e)-offsetof(py_gather, more)))

struct py_gather {
    py_request *req;
    py_loop *loop;         /* it runs while there are children */
    PyObject *context;     /* what theirs are copies of */
    ERL_NIF_TERM *results; /* in req->env */
    PyObject **drivers;    /* of children that have not ended */
    ERL_NIF_TERM rest;     /* specs not yet started */
    unsigned n, next, running, limit;
    unsigned failed; /* how many; their results are {error, E} */
    bool *failures;
    bool stop_first;
    bool ending;    /* nothing more is started */
    bool cancelled; /* the children have been told */
    bool posted;    /* `more` is on its way */
    py_event more;
};

static int run_more(py_event *event, py_loop *loop);
static void drop_more(py_event *event) { GATHER_OF(event)->posted = false; }

static void gather_free(py_gather *g)
{
    unsigned i;

    for (i = 0; i < g->next; i++) {
        if (g->drivers[i] != NULL) {
            py_driver_detach(g->drivers[i]);
            Py_DECREF(g->drivers[i]);
        }
    }
    Py_XDECREF(g->context);
    PyMem_Free(g->drivers);
    PyMem_Free(g->results);
    PyMem_Free(g->failures);
    PyMem_Free(g);
}

static py_gather *gather_new(py_request *req, py_loop *loop, unsigned n, unsigned limit)
{
    py_gather *g = PyMem_Calloc(1, sizeof *g);

    if (g == NULL) {
        return NULL;
    }
    g->results = PyMem_Calloc(n + 1, sizeof *g->results);
    g->drivers = PyMem_Calloc(n + 1, sizeof *g->drivers);
    g->failures = PyMem_Calloc(n + 1, sizeof *g->failures);
    g->context = py_driver_enter(py_loop_state(loop), req);
    if (g->context == NULL || PyContext_Exit(g->context) < 0 || g->results == NULL || g->drivers == NULL ||
        g->failures == NULL) {
        gather_free(g);
        return NULL;
    }
    g->req = req;
    g->loop = loop;
    g->n = n;
    g->limit = limit == 0 ? n : limit;
    g->rest = req->args;
    g->stop_first = enif_is_identical(req->target, py_atoms.stop);
    g->more = (py_event){.run = run_more, .drop = drop_more, .type = PY_EVENT_REQUEST, .id = req->serial};
    return g;
}

/* ---- results ---- */

void py_gather_result(py_gather *g, unsigned index, PyObject *value)
{
    py_state *st = py_loop_state(g->loop);
    ErlNifEnv *env = g->req->env;

    g->running--;
    Py_CLEAR(g->drivers[index]); /* the task that runs it holds it too */
    if (value == NULL || py_py_to_term(st, env, value, 0, &g->results[index]) < 0) {
        g->results[index] = py_driver_error(st, g->req, env);
        if (!g->ending) {
            g->failures[index] = true;
            g->failed++;
            g->ending = g->stop_first;
        }
    }
}

static ERL_NIF_TERM gather_term(py_gather *g)
{
    ErlNifEnv *env = g->req->env;
    ERL_NIF_TERM list = enif_make_list(env, 0);
    const ERL_NIF_TERM *error;
    int stop = atomic_load(&g->req->stop), arity;
    unsigned i;

    if (stop != PY_STOP_NONE) {
        return py_request_stop_term(env, stop, false);
    }
    if (g->failed == 0) {
        return enif_make_tuple2(env, py_atoms.ok, enif_make_list_from_array(env, g->results, g->n));
    }
    for (i = g->next; i-- > 0;) {
        if (g->failures[i] && enif_get_tuple(env, g->results[i], &arity, &error)) {
            list = enif_make_list_cell(env, enif_make_tuple2(env, enif_make_uint(env, i + 1), error[1]), list);
        }
    }
    return enif_make_tuple2(env, py_atoms.error, enif_make_tuple2(env, py_atoms.gather_failed, list));
}

/* ---- going on ---- */

static void cancel_children(py_gather *g)
{
    unsigned i;

    if (g->cancelled) {
        return;
    }
    g->cancelled = true;
    for (i = 0; i < g->next; i++) {
        if (g->drivers[i] != NULL && !py_driver_is_done(g->drivers[i])) {
            py_driver_cancel(g->drivers[i]);
        }
    }
}

static void post_more(py_gather *g)
{
    py_poller *poller = py_loop_poller(g->loop);

    if (!g->posted && poller != NULL) {
        g->posted = true;
        g->posted = py_poller_post(poller, &g->more, &g->more, 1);
    }
}

/* The step is over: replies if all is, else sees to it that it goes on. */
static void end_step(py_gather *g, py_request *before)
{
    py_request *req = g->req;
    py_async *async = &req->context->async;

    if (g->ending && g->running > 0 && g->stop_first && g->failed > 0) {
        cancel_children(g);
    }
    if (g->running > 0 || (g->next < g->n && !g->ending) || g->posted) {
        if (!g->ending && g->next < g->n && g->running < g->limit) {
            post_more(g);
        }
        py_async_leave(async, req, before, NULL);
        return;
    }
    if (!py_request_is_done(req)) {
        ERL_NIF_TERM term = gather_term(g);

        if (py_request_finish(req)) {
            py_request_reply(req, NULL, req->env, term);
        }
    }
    pthread_mutex_lock(&async->lock);
    req->gather = NULL;
    pthread_mutex_unlock(&async->lock);
    gather_free(g);
    py_async_retire(async, req, before);
}

/* Takes the next spec apart, into a request that only py_call_value sees. */
static bool read_spec(py_gather *g, py_request *child)
{
    ErlNifEnv *env = g->req->arg_env;
    ERL_NIF_TERM head;
    const ERL_NIF_TERM *spec;
    int arity;

    if (!enif_get_list_cell(env, g->rest, &head, &g->rest) || !enif_get_tuple(env, head, &arity, &spec) ||
        (arity != 3 && arity != 4)) {
        PyErr_SetString(PyExc_TypeError, "expected {Module, Function, Args} or {Module, Function, Args, Kwargs}");
        return false;
    }
    child->target = spec[0];
    child->function = spec[1];
    child->args = spec[2];
    child->kwargs = arity == 4 ? spec[3] : enif_make_list(env, 0);
    return true;
}

static void start_child(py_gather *g, py_request *child)
{
    py_state *st = py_loop_state(g->loop);
    unsigned index = g->next++;
    PyObject *context = PyContext_Copy(g->context), *value = NULL, *coro = NULL, *driver = NULL;

    g->running++;
    if (context != NULL && read_spec(g, child) && PyContext_Enter(context) == 0) {
        value = py_call_value(g->req->context, child);
        if (PY_UNLIKELY(g->req->open_line)) {
            py_output_flush(st);
        }
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(value);
        }
    }
    coro = value == NULL ? NULL : py_driver_coroutine(st, value);
    if (coro == NULL) {
        py_gather_result(g, index, NULL);
    } else if (coro == Py_None) {
        py_gather_result(g, index, value);
    } else if ((driver = py_driver_start(st, g->loop, g->req, g, index, coro, context)) == NULL) {
        py_gather_result(g, index, NULL);
    } else if (!py_driver_is_done(driver)) {
        g->drivers[index] = Py_NewRef(driver);
    }
    Py_XDECREF(driver);
    Py_XDECREF(coro);
    Py_XDECREF(value);
    Py_XDECREF(context);
}

static void start_children(py_gather *g)
{
    py_request *req = g->req;
    py_request child = {.context = req->context,
                        .env = req->arg_env,
                        .arg_env = req->arg_env,
                        .op = PY_OP_CALL,
                        .flags = req->flags,
                        .shown_target = req->shown_target};
    int chunk = CHUNK;

    g->ending = g->ending || atomic_load(&req->stop) != PY_STOP_NONE;
    while (!g->ending && g->next < g->n && g->running < g->limit && chunk-- > 0) {
        start_child(g, &child);
    }
}

static int run_more(py_event *event, py_loop *loop)
{
    py_gather *g = GATHER_OF(event);
    py_request *before = py_async_enter(&g->req->context->async, g->req);

    (void)loop;
    g->posted = false;
    start_children(g);
    end_step(g, before);
    return 0;
}

void py_gather_step(py_gather *g, py_request *before) { end_step(g, before); }

void py_gather_cancel(py_gather *g)
{
    py_request *before = py_async_enter(&g->req->context->async, g->req);

    g->ending = true;
    cancel_children(g);
    end_step(g, before);
}

void py_gather_abandon(py_gather *g) { gather_free(g); }

void py_gather_run(py_request *req, py_loop *loop)
{
    py_async *async = &req->context->async;
    unsigned n, limit;
    py_gather *g = NULL;
    py_request *before = py_async_enter(async, req);

    if (!enif_get_list_length(req->arg_env, req->args, &n) || !enif_get_uint(req->arg_env, req->function, &limit)) {
        PyErr_SetString(PyExc_TypeError, "expected a list of calls");
    } else if ((g = gather_new(req, loop, n, limit)) == NULL) {
        PyErr_NoMemory();
    }
    if (g == NULL) {
        ERL_NIF_TERM term = py_driver_error(py_loop_state(loop), req, req->env);

        if (py_request_finish(req)) {
            py_request_reply(req, NULL, req->env, term);
        }
        py_async_retire(async, req, before);
        return;
    }
    pthread_mutex_lock(&async->lock);
    req->gather = g;
    pthread_mutex_unlock(&async->lock);
    start_children(g);
    end_step(g, before);
}
