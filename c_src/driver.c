/* Drivers and requests on the loop's thread. See driver.h.
 *
 * The driver is what the task runs: its am_send passes each step to the coroutine, within py_async_enter and _leave, so
 * that a step which does not end can be interrupted. When the coroutine returns or raises the result is sent before the
 * task knows of it. An exception was delivered to the caller, so the task ends without it: nobody is there to retrieve
 * it from the task, and asyncio would log it as lost. A cancellation stays one. */
#include "driver.h"

#include "async.h"
#include "atoms.h"
#include "call.h"
#include "context.h"
#include "convert.h"
#include "gather.h"
#include "output.h"
#include "state.h"
#include "watchdog.h"

#define CALLER_CHECK_NS UINT64_C(20000000)
#define REQ_OF_EVENT(e) ((py_request *)((char *)(e)-offsetof(py_request, event)))

typedef struct {
    PyObject_HEAD py_state *st;
    PyObject *coro;
    PyObject *task;    /* NULL once the coroutine ended; a cycle until then */
    py_request *req;   /* NULL once its result was delivered */
    py_gather *gather; /* where to, if not to the caller */
    unsigned index;
} py_driver;

/* ---- results ---- */

ERL_NIF_TERM py_driver_error(py_state *st, py_request *req, ErlNifEnv *env)
{
    if (atomic_load(&req->stop) == PY_STOP_NONE && PyErr_ExceptionMatches(st->driver.cancelled_error)) {
        PyErr_Clear();
        return py_request_stop_term(
            env, py_async_is_leaving(&req->context->async) ? PY_STOP_STOPPED : PY_STOP_CANCELLED, false);
    }
    return py_call_error(st, req, env);
}

/* The value, or for NULL the exception that is set, goes to the caller. The request stays to be retired. */
static void reply(py_state *st, py_request *req, PyObject *value)
{
    ERL_NIF_TERM term;

    if (value != NULL && py_py_to_term(st, req->env, value, 0, &term) == 0) {
        term = enif_make_tuple2(req->env, py_atoms.ok, term);
    } else {
        term = py_driver_error(st, req, req->env);
    }
    if (py_request_finish(req)) {
        py_request_reply(req, NULL, req->env, term);
    }
}

static void deliver(py_driver *d, PyObject *value)
{
    py_request *req = d->req;

    d->req = NULL;
    if (d->gather != NULL) {
        py_gather_result(d->gather, d->index, value);
    } else {
        reply(d->st, req, value);
    }
}

/* ---- the coroutine ---- */

/* Ends a step: whether it was nested in one of the same request, the outer one does what else is to do. */
static PySendResult end_step(py_driver *d, py_request *before, bool nested, PySendResult status, PyObject **out)
{
    py_request *req = d->req;
    py_async *async = &req->context->async;
    py_gather *gather = d->gather;

    if (status == PYGEN_NEXT) {
        if (!nested) {
            py_async_leave(async, req, before, NULL);
        }
        return status;
    }
    if (PY_UNLIKELY(req->open_line)) {
        py_output_flush(d->st);
    }
    if (status == PYGEN_ERROR) {
        PyObject *exc = PyErr_GetRaisedException();
        bool cancelled = PyErr_GivenExceptionMatches(exc, d->st->driver.cancelled_error);

        PyErr_SetRaisedException(Py_NewRef(exc));
        deliver(d, NULL);
        if (cancelled) {
            PyErr_SetRaisedException(exc);
        } else {
            Py_DECREF(exc);
            *out = Py_NewRef(Py_None);
            status = PYGEN_RETURN;
        }
    } else {
        deliver(d, *out);
    }
    if (!nested) {
        PyObject *exc = PyErr_GetRaisedException();

        Py_INCREF(d); /* retiring gives up the request's hold on it */
        Py_CLEAR(d->task);
        if (gather != NULL) {
            py_gather_step(gather, before);
        } else {
            py_async_retire(async, req, before);
        }
        Py_DECREF(d);
        PyErr_SetRaisedException(exc);
    }
    return status;
}

static inline bool begin_step(py_driver *d, py_request **before)
{
    py_async *async = &d->req->context->async;

    if (atomic_load_explicit(&async->current, memory_order_relaxed) == d->req) {
        return true;
    }
    *before = py_async_enter(async, d->req);
    return false;
}

