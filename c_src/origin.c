/* See origin.h. */
#include "origin.h"

#include "callback.h"
#include "request.h"
#include "state.h"

typedef struct {
    PyObject_HEAD py_origin at;
} origin_object;

static void origin_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ErlNifEnv *env = ((origin_object *)self)->at.env;

    if (env != NULL && !py_forked) {
        enif_free_env(env);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot origin_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("What a task knows of the request from Erlang that it descends from.")},
    {Py_tp_dealloc, origin_dealloc},
    {0, NULL},
};

static PyType_Spec origin_spec = {
    .name = "_erlang.Origin",
    .basicsize = sizeof(origin_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = origin_slots,
};

static void of_request(py_origin *out, py_request *req)
{
    *out = (py_origin){
        .caller = req->caller,
        .foreign = (req->flags & PY_REQ_FOREIGN) != 0,
        .serial = req->serial,
        .chain = req->chain != 0 ? req->chain : req->serial,
        .parent = req->parent,
        .deadline_ns = req->deadline_ns,
        .env = req->env,
        .callers = req->callers,
        .trace = req->trace,
    };
}

PyObject *py_origin_new(py_state *st, py_request *req)
{
    origin_object *o = PyObject_New(origin_object, st->origin.type);

    if (o == NULL) {
        return NULL;
    }
    of_request(&o->at, req);
    o->at.deadline_ns = 0;
    o->at.env = NULL;
    if (PY_UNLIKELY(o->at.callers != 0 || o->at.trace != 0)) {
        o->at.env = enif_alloc_env();
        o->at.callers = o->at.callers == 0 ? 0 : enif_make_copy(o->at.env, o->at.callers);
        o->at.trace = o->at.trace == 0 ? 0 : enif_make_copy(o->at.env, o->at.trace);
    }
    return (PyObject *)o;
}

bool py_origin_find(py_state *st, py_origin *out)
{
    py_request *req = py_callback_request();
    PyObject *value = NULL;

    if (req != NULL) {
        of_request(out, req);
        return true;
    }
    if (PyContextVar_Get(st->origin.var, NULL, &value) < 0) {
        PyErr_Clear();
    }
    if (value == NULL || !Py_IS_TYPE(value, st->origin.type)) {
        Py_XDECREF(value);
        return false;
    }
    *out = ((origin_object *)value)->at;
    out->kept = value;
    return true;
}

void py_origin_done(py_origin *origin) { Py_CLEAR(origin->kept); }

uint64_t py_origin_serial(py_state *st, PyObject *object)
{
    return Py_IS_TYPE(object, st->origin.type) ? ((origin_object *)object)->at.serial : 0;
}

int py_origin_init(PyObject *module, py_state *st)
{
    st->origin.var = PyContextVar_New("erlang.request", NULL);
    st->origin.type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &origin_spec, NULL);
    return st->origin.var == NULL || st->origin.type == NULL ? -1 : 0;
}

int py_origin_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->origin.var);
    Py_VISIT(st->origin.type);
    return 0;
}

void py_origin_clear(py_state *st)
{
    Py_CLEAR(st->origin.var);
    Py_CLEAR(st->origin.type);
}
