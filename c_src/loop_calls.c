/* call_soon, call_later, call_at, call_soon_threadsafe, create_future, create_task: asyncio's, in C while the loop is
 * not in debug mode and nothing is customised, else by asyncio's own code. Attached. */
#include "loop_internal.h"

#include <math.h>

/* asyncio's own handle, for debug mode. Called from C it takes the stack of whoever called us: nothing to cut off. */
static PyObject *stock_handle(py_loop *loop, PyObject *cls, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *context)
{
    PyObject *tuple = PyTuple_New(nargs);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < nargs; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    PyObject *argv[] = {callback, tuple, PY_LOOP_OBJ(loop), context != NULL ? context : Py_None};
    PyObject *handle = PyObject_Vectorcall(cls, argv, 4, NULL);
    Py_DECREF(tuple);
    return handle;
}

PyObject *py_loop_make_handle(py_loop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *context)
{
    py_loop_part *part = &loop->st->loop;
    if (PY_LIKELY(!loop->debug))
        return (PyObject *)py_loop_handle_new(loop, part->handle_type, callback, args, nargs, context);
    return stock_handle(loop, part->asyncio_handle, callback, args, nargs, context);
}

PyObject *py_loop_call_super(py_loop *loop, const char *name, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames)
{
    PyObject *argv[] = {(PyObject *)loop->st->loop.loop_type, PY_LOOP_OBJ(loop)};
    PyObject *super = PyObject_Vectorcall((PyObject *)&PySuper_Type, argv, 2, NULL);
    PyObject *method = super == NULL ? NULL : PyObject_GetAttrString(super, name);
    PyObject *result = method == NULL ? NULL : PyObject_Vectorcall(method, args, (size_t)nargs, kwnames);
    Py_XDECREF(super);
    Py_XDECREF(method);
    return result;
}

/* The parsed (name..., *args, context=None): up to two leading parameters, which may also come by name. */
typedef struct {
    PyObject *lead[2];
    PyObject *const *rest;
    Py_ssize_t nrest;
    PyObject *context;
} call_args;

static int parse_keywords(py_loop *loop, const char *function, PyObject *const *names, int nlead,
                          PyObject *const *values, PyObject *kwnames, call_args *out)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kwnames); i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_Compare(name, loop->st->loop.str_context) == 0) {
            out->context = Py_IsNone(values[i]) ? NULL : values[i];
#ifndef Py_GIL_DISABLED
            if (PyTuple_GET_SIZE(kwnames) == 1) /* Tasks come with the same ("context",) again and again */
                Py_XSETREF(loop->st->loop.kw_context, Py_NewRef(kwnames));
#endif
            continue;
        }
        int k = 0;
        while (k < nlead && PyUnicode_Compare(name, names[k]) != 0)
            k++;
        if (k == nlead) {
            PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", function, name);
            return -1;
        }
        if (out->lead[k] != NULL) {
            PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", function, name);
            return -1;
        }
        out->lead[k] = values[i];
    }
    return 0;
}

static inline int parse(py_loop *loop, const char *function, PyObject *const *names, int nlead, PyObject *const *args,
                        Py_ssize_t nargs, PyObject *kwnames, call_args *out)
{
    int given = nargs < nlead ? (int)nargs : nlead;
    out->lead[0] = out->lead[1] = out->context = NULL;
    for (int i = 0; i < given; i++)
        out->lead[i] = args[i];
    out->rest = args + given;
    out->nrest = nargs - given;
    if (kwnames != NULL) {
        if (PY_LIKELY(kwnames == loop->st->loop.kw_context))
            out->context = Py_IsNone(args[nargs]) ? NULL : args[nargs];
        else if (parse_keywords(loop, function, names, nlead, args + nargs, kwnames, out) < 0)
            return -1;
    }
    for (int i = 0; i < nlead; i++) {
        if (out->lead[i] == NULL) {
            PyErr_Format(PyExc_TypeError, "%s() missing a required argument: '%U'", function, names[i]);
            return -1;
        }
    }
    return 0;
}

int py_loop_check_closed(py_loop *loop)
{
    if (PY_LIKELY(!loop->closed))
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "Event loop is closed");
    return -1;
}

