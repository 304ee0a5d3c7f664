/* The Driver type; see driver.h.
 *
 * An exception ends with `done`, which reports it; the task itself then returns None, as nobody would ever retrieve its
 * exception. Only a cancellation passes on to the task, so that it counts as cancelled. A KeyboardInterrupt or
 * SystemExit of the coroutine is its own end too, not the loop's. */
#include "driver.h"

#include "loop_internal.h"

typedef struct {
    PyObject_HEAD PyObject *coro;
    PyObject *iter; /* what is sent to: coro itself, or the iterator of another awaitable */
    py_loop *loop;  /* strong */
    py_driver_done done;
    void *arg;
} driver;

static void finish(driver *self, PyObject *result)
{
    py_driver_done done = self->done;
    if (done == NULL)
        return;
    self->done = NULL;
    done(self->arg, result);
}

/* The exception that is set ends the coroutine: reports it. True if it also ends the task. */
static bool failed(driver *self)
{
    PyObject *exc = PyErr_GetRaisedException();
    bool cancelled = PyErr_GivenExceptionMatches(exc, self->loop->st->loop.cancelled_error);
    PyErr_SetRaisedException(Py_NewRef(exc));
    finish(self, NULL);
    PyErr_Clear();
    if (cancelled)
        PyErr_SetRaisedException(exc);
    else
        Py_DECREF(exc);
    return cancelled;
}

static PySendResult driver_am_send(PyObject *op, PyObject *value, PyObject **result)
{
    driver *self = (driver *)op;
    if (self->iter == NULL) {
        *result = NULL;
        PyErr_SetString(PyExc_RuntimeError, "cannot reuse an ended coroutine");
        return PYGEN_ERROR;
    }
    PySendResult status = PyIter_Send(self->iter, value, result);
    switch (status) {
    case PYGEN_RETURN:
        finish(self, *result);
        return PYGEN_RETURN;
    case PYGEN_ERROR:
        if (failed(self))
            return PYGEN_ERROR;
        *result = Py_NewRef(Py_None);
        return PYGEN_RETURN;
    case PYGEN_NEXT:
        break;
    }
    return PYGEN_NEXT;
}

/* raise StopIteration(value), whatever the value is */
static PyObject *stop_iteration(PyObject *value)
{
    PyObject *stop = PyObject_CallOneArg(PyExc_StopIteration, value);
    if (stop != NULL)
        PyErr_SetRaisedException(stop);
    return NULL;
}

static PyObject *driver_send(PyObject *op, PyObject *value)
{
    PyObject *result;
    switch (driver_am_send(op, value, &result)) {
    case PYGEN_NEXT:
        return result;
    case PYGEN_RETURN:
        stop_iteration(result);
        Py_DECREF(result);
        return NULL;
    case PYGEN_ERROR:
        break;
    }
    return NULL;
}

static PyObject *driver_iternext(PyObject *op) { return driver_send(op, Py_None); }

static PyObject *driver_throw(PyObject *op, PyObject *args)
{
    driver *self = (driver *)op;
    PyObject *method = PyObject_GetAttrString(self->iter != NULL ? self->iter : self->coro, "throw");
    PyObject *result = NULL;

    if (method != NULL)
        result = PyObject_CallObject(method, args);
    else if (PyErr_ExceptionMatches(PyExc_AttributeError) && PyTuple_GET_SIZE(args) > 0) { /* a bare iterator */
        PyErr_Clear();
        PyObject *exc = PyTuple_GET_ITEM(args, 0);
        PyErr_SetObject(PyExceptionInstance_Check(exc) ? PyExceptionInstance_Class(exc) : exc,
                        PyExceptionInstance_Check(exc) ? exc : NULL);
    }
    Py_XDECREF(method);
    if (result != NULL)
        return result;
    if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        PyObject *stop = PyErr_GetRaisedException();
        finish(self, ((PyStopIterationObject *)stop)->value);
        PyErr_SetRaisedException(stop);
        return NULL;
    }
    return failed(self) ? NULL : stop_iteration(Py_None);
}

static PyObject *driver_close(PyObject *op, PyObject *Py_UNUSED(ignored))
{
    driver *self = (driver *)op;
    PyObject *done = NULL, *method = PyObject_GetAttrString(self->iter != NULL ? self->iter : self->coro, "close");
    if (method == NULL)
        PyErr_Clear();
    else if ((done = PyObject_CallNoArgs(method)) == NULL && self->done != NULL)
        (void)failed(self); /* its clean-up failed: that is how it ended */
    Py_XDECREF(method);
    if (self->done != NULL) {
        PyErr_SetNone(self->loop->st->loop.cancelled_error);
        finish(self, NULL);
        PyErr_Clear();
    }
    if (done == NULL && PyErr_Occurred())
        return NULL;
    Py_XDECREF(done);
    Py_RETURN_NONE;
}

static PyObject *driver_await(PyObject *op) { return Py_NewRef(op); }