static PySendResult driver_send(PyObject *self, PyObject *arg, PyObject **out)
{
    py_driver *d = (py_driver *)self;
    py_request *before = NULL;
    bool nested;

    if (PY_UNLIKELY(d->req == NULL)) {
        return PyIter_Send(d->coro, arg, out);
    }
    nested = begin_step(d, &before);
    PySendResult status = PyIter_Send(d->coro, arg, out);
    return d->req == NULL ? status : end_step(d, before, nested, status, out);
}

/* The same for a method's result: NULL with StopIteration is a return. */
static PyObject *step_by_method(py_driver *d, const char *name, PyObject *const *args, Py_ssize_t nargs)
{
    py_request *before = NULL;
    PyObject *value = NULL, *method, *stop;
    PySendResult status;
    bool open = d->req != NULL, nested = open && begin_step(d, &before);

    method = PyObject_GetAttrString(d->coro, name);
    value = method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, NULL);
    Py_XDECREF(method);
    if (!open || d->req == NULL) {
        return value;
    }
    if (value != NULL) {
        status = PYGEN_NEXT;
    } else if (PyErr_ExceptionMatches(PyExc_StopIteration)) {
        stop = PyErr_GetRaisedException();
        value = Py_NewRef(((PyStopIterationObject *)stop)->value);
        Py_DECREF(stop);
        status = PYGEN_RETURN;
    } else {
        status = PYGEN_ERROR;
    }
    status = end_step(d, before, nested, status, &value);
    if (status == PYGEN_RETURN) {
        stop = PyObject_CallOneArg(PyExc_StopIteration, value);
        Py_CLEAR(value);
        if (stop != NULL) {
            PyErr_SetRaisedException(stop);
        }
    }
    return status == PYGEN_NEXT ? value : NULL;
}

static PyObject *driver_send_meth(PyObject *self, PyObject *arg)
{
    return step_by_method((py_driver *)self, "send", &arg, 1);
}

static PyObject *driver_throw(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return step_by_method((py_driver *)self, "throw", args, nargs);
}

static PyObject *driver_next(PyObject *self)
{
    PyObject *none = Py_None;

    return step_by_method((py_driver *)self, "send", &none, 1);
}

static PyObject *driver_close(PyObject *self, PyObject *ignored)
{
    py_driver *d = (py_driver *)self;
    PyObject *closed = PyObject_CallMethod(d->coro, "close", NULL);

    (void)ignored;
    if (d->req != NULL) { /* somebody closed it under its task: it will never end by itself */
        PyObject *exc = PyErr_GetRaisedException();
        py_request *before = NULL, *req = d->req;
        py_gather *gather = d->gather;
        bool nested = begin_step(d, &before);

        PyErr_SetNone(d->st->driver.cancelled_error);
        deliver(d, NULL);
        Py_CLEAR(d->task);
        if (!nested && gather != NULL) {
            py_gather_step(gather, before);
        } else if (!nested) {
            py_async_retire(&req->context->async, req, before);
        }
        PyErr_SetRaisedException(exc);
    }
    return closed;
}

static PyObject *driver_await(PyObject *self) { return Py_NewRef(self); }

/* What is not a driver's is its coroutine's: cr_frame, cr_await, __qualname__, ... */
static PyObject *driver_getattro(PyObject *self, PyObject *name)
{
    PyObject *value = PyObject_GenericGetAttr(self, name);

    if (value == NULL && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        value = PyObject_GetAttr(((py_driver *)self)->coro, name);
    }
    return value;
}

static PyObject *driver_get_name(PyObject *self, void *which)
{
    return PyObject_GetAttrString(((py_driver *)self)->coro, which);
}

static int driver_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_driver *)self)->coro);
    Py_VISIT(((py_driver *)self)->task);
    return 0;
}

static int driver_clear(PyObject *self)
{
    Py_CLEAR(((py_driver *)self)->coro);
    Py_CLEAR(((py_driver *)self)->task);
    return 0;
}