static int check_debug(py_loop *loop, PyObject *callback, const char *function, bool any_thread)
{
    py_loop_part *part = &loop->st->loop;
    PyObject *self = PY_LOOP_OBJ(loop);
    PyObject *done = NULL;
    if (!any_thread) {
        done = PyObject_CallMethodNoArgs(self, part->str_check_thread);
        if (done == NULL)
            return -1;
        Py_DECREF(done);
    }
    PyObject *name = PyUnicode_FromString(function);
    if (name == NULL)
        return -1;
    done = PyObject_CallMethodObjArgs(self, part->str_check_callback, callback, name, NULL);
    Py_DECREF(name);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *queue(py_loop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    PyObject *handle = py_loop_make_handle(loop, callback, args, nargs, context);
    if (handle != NULL && py_ready_push(loop->ready, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

int py_loop_call_soon(py_loop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs, PyObject *context)
{
    if (py_loop_check_closed(loop) < 0)
        return -1;
    PyObject *handle = queue(loop, callback, args, nargs, context);
    Py_XDECREF(handle);
    return handle == NULL ? -1 : 0;
}

static PyObject *call_soon(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_loop *loop = (py_loop *)self;
    call_args call;
    if (parse(loop, "call_soon", &loop->st->loop.str_callback, 1, args, nargs, kwnames, &call) < 0 ||
        py_loop_check_closed(loop) < 0)
        return NULL;
    if (PY_UNLIKELY(loop->debug) && check_debug(loop, call.lead[0], "call_soon", false) < 0)
        return NULL;
    return queue(loop, call.lead[0], call.rest, call.nrest, call.context);
}

/* The traceback of the class below ends with its own __init__, which its caller takes off. */
static int cut_own_frame(PyObject *handle)
{
    PyObject *stack = PyObject_GetAttrString(handle, "_source_traceback");
    int rc = stack == NULL ? -1 : 0;
    if (rc == 0 && !Py_IsNone(stack))
        rc = PySequence_DelItem(stack, -1);
    Py_XDECREF(stack);
    return rc;
}

/* From 3.14 on they are of a class of their own. */
static PyObject *make_threadsafe_handle(py_loop *loop, const call_args *call)
{
    py_loop_part *part = &loop->st->loop;
    if (part->asyncio_threadsafe_handle == NULL)
        return py_loop_make_handle(loop, call->lead[0], call->rest, call->nrest, call->context);
    if (PY_UNLIKELY(loop->debug)) {
        PyObject *handle =
            stock_handle(loop, part->asyncio_threadsafe_handle, call->lead[0], call->rest, call->nrest, call->context);
        if (handle != NULL && cut_own_frame(handle) < 0)
            Py_CLEAR(handle);
        return handle;
    }
    return (PyObject *)py_loop_handle_new(loop, part->threadsafe_handle_type, call->lead[0], call->rest, call->nrest,
                                          call->context);
}

static PyObject *call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_loop *loop = (py_loop *)self;
    call_args call;
    if (parse(loop, "call_soon_threadsafe", &loop->st->loop.str_callback, 1, args, nargs, kwnames, &call) < 0 ||
        py_loop_check_closed(loop) < 0)
        return NULL;
    if (PY_UNLIKELY(loop->debug) && check_debug(loop, call.lead[0], "call_soon_threadsafe", true) < 0)
        return NULL;
    PyObject *handle = make_threadsafe_handle(loop, &call);
    if (handle == NULL || py_ready_push(loop->ready, handle) < 0) {
        Py_XDECREF(handle);
        return NULL;
    }
    if (PY_LIKELY(loop->native)) {
        py_poller_wake(loop->poller);
    } else {
        PyObject *done = PyObject_CallMethod(self, "_write_to_self", NULL);
        if (done == NULL)
            Py_CLEAR(handle);
        Py_XDECREF(done);
    }
    return handle;
}

/* _call_soon(callback, args, context): for code of asyncio's that calls it. */
static PyObject *call_soon_private(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyTuple_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "_call_soon(callback, args, context)");
        return NULL;
    }
    return queue((py_loop *)self, args[0], &PyTuple_GET_ITEM(args[1], 0), PyTuple_GET_SIZE(args[1]),
                 Py_IsNone(args[2]) ? NULL : args[2]);
}

static PyObject *arm_debug(py_loop *loop, PyObject *when, const call_args *call)
{
    if (check_debug(loop, call->lead[1], "call_at", false) < 0)
        return NULL;
    PyObject *tuple = PyTuple_New(call->nrest);
    if (tuple == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < call->nrest; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(call->rest[i]));
    PyObject *argv[] = {when, call->lead[1], tuple, PY_LOOP_OBJ(loop), call->context != NULL ? call->context : Py_None};
    PyObject *handle = PyObject_Vectorcall(loop->st->loop.asyncio_timer_handle, argv, 5, NULL);
    Py_DECREF(tuple);
    return handle;
}

static PyObject *arm(py_loop *loop, double when, PyObject *when_obj, const call_args *call)
{
    PyObject *handle;
    if (PY_UNLIKELY(isnan(when))) {
        PyErr_SetString(PyExc_ValueError, "the time of a call cannot be NaN");
        return NULL;
    }
    if (PY_UNLIKELY(loop->debug)) {
        when_obj = when_obj != NULL ? Py_NewRef(when_obj) : PyFloat_FromDouble(when);
        handle = when_obj == NULL ? NULL : arm_debug(loop, when_obj, call);
        Py_XDECREF(when_obj);
    } else {
        handle = (PyObject *)py_loop_handle_new(loop, loop->st->loop.timer_handle_type, call->lead[1], call->rest,
                                                call->nrest, call->context);
        if (handle != NULL)
            ((py_loop_handle *)handle)->when = when;
    }
    if (handle != NULL && py_timers_push(loop, when, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

PyObject *py_loop_call_at_meth(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_loop *loop = (py_loop *)self;
    PyObject *names[] = {loop->st->loop.str_when, loop->st->loop.str_callback};
    call_args call;
    if (parse(loop, "call_at", names, 2, args, nargs, kwnames, &call) < 0)
        return NULL;
    if (Py_IsNone(call.lead[0])) {
        PyErr_SetString(PyExc_TypeError, "when cannot be None");
        return NULL;
    }
    double when = PyFloat_AsDouble(call.lead[0]);
    if (when == -1.0 && PyErr_Occurred())
        return NULL;
    return py_loop_check_closed(loop) < 0 ? NULL : arm(loop, when, call.lead[0], &call);
}

/* A subclass has its own call_at or time: asyncio's way round. */
static PyObject *call_later_by_call_at(py_loop *loop, const call_args *call)
{
    double now;
    PyObject *result = NULL, *args = NULL, *kwargs = NULL, *when = NULL;
    PyObject *method = PyObject_GetAttr(PY_LOOP_OBJ(loop), loop->st->loop.str_call_at);
    if (method == NULL || py_loop_now(loop, &now) < 0)
        goto out;
    PyObject *now_obj = PyFloat_FromDouble(now);
    when = now_obj == NULL ? NULL : PyNumber_Add(now_obj, call->lead[0]);
    Py_XDECREF(now_obj);
    args = when == NULL ? NULL : PyTuple_New(2 + call->nrest);
    if (args == NULL)
        goto out;
    PyTuple_SET_ITEM(args, 0, Py_NewRef(when));
    PyTuple_SET_ITEM(args, 1, Py_NewRef(call->lead[1]));
    for (Py_ssize_t i = 0; i < call->nrest; i++)
        PyTuple_SET_ITEM(args, 2 + i, Py_NewRef(call->rest[i]));
    kwargs = Py_BuildValue("{O:O}", loop->st->loop.str_context, call->context != NULL ? call->context : Py_None);
    if (kwargs != NULL)
        result = PyObject_Call(method, args, kwargs);
out:
    Py_XDECREF(method);
    Py_XDECREF(when);
    Py_XDECREF(args);
    Py_XDECREF(kwargs);
    return result;
}

static PyObject *call_later(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_loop *loop = (py_loop *)self;
    PyObject *names[] = {loop->st->loop.str_delay, loop->st->loop.str_callback};
    call_args call;
    if (parse(loop, "call_later", names, 2, args, nargs, kwnames, &call) < 0)
        return NULL;
    if (Py_IsNone(call.lead[0])) {
        PyErr_SetString(PyExc_TypeError, "delay must not be None");
        return NULL;
    }
    if (PY_UNLIKELY(!loop->own_call_at || !loop->own_time))
        return call_later_by_call_at(loop, &call);
    double delay = PyFloat_AsDouble(call.lead[0]);
    if (delay == -1.0 && PyErr_Occurred())
        return NULL;
    return py_loop_check_closed(loop) < 0 ? NULL : arm(loop, py_loop_time() + delay, NULL, &call);
}

static PyObject *timer_handle_cancelled(PyObject *self, PyObject *handle)
{
    py_loop *loop = (py_loop *)self;
    PyObject *scheduled = PyObject_GetAttr(handle, loop->st->loop.str_scheduled);
    int is = scheduled == NULL ? -1 : PyObject_IsTrue(scheduled);
    Py_XDECREF(scheduled);
    if (is < 0)
        return NULL;
    loop->timers_cancelled += is;
    Py_RETURN_NONE;
}

static PyObject *add_callback(PyObject *self, PyObject *handle)
{
    py_loop *loop = (py_loop *)self;
    int cancelled = py_loop_handle_is_cancelled(loop, handle);
    if (cancelled < 0 || (cancelled == 0 && py_ready_push(loop->ready, handle) < 0))
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *write_to_self(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    if (!loop->native)
        return py_loop_call_super(loop, "_write_to_self", NULL, 0, NULL);
    py_poller_wake(loop->poller);
    Py_RETURN_NONE;
}

#define FAST_KW METH_FASTCALL | METH_KEYWORDS

PyMethodDef py_loop_call_methods[] = {
    {"call_soon", _PyCFunction_CAST(call_soon), FAST_KW,
     PyDoc_STR("call_soon(callback, *args, context=None)\n--\n\nCall the callback in the next step of the loop.")},
    {"call_soon_threadsafe", _PyCFunction_CAST(call_soon_threadsafe), FAST_KW,
     PyDoc_STR("call_soon_threadsafe(callback, *args, context=None)\n--\n\nLike call_soon(), from any thread.")},
    {"call_later", _PyCFunction_CAST(call_later), FAST_KW,
     PyDoc_STR("call_later(delay, callback, *args, context=None)\n--\n\nCall the callback in delay seconds.")},
    {"call_at", _PyCFunction_CAST(py_loop_call_at_meth), FAST_KW,
     PyDoc_STR("call_at(when, callback, *args, context=None)\n--\n\nCall the callback at a time of loop.time().")},
    {"_call_soon", _PyCFunction_CAST(call_soon_private), METH_FASTCALL, NULL},
    {"_add_callback", add_callback, METH_O, NULL},
    {"_timer_handle_cancelled", timer_handle_cancelled, METH_O, NULL},
    {"_write_to_self", write_to_self, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