/* cr_frame, cr_await, __name__ and the like are the coroutine's. */
static PyObject *driver_getattro(PyObject *op, PyObject *name)
{
    PyObject *attr = PyObject_GenericGetAttr(op, name);
    if (attr != NULL || ((driver *)op)->coro == NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return attr;
    PyErr_Clear();
    return PyObject_GetAttr(((driver *)op)->coro, name);
}

static PyObject *driver_repr(PyObject *op) { return PyObject_Repr(((driver *)op)->coro); }

static int driver_traverse(PyObject *op, visitproc visit, void *arg)
{
    driver *self = (driver *)op;
    Py_VISIT(Py_TYPE(op));
    Py_VISIT(self->coro);
    Py_VISIT(self->iter);
    Py_VISIT(self->loop);
    return 0;
}

/* Dropped before its end: the coroutine is closed, and whoever waits is told. */
static void driver_finalize(PyObject *op)
{
    driver *self = (driver *)op;
    if (self->done == NULL)
        return;
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *closed = driver_close(op, NULL);
    if (closed == NULL)
        PyErr_WriteUnraisable(op);
    Py_XDECREF(closed);
    PyErr_SetRaisedException(exc);
}

static int driver_clear(PyObject *op)
{
    driver *self = (driver *)op;
    Py_CLEAR(self->iter);
    Py_CLEAR(self->coro);
    Py_CLEAR(self->loop);
    return 0;
}

static void driver_dealloc(PyObject *op)
{
    PyTypeObject *type = Py_TYPE(op);
    if (((driver *)op)->done != NULL && PyObject_CallFinalizerFromDealloc(op) < 0)
        return;
    PyObject_GC_UnTrack(op);
    (void)driver_clear(op);
    PyObject_GC_Del(op);
    Py_DECREF(type);
}

static PyMethodDef driver_methods[] = {
    {"send", driver_send, METH_O, NULL},
    {"throw", driver_throw, METH_VARARGS, NULL},
    {"close", driver_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot driver_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A coroutine whose end is told to C.")},
    {Py_tp_dealloc, driver_dealloc},
    {Py_tp_finalize, driver_finalize},
    {Py_tp_traverse, driver_traverse},
    {Py_tp_clear, driver_clear},
    {Py_tp_getattro, driver_getattro},
    {Py_tp_repr, driver_repr},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, driver_iternext},
    {Py_tp_methods, driver_methods},
    {Py_am_await, driver_await},
    {Py_am_send, driver_am_send},
    {0, NULL},
};

static PyType_Spec driver_spec = {
    .name = "_erlang.Driver",
    .basicsize = sizeof(driver),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = driver_slots,
};

int py_driver_init(PyObject *module, py_state *st)
{
    st->loop.driver_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &driver_spec, NULL);
    return st->loop.driver_type == NULL ? -1 : 0;
}

/* So that asyncio takes a Driver for a coroutine. Once, by the first start. */
static int register_coroutine(py_loop_part *part)
{
    PyObject *abc = PyImport_ImportModule("collections.abc");
    PyObject *cls = abc == NULL ? NULL : PyObject_GetAttrString(abc, "Coroutine");
    PyObject *done = cls == NULL ? NULL : PyObject_CallMethod(cls, "register", "O", part->driver_type);
    Py_XDECREF(abc);
    Py_XDECREF(cls);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    part->kw_eager = Py_BuildValue("(sss)", "loop", "eager_start", "context");
    return part->kw_eager == NULL ? -1 : 0;
}

/* What PyIter_Send drives: a coroutine itself, anything else by its __await__. */
static PyObject *iterator_of(PyObject *awaitable)
{
    PyAsyncMethods *async = Py_TYPE(awaitable)->tp_as_async;
    if (PyCoro_CheckExact(awaitable) || (async != NULL && async->am_send != NULL && PyIter_Check(awaitable)))
        return Py_NewRef(awaitable);
    if (async != NULL && async->am_await != NULL)
        return async->am_await(awaitable);
    PyErr_Format(PyExc_TypeError, "an awaitable was expected, got %.200s", Py_TYPE(awaitable)->tp_name);
    return NULL;
}

PyObject *py_driver_start(py_loop *loop, PyObject *coro, PyObject *context, py_driver_done done, void *arg)
{
    py_loop_part *part = &loop->st->loop;
    PyObject *iter, *cls, *task;

    if (part->kw_eager == NULL && register_coroutine(part) < 0)
        return NULL;
    iter = iterator_of(coro);
    if (iter == NULL)
        return NULL;
    driver *self = PyObject_GC_New(driver, part->driver_type);
    if (self == NULL) {
        Py_DECREF(iter);
        return NULL;
    }
    self->coro = Py_NewRef(coro);
    self->iter = iter;
    self->loop = (py_loop *)Py_NewRef(PY_LOOP_OBJ(loop));
    self->done = done;
    self->arg = arg;
    PyObject_GC_Track(self);

    cls = PyObject_GetAttr(part->tasks, part->str_task);
    PyObject *argv[] = {(PyObject *)self, PY_LOOP_OBJ(loop), Py_True, context != NULL ? context : Py_None};
    task = cls == NULL ? NULL : PyObject_Vectorcall(cls, argv, 1, part->kw_eager);
    Py_XDECREF(cls);
    if (task == NULL) {
        bool told = self->done == NULL;
        self->done = NULL;
        if (told) { /* it has run to its end; only the task object failed */
            PyErr_Clear();
            task = Py_NewRef(Py_None);
        }
    }
    Py_DECREF(self);
    return task;
}