static void driver_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    (void)driver_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef driver_methods[] = {
    {"send", driver_send_meth, METH_O, NULL},
    {"throw", _PyCFunction_CAST(driver_throw), METH_FASTCALL, NULL},
    {"close", driver_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef driver_getset[] = {
    {"__name__", driver_get_name, NULL, NULL, (void *)"__name__"},
    {"__qualname__", driver_get_name, NULL, NULL, (void *)"__qualname__"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyType_Slot driver_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The coroutine of a request from Erlang, around the one that was called.")},
    {Py_tp_dealloc, driver_dealloc},
    {Py_tp_traverse, driver_traverse},
    {Py_tp_clear, driver_clear},
    {Py_tp_getattro, driver_getattro},
    {Py_tp_iternext, driver_next},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_methods, driver_methods},
    {Py_tp_getset, driver_getset},
    {Py_am_await, driver_await},
    {Py_am_send, driver_send},
    {0, NULL},
};

static PyType_Spec driver_spec = {
    .name = "_erlang.Driver",
    .basicsize = sizeof(py_driver),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = driver_slots,
};

/* ---- starting ---- */

/* asyncio.Task(driver, loop=loop, context=context, eager_start=True). */
static PyObject *start_task(py_state *st, py_loop *loop, PyObject *driver, PyObject *context)
{
    PyObject *kwargs = Py_XNewRef(py_loop_driver_kwargs(loop)), *name = st->loop.str_context, *task = NULL;
    PyObject *args = kwargs == NULL ? NULL : PyTuple_Pack(1, driver);

    if (args != NULL && PyDict_SetItem(kwargs, name, context) == 0) {
        task = PyObject_Call(st->loop.eager_task, args, kwargs);
        PyObject *exc = PyErr_GetRaisedException();
        if (PyDict_SetItem(kwargs, name, Py_None) < 0) {
            PyErr_Clear();
        }
        PyErr_SetRaisedException(exc);
    }
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return task;
}

PyObject *py_driver_start(py_state *st, py_loop *loop, py_request *req, py_gather *gather, unsigned index,
                          PyObject *coro, PyObject *context)
{
    py_driver_part *part = &st->driver;
    py_driver *d = (py_driver *)part->type->tp_alloc(part->type, 0);
    PyObject *task;

    if (d == NULL) {
        return NULL;
    }
    d->st = st;
    d->coro = Py_NewRef(coro);
    d->req = req;
    d->gather = gather;
    d->index = index;
    task = start_task(st, loop, (PyObject *)d, context);
    if (task == NULL) {
        if (d->req == NULL) { /* it ended, and then asyncio failed: there is nobody to tell */
            PyErr_WriteUnraisable((PyObject *)d);
        } else {
            d->req = NULL;
            Py_CLEAR(d);
        }
    } else if (d->req != NULL) {
        d->task = task;
    } else {
        Py_DECREF(task);
    }
    return (PyObject *)d;
}

bool py_driver_is_done(PyObject *driver) { return ((py_driver *)driver)->req == NULL; }

void py_driver_detach(PyObject *driver)
{
    ((py_driver *)driver)->req = NULL;
    Py_CLEAR(((py_driver *)driver)->task);
}

void py_driver_cancel(PyObject *driver)
{
    py_driver *d = (py_driver *)driver;
    PyObject *task = Py_XNewRef(d->task);
    PyObject *done = task == NULL ? NULL : PyObject_CallMethodNoArgs(task, d->st->driver.str_cancel);

    if (task != NULL && done == NULL) {
        PyErr_WriteUnraisable(task);
    }
    Py_XDECREF(done);
    Py_XDECREF(task);
}

PyObject *py_driver_coroutine(py_state *st, PyObject *value)
{
    if (PY_LIKELY(PyCoro_CheckExact(value))) {
        return Py_NewRef(value);
    }
    if (PyAsyncGen_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "the function returned an async generator: use py:stream");
        return NULL;
    }
    if (Py_TYPE(value)->tp_as_async == NULL || Py_TYPE(value)->tp_as_async->am_await == NULL) {
        return Py_NewRef(Py_None);
    }
    return PyObject_CallOneArg(st->driver.wrap, value);
}

PyObject *py_driver_enter(py_state *st, py_request *req)
{
    PyObject *context = PyContext_CopyCurrent(), *origin, *token;

    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return NULL;
    }
    origin = py_origin_new(st, req);
    token = origin == NULL ? NULL : PyContextVar_Set(st->origin.var, origin);
    Py_XDECREF(origin);
    if (token == NULL) {
        PyObject *exc = PyErr_GetRaisedException();
        (void)PyContext_Exit(context);
        PyErr_SetRaisedException(exc);
        Py_CLEAR(context);
    }
    Py_XDECREF(token);
    return context;
}

