/* create_future, create_task, and the keyword arguments of asyncio's classes, which take nearly all by keyword: dicts
 * are kept in the loop, because making one costs about what the rest of a call does. Loop's thread, attached. */
#include "loop_internal.h"

PyObject *py_loop_driver_kwargs(py_loop *loop)
{
    if (loop->driver_kwargs == NULL)
        loop->driver_kwargs = Py_BuildValue("{sOsOsO}", "loop", loop, "context", Py_None, "eager_start", Py_True);
    return loop->driver_kwargs;
}

static PyObject *loop_kwargs(py_loop *loop)
{
    if (loop->kwargs == NULL)
        loop->kwargs = Py_BuildValue("{sO}", "loop", loop);
    return loop->kwargs;
}

static PyObject *eager_kwargs(py_loop *loop)
{
    if (loop->eager_kwargs == NULL)
        loop->eager_kwargs = Py_BuildValue("{sOsO}", "loop", loop, "eager_start", Py_True);
    return loop->eager_kwargs;
}

void py_loop_drop_kwargs(py_loop *loop)
{
    Py_CLEAR(loop->kwargs);
    Py_CLEAR(loop->eager_kwargs);
    Py_CLEAR(loop->driver_kwargs);
}

static PyObject *create_future(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    PyObject *kwargs = Py_XNewRef(loop_kwargs(loop));
    PyObject *cls = kwargs == NULL ? NULL : PyObject_GetAttr(loop->st->loop.futures, loop->st->loop.str_future);
    PyObject *future = cls == NULL ? NULL : PyObject_Call(cls, loop->st->loop.no_args, kwargs);
    Py_XDECREF(cls);
    Py_XDECREF(kwargs);
    return future;
}

/* Only name and context among the keywords, and how many of them are not None, which is their default. -1 for others.
 */
static Py_ssize_t count_keywords(py_loop_part *part, PyObject *const *values, PyObject *kwnames)
{
    Py_ssize_t n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames), given = 0;

    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(kwnames, i);
        if (PyUnicode_Compare(name, part->str_name) != 0 && PyUnicode_Compare(name, part->str_context) != 0)
            return -1;
        given += !Py_IsNone(values[i]);
    }
    return given;
}

/* `kept` with what else is given: a new reference. */
static PyObject *with_keywords(PyObject *kept, PyObject *const *values, PyObject *kwnames, Py_ssize_t given)
{
    if (kept == NULL || given == 0)
        return Py_XNewRef(kept);
    PyObject *kwargs = PyDict_Copy(kept);
    for (Py_ssize_t i = 0; kwargs != NULL && i < PyTuple_GET_SIZE(kwnames); i++) {
        if (PyDict_SetItem(kwargs, PyTuple_GET_ITEM(kwnames, i), values[i]) < 0)
            Py_CLEAR(kwargs);
    }
    return kwargs;
}

/* As asyncio's, for tasks without a factory and for asyncio.eager_task_factory, which only passes on what it is given.
 */
static PyObject *create_task(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames)
{
    py_loop *loop = (py_loop *)self;
    py_loop_part *part = &loop->st->loop;
    bool plain = Py_IsNone(loop->task_factory), eager = loop->task_factory == part->eager_task_factory;
    Py_ssize_t given = nargs == 1 ? count_keywords(part, args + 1, kwnames) : -1;
    PyObject *kwargs, *cls, *argv, *task = NULL;

    if (given < 0 || loop->debug || !(plain || eager))
        return py_loop_call_super(loop, "create_task", args, nargs, kwnames);
    if (py_loop_check_closed(loop) < 0)
        return NULL;
    kwargs = with_keywords(plain ? loop_kwargs(loop) : eager_kwargs(loop), args + 1, kwnames, given);
    cls = plain ? PyObject_GetAttr(part->tasks, part->str_task) : Py_NewRef(part->eager_task);
    argv = PyTuple_Pack(1, args[0]);
    if (kwargs != NULL && cls != NULL && argv != NULL)
        task = PyObject_Call(cls, argv, kwargs);
    Py_XDECREF(kwargs);
    Py_XDECREF(cls);
    Py_XDECREF(argv);
    return task;
}

PyMethodDef py_loop_task_methods[] = {
    {"create_future", create_future, METH_NOARGS, PyDoc_STR("A new asyncio.Future of this loop.")},
    {"create_task", _PyCFunction_CAST(create_task), METH_FASTCALL | METH_KEYWORDS,
     PyDoc_STR("create_task(coro, *, name=None, context=None)\n--\n\nRun a coroutine as a task of this loop.")},
    {NULL, NULL, 0, NULL},
};
