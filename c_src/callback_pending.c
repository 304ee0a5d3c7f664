/* _erlang.Pending: a call into Erlang that is not waited for where it was made. The object owns its slot until it is
 * done with it; dropping one whose answer has not come kills the function's process. Attached; no locks held. A pending
 * call may be asked from several threads: `lock` guards the slot's pointer on free-threaded builds. */
#include "callback.h"

#include "compat.h"
#include "convert.h"
#include "request.h"
#include "state.h"
#include "worker.h"

typedef struct {
    PyObject_HEAD py_callback *cb; /* NULL: cancelled, or its result was taken */
} pending;

static PyObject *start(PyObject *module, PyObject *const *args, Py_ssize_t n)
{ /* start(target, args) */
    py_state *st = py_state_of_module(module);
    PyTypeObject *type = st->callback.pending_type;
    py_callback_what what;
    pending *self;

    if (n != 2 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "start() takes a target and a tuple of arguments");
        return NULL;
    }
    if ((self = (pending *)type->tp_alloc(type, 0)) == NULL) {
        return NULL;
    }
    self->cb = py_callback_prepare(st, args[0], &PyTuple_GET_ITEM(args[1], 0), PyTuple_GET_SIZE(args[1]), &what);
    if (self->cb == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    if (!py_callback_start(st, self->cb, &what, PY_FOREVER)) {
        py_callback_close(self->cb);
        self->cb = NULL;
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

PyObject *py_callback_pending_open(py_state *st, uint64_t *id)
{
    PyTypeObject *type = st->callback.pending_type;
    pending *self = (pending *)type->tp_alloc(type, 0);

    if (self == NULL) {
        return NULL;
    }
    if ((self->cb = py_callback_new()) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    *id = self->cb->id;
    py_callback_open(self->cb);
    return (PyObject *)self;
}

/* True when the call was still open. */
static bool give_up(pending *self)
{
    py_callback *cb = self->cb;
    py_notice *notice;
    bool cancelled;

    if (cb == NULL || py_forked) {
        return false;
    }
    self->cb = NULL;
    cancelled = py_callback_cancel(cb);
    notice = cancelled ? cb->notice : NULL;
    py_callback_close(cb);
    if (notice != NULL) {
        py_notice_drop(notice);
    }
    return cancelled;
}

static void pending_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    give_up((pending *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *pending_cancel(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(give_up((pending *)self));
}

static PyObject *pending_done(PyObject *self, PyObject *unused)
{
    pending *p = (pending *)self;

    (void)unused;
    return PyBool_FromLong(p->cb == NULL || py_callback_state(p->cb) == PY_CB_DONE);
}

/* The result, once. */
static PyObject *take_result(pending *self, py_state *st)
{
    py_callback *cb = self->cb;
    PyObject *result;

    self->cb = NULL;
    result = py_callback_result(st, cb);
    py_callback_close(cb);
    return result;
}

static PyObject *pending_result(PyObject *self, PyObject *unused)
{
    pending *p = (pending *)self;

    (void)unused;
    /* DONE comes just after the notice was fired, perhaps on another thread. */
    while (p->cb != NULL && py_callback_state(p->cb) == PY_CB_BUSY) {
        py_cpu_relax();
    }
    if (p->cb == NULL || py_callback_state(p->cb) != PY_CB_DONE) {
        PyErr_SetString(PyExc_RuntimeError, "there is no result");
        return NULL;
    }
    return take_result(p, py_state_of_type(Py_TYPE(self)));
}

/* wait(timeout): the result. After a timeout it can be waited for again. */
static PyObject *pending_wait(PyObject *self, PyObject *timeout)
{
    pending *p = (pending *)self;
    py_state *st = py_state_of_type(Py_TYPE(self));
    py_worker *w = py_worker_current();
    py_callback *cb = p->cb;
    uint64_t until_ns;
    int how;

    if (py_callback_until(timeout, &until_ns) < 0) {
        return NULL;
    }
    if (cb == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "there is no result");
        return NULL;
    }
    p->cb = NULL; /* ours while we wait */
    py_callback_push(cb, w);
    how = py_callback_wait(cb, w, until_ns);
    py_callback_leave(cb, w);
    p->cb = cb;
    if (how == PY_WAIT_DONE) {
        return take_result(p, st);
    }
    py_callback_raise(st, how);
    return NULL;
}

/* notify(loop, callback): callback() on the loop when the result is there; False when it is there already. */
static PyObject *pending_notify(PyObject *self, PyObject *const *args, Py_ssize_t n)
{
    pending *p = (pending *)self;
    py_notice *notice;

    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "notify() takes a loop and a callback");
        return NULL;
    }
    if (p->cb == NULL) {
        Py_RETURN_FALSE;
    }
    if ((notice = py_notice_new(py_state_of_type(Py_TYPE(self)), args[0], args[1])) == NULL) {
        return NULL;
    }
    if (py_callback_notify(p->cb, notice)) {
        Py_RETURN_TRUE;
    }
    py_notice_drop(notice);
    Py_RETURN_FALSE;
}

static PyMethodDef pending_methods[] = {
    {"cancel", pending_cancel, METH_NOARGS, NULL},
    {"done", pending_done, METH_NOARGS, NULL},
    {"result", pending_result, METH_NOARGS, NULL},
    {"wait", pending_wait, METH_O, NULL},
    {"notify", (PyCFunction)(void (*)(void))pending_notify, METH_FASTCALL, NULL},
    {NULL},
};

static PyType_Slot pending_slots[] = {{Py_tp_dealloc, pending_dealloc}, {Py_tp_methods, pending_methods}, {0, NULL}};

static PyType_Spec pending_spec = {
    .name = "_erlang.Pending",
    .basicsize = sizeof(pending),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = pending_slots,
};

static PyMethodDef functions[] = {
    {"start", (PyCFunction)(void (*)(void))start, METH_FASTCALL, NULL},
    {NULL},
};

int py_callback_pending_init(PyObject *module, py_state *st)
{
    st->callback.pending_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &pending_spec, NULL);
    if (st->callback.pending_type == NULL || PyModule_AddType(module, st->callback.pending_type) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, functions);
}