/* The request calls its target: a result, or a coroutine that goes on. True when it is over. */
static bool run_call(py_state *st, py_loop *loop, py_request *req, PyObject **driver)
{
    PyObject *context = py_driver_enter(st, req), *value = NULL, *coro = NULL;

    if (context != NULL) {
        value = req->start;
        req->start = NULL;
        if (value == NULL) {
            value = py_call_value(req->context, req);
        }
        if (PY_UNLIKELY(req->open_line)) {
            py_output_flush(st);
        }
        if (PyContext_Exit(context) < 0) {
            Py_CLEAR(value);
        }
    }
    coro = value == NULL ? NULL : py_driver_coroutine(st, value);
    if (coro == NULL) {
        reply(st, req, NULL);
    } else if (coro == Py_None) {
        reply(st, req, value);
    } else if ((*driver = py_driver_start(st, loop, req, NULL, 0, coro, context)) == NULL) {
        reply(st, req, NULL);
    }
    Py_XDECREF(coro);
    Py_XDECREF(value);
    Py_XDECREF(context);
    return *driver == NULL || py_driver_is_done(*driver);
}

int py_driver_run(py_event *event, py_loop *loop)
{
    py_request *req = REQ_OF_EVENT(event), *before;
    py_async *async = &req->context->async;
    PyObject *driver = NULL;

    /* A caller that died while its request waited wants nothing any more. */
    if (PY_UNLIKELY(atomic_load_explicit(&py_watchdog_now, memory_order_relaxed) >
                    req->submitted_ns + CALLER_CHECK_NS) &&
        !(req->flags & PY_REQ_NO_REPLY) && !enif_is_process_alive(NULL, &req->caller)) {
        py_request_finish(req);
    }
    if (PY_UNLIKELY(atomic_load_explicit(&async->closed, memory_order_relaxed)) && py_request_finish(req)) {
        py_request_reply_stop(req, NULL, PY_STOP_STOPPED, false);
    }
    if (!py_request_start(req)) {
        py_async_retire(async, req, NULL);
        return 0;
    }
    if (req->flags & PY_REQ_GATHER) {
        py_gather_run(req, loop);
        return 0;
    }
    before = py_async_enter(async, req);
    if (run_call(py_loop_state(loop), loop, req, &driver)) {
        py_async_retire(async, req, before);
    } else {
        py_async_leave(async, req, before, driver);
    }
    Py_XDECREF(driver);
    return 0;
}

/* ---- the part of the module ---- */

static PyObject *import_attr(const char *module, const char *name)
{
    PyObject *mod = PyImport_ImportModule(module);
    PyObject *attr = mod == NULL ? NULL : PyObject_GetAttrString(mod, name);

    Py_XDECREF(mod);
    return attr;
}

int py_driver_prepare(py_state *st)
{
    py_driver_part *part = &st->driver;
    PyObject *abc, *done;

    if (part->wrap != NULL) {
        return 0;
    }
    abc = import_attr("collections.abc", "Coroutine");
    done = abc == NULL ? NULL : PyObject_CallMethod(abc, "register", "O", part->type);
    Py_XDECREF(abc);
    if (done == NULL) {
        return -1;
    }
    Py_DECREF(done);
    Py_XSETREF(part->cancelled_error, import_attr("asyncio", "CancelledError"));
    if (part->cancelled_error == NULL) {
        return -1;
    }
    part->wrap = import_attr("erlang._context_loop", "wrap");
    return part->wrap == NULL ? -1 : 0;
}

int py_driver_init(PyObject *module, py_state *st)
{
    st->driver.str_cancel = PyUnicode_InternFromString("cancel");
    st->driver.type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &driver_spec, NULL);
    if (st->driver.str_cancel == NULL || st->driver.type == NULL) {
        return -1;
    }
    return PyModule_AddType(module, st->driver.type);
}

#define DRIVER_OBJECTS(O) O(type) O(cancelled_error) O(wrap) O(str_cancel)

int py_driver_traverse(py_state *st, visitproc visit, void *arg)
{
#define VISIT(field) Py_VISIT(st->driver.field);
    DRIVER_OBJECTS(VISIT)
#undef VISIT
    return 0;
}

void py_driver_clear(py_state *st)
{
#define CLEAR(field) Py_CLEAR(st->driver.field);
    DRIVER_OBJECTS(CLEAR)
#undef CLEAR
}
