/* Handle and TimerHandle; see loop_handle.h. */
#include "loop_handle.h"

#include "compat.h"
#include "loop_internal.h"

py_loop_handle *py_loop_handle_new(py_loop *loop, PyTypeObject *type, PyObject *callback, PyObject *const *args,
                                   Py_ssize_t nargs, PyObject *context)
{
    PyObject *tuple = NULL;
    py_loop_handle *handle;

    if (nargs > PY_HANDLE_INLINE) {
        tuple = PyTuple_New(nargs);
        if (tuple == NULL)
            return NULL;
        for (Py_ssize_t i = 0; i < nargs; i++)
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
        nargs = 0;
    }
    context = context != NULL ? Py_NewRef(context) : PyContext_CopyCurrent();
    if (context == NULL)
        goto err;
    if (loop->nfree > 0) {
        handle = loop->free_handles[--loop->nfree];
        PyTypeObject *old = Py_TYPE(handle);
        (void)PyObject_Init((PyObject *)handle, type);
        Py_DECREF(old);
    } else {
        handle = PyObject_GC_New(py_loop_handle, type);
        if (handle == NULL)
            goto err;
    }
    handle->loop = (py_loop *)Py_NewRef(PY_LOOP_OBJ(loop));
    handle->callback = Py_NewRef(callback);
    handle->context = context;
    handle->args = tuple;
    for (Py_ssize_t i = 0; i < nargs; i++)
        handle->argv[i] = Py_NewRef(args[i]);
    handle->nargs = (uint8_t)nargs;
    handle->repr = handle->weakrefs = NULL;
    handle->when = 0;
    handle->cancelled = handle->scheduled = false;
    atomic_init(&handle->running, false);
    handle->threadsafe = type == loop->st->loop.threadsafe_handle_type;
    PyObject_GC_Track(handle);
    return handle;

err:
    Py_XDECREF(tuple);
    Py_XDECREF(context);
    return NULL;
}

void py_loop_handle_drain(py_loop *loop)
{
    while (loop->nfree > 0) {
        py_loop_handle *handle = loop->free_handles[--loop->nfree];
        PyTypeObject *type = Py_TYPE(handle);
        PyObject_GC_Del(handle);
        Py_DECREF(type);
    }
}

static void drop_call(py_loop_handle *handle)
{
    Py_CLEAR(handle->callback);
    Py_CLEAR(handle->args);
    while (handle->nargs > 0) {
        handle->nargs--;
        Py_CLEAR(handle->argv[handle->nargs]);
    }
}

static int handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    py_loop_handle *handle = (py_loop_handle *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(handle->loop);
    Py_VISIT(handle->callback);
    Py_VISIT(handle->context);
    Py_VISIT(handle->args);
    for (int i = 0; i < handle->nargs; i++)
        Py_VISIT(handle->argv[i]);
    return 0;
}

static int handle_clear(PyObject *self)
{
    py_loop_handle *handle = (py_loop_handle *)self;
    drop_call(handle);
    Py_CLEAR(handle->context);
    Py_CLEAR(handle->repr);
    Py_CLEAR(handle->loop);
    return 0;
}

static void handle_dealloc(PyObject *self)
{
    py_loop_handle *handle = (py_loop_handle *)self;
    PyTypeObject *type = Py_TYPE(self);
    py_loop *loop = handle->loop;

    PyObject_GC_UnTrack(self);
    if (handle->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    handle->loop = NULL;
    drop_call(handle);
    Py_CLEAR(handle->context);
    Py_CLEAR(handle->repr);
#ifndef Py_GIL_DISABLED
    if (loop != NULL && loop->nfree < PY_LOOP_FREE_HANDLES) {
        loop->free_handles[loop->nfree++] = handle; /* keeps its type */
        Py_DECREF(PY_LOOP_OBJ(loop));
        return;
    }
#endif
    PyObject_GC_Del(self);
    Py_DECREF(type);
    Py_XDECREF((PyObject *)loop);
}

static PyObject *args_tuple(py_loop_handle *handle)
{
    if (handle->args == NULL) {
        PyObject *tuple = PyTuple_New(handle->nargs);
        if (tuple == NULL)
            return NULL;
        for (int i = 0; i < handle->nargs; i++)
            PyTuple_SET_ITEM(tuple, i, Py_NewRef(handle->argv[i]));
        return tuple;
    }
    return Py_NewRef(handle->args);
}

/* The message and the call of loop.call_exception_handler for the exception `exc` of a callback. */
static int report(py_loop_handle *handle, PyObject *exc)
{
    py_loop *loop = handle->loop;
    py_loop_part *part = &loop->st->loop;
    PyObject *callback = handle->cancelled || handle->callback == NULL ? Py_None : handle->callback;
    PyObject *args = NULL, *source = NULL, *context = NULL, *done = NULL;

    args = callback == Py_None ? Py_NewRef(Py_None) : args_tuple(handle);
    if (args == NULL)
        goto out;
    PyObject *argv[] = {callback, args, loop->debug ? Py_True : Py_False};
    source = PyObject_Vectorcall(part->format_callback, argv, 2, part->kw_debug); /* kw_debug NULL: 3.12 has no such */
    if (source == NULL)
        goto out;
    context = Py_BuildValue("{s:N,s:O,s:O}", "message", PyUnicode_FromFormat("Exception in callback %S", source),
                            "exception", exc, "handle", (PyObject *)handle);
    if (context == NULL)
        goto out;
    done = PyObject_CallMethodOneArg(PY_LOOP_OBJ(loop), part->str_call_exception_handler, context);
out:
    Py_XDECREF(args);
    Py_XDECREF(source);
    Py_XDECREF(context);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    return 0;
}

static int run_failed(py_loop_handle *handle)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *exc = PyErr_GetRaisedException();
    int rc = report(handle, exc);
    Py_DECREF(exc);
    return rc;
}

/* The callback begins: from now on cancel() leaves it and its arguments alone. False if it was cancelled meanwhile. */
static inline bool begin(py_loop_handle *handle)
{
    bool begun;
    Py_BEGIN_CRITICAL_SECTION(handle);
    begun = !(handle->threadsafe && handle->cancelled);
    if (begun) {
        if (handle->threadsafe)
            handle->runner = PyThread_get_thread_ident();
        atomic_store_explicit(&handle->running, true, memory_order_relaxed);
    }
    Py_END_CRITICAL_SECTION();
    return begun;
}

static inline void end(py_loop_handle *handle, bool was_running)
{
    if (PY_LIKELY(!handle->threadsafe)) {
        atomic_store_explicit(&handle->running, was_running, memory_order_relaxed);
    } else {
        py_loop *loop = handle->loop;
        atomic_store(&handle->running, was_running);
        if (atomic_load(&loop->ended_waiters) > 0) {
            pthread_mutex_lock(&loop->ended_lock);
            pthread_cond_broadcast(&loop->ended);
            pthread_mutex_unlock(&loop->ended_lock);
        }
    }
    if (handle->cancelled && !was_running)
        drop_call(handle);
}

/* asyncio holds a lock of the handle while its callback runs: other threads wait here until it has ended. */
static void wait_until_ended(py_loop_handle *handle)
{
    py_loop *loop = handle->loop;
    if (!handle->threadsafe || loop == NULL || !atomic_load(&handle->running) ||
        handle->runner == PyThread_get_thread_ident())
        return;
    Py_INCREF(PY_LOOP_OBJ(loop));
    atomic_fetch_add(&loop->ended_waiters, 1);
    PyThreadState *tstate = PyEval_SaveThread();
    pthread_mutex_lock(&loop->ended_lock);
    while (atomic_load(&handle->running))
        pthread_cond_wait(&loop->ended, &loop->ended_lock);
    pthread_mutex_unlock(&loop->ended_lock);
    PyEval_RestoreThread(tstate);
    atomic_fetch_sub(&loop->ended_waiters, 1);
    Py_DECREF(PY_LOOP_OBJ(loop));
}

int py_loop_handle_run(py_loop_handle *handle)
{
    PyObject *result = NULL;
    PyObject *context = handle->context;
    bool was_running = atomic_load_explicit(&handle->running, memory_order_relaxed);
    int rc = 0;

    if (!begin(handle))
        return 0;
    if (PY_UNLIKELY(handle->callback == NULL || context == NULL)) {
        PyErr_SetString(PyExc_TypeError, "'NoneType' object is not callable");
        rc = run_failed(handle);
        end(handle, was_running);
        return rc;
    }
    if (PyContext_Enter(context) < 0) {
        rc = run_failed(handle);
        end(handle, was_running);
        return rc;
    }
    if (handle->args == NULL) {
        result =
            PyObject_Vectorcall(handle->callback, handle->argv, handle->nargs | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
    } else {
        result = PyObject_Call(handle->callback, handle->args, NULL);
    }
    if (PY_UNLIKELY(result == NULL)) {
        PyObject *exc = PyErr_GetRaisedException();
        (void)PyContext_Exit(context);
        PyErr_SetRaisedException(exc);
        rc = run_failed(handle);
    } else {
        Py_DECREF(result);
        if (PyContext_Exit(context) < 0)
            rc = run_failed(handle);
    }
    end(handle, was_running);
    return rc;
}

int py_loop_handle_cancel(py_loop_handle *handle)
{
    PyObject *repr = NULL;

    wait_until_ended(handle);
    if (handle->cancelled)
        return 0;
    if (handle->loop != NULL && handle->loop->debug && (repr = PyObject_Repr((PyObject *)handle)) == NULL)
        return -1;
    bool drop;
    Py_BEGIN_CRITICAL_SECTION(handle);
    if (handle->loop != NULL && handle->scheduled && !handle->cancelled)
        handle->loop->timers_cancelled++;
    if (repr != NULL)
        Py_XSETREF(handle->repr, repr);
    handle->cancelled = true;
    drop = !atomic_load_explicit(&handle->running, memory_order_relaxed);
    Py_END_CRITICAL_SECTION();
    if (drop)
        drop_call(handle);
    return 0;
}

bool py_loop_handle_is_own(py_loop *loop, PyObject *handle)
{
    py_loop_part *part = &loop->st->loop;
    return Py_IS_TYPE(handle, part->handle_type) || Py_IS_TYPE(handle, part->timer_handle_type) ||
           Py_IS_TYPE(handle, part->threadsafe_handle_type);
}

int py_loop_handle_is_cancelled(py_loop *loop, PyObject *handle)
{
    if (py_loop_handle_is_own(loop, handle))
        return ((py_loop_handle *)handle)->cancelled;
    PyObject *cancelled = PyObject_GetAttr(handle, loop->st->loop.str_cancelled);
    if (cancelled == NULL)
        return -1;
    int rc = PyObject_IsTrue(cancelled);
    Py_DECREF(cancelled);
    return rc;
}

/* The stock class that a handle answers for. */
static PyObject *stock_class(PyObject *self)
{
    py_state *st = py_state_of_type(Py_TYPE(self));
    if (st == NULL)
        return NULL;
    py_loop_part *part = &st->loop;
    if (Py_IS_TYPE(self, part->timer_handle_type))
        return part->asyncio_timer_handle;
    return Py_IS_TYPE(self, part->threadsafe_handle_type) ? part->asyncio_threadsafe_handle : part->asyncio_handle;
}

static PyObject *call_stock(PyObject *self, const char *name)
{
    PyObject *cls = stock_class(self);
    if (cls == NULL)
        return NULL;
    return PyObject_CallMethod(cls, name, "O", self);
}

static PyObject *handle_repr(PyObject *self) { return call_stock(self, "__repr__"); }

static PyObject *handle_repr_info(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return call_stock(self, "_repr_info");
}

static PyObject *handle_cancel(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return py_loop_handle_cancel((py_loop_handle *)self) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *handle_cancelled(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    wait_until_ended((py_loop_handle *)self);
    return PyBool_FromLong(((py_loop_handle *)self)->cancelled);
}

static PyObject *handle_run(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop_handle *handle = (py_loop_handle *)self;
    if (handle->loop == NULL)
        Py_RETURN_NONE;
    return py_loop_handle_run(handle) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *handle_get_context(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *context = ((py_loop_handle *)self)->context;
    return Py_NewRef(context != NULL ? context : Py_None);
}

static PyObject *handle_when(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(((py_loop_handle *)self)->when);
}

static PyObject *get_class(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *cls = stock_class(self);
    return Py_XNewRef(cls);
}

static PyObject *get_callback(PyObject *self, void *Py_UNUSED(closure))
{
    py_loop_handle *handle = (py_loop_handle *)self;
    return Py_NewRef(handle->cancelled || handle->callback == NULL ? Py_None : handle->callback);
}

static PyObject *get_args(PyObject *self, void *Py_UNUSED(closure))
{
    py_loop_handle *handle = (py_loop_handle *)self;
    return handle->cancelled || handle->callback == NULL ? Py_NewRef(Py_None) : args_tuple(handle);
}

static PyObject *get_cancelled(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((py_loop_handle *)self)->cancelled);
}

static PyObject *get_scheduled(PyObject *self, void *Py_UNUSED(closure))
{
    return PyBool_FromLong(((py_loop_handle *)self)->scheduled);
}

static PyObject *get_context(PyObject *self, void *Py_UNUSED(closure)) { return handle_get_context(self, NULL); }

static PyObject *get_loop(PyObject *self, void *Py_UNUSED(closure))
{
    py_loop *loop = ((py_loop_handle *)self)->loop;
    return Py_NewRef(loop != NULL ? PY_LOOP_OBJ(loop) : Py_None);
}

static PyObject *get_repr(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *repr = ((py_loop_handle *)self)->repr;
    return Py_NewRef(repr != NULL ? repr : Py_None);
}

static PyObject *get_none(PyObject *Py_UNUSED(self), void *Py_UNUSED(closure)) { Py_RETURN_NONE; }

static PyObject *get_when(PyObject *self, void *Py_UNUSED(closure)) { return handle_when(self, NULL); }

static PyObject *timer_compare(PyObject *self, PyObject *other, int op)
{
    PyObject *stock = stock_class(self);
    if (stock == NULL)
        return NULL;
    int is = PyObject_IsInstance(other, stock);
    if (is <= 0)
        return is < 0 ? NULL : Py_NewRef(Py_NotImplemented);
    PyObject *theirs = PyObject_CallMethod(other, "when", NULL);
    if (theirs == NULL)
        return NULL;
    double b = PyFloat_AsDouble(theirs);
    Py_DECREF(theirs);
    if (b == -1.0 && PyErr_Occurred())
        return NULL;
    double a = ((py_loop_handle *)self)->when;
    switch (op) {
    case Py_LT:
        return PyBool_FromLong(a < b);
    case Py_GT:
        return PyBool_FromLong(a > b);
    default:
        break;
    }
    /* equal: one moment and one call, as asyncio defines it */
    bool equal = a == b;
    static const char *const fields[] = {"_callback", "_args", "_cancelled"};
    for (size_t i = 0; equal && i < 3; i++) {
        PyObject *mine = PyObject_GetAttrString(self, fields[i]);
        PyObject *its = mine == NULL ? NULL : PyObject_GetAttrString(other, fields[i]);
        int same = its == NULL ? -1 : PyObject_RichCompareBool(mine, its, Py_EQ);
        Py_XDECREF(mine);
        Py_XDECREF(its);
        if (same < 0)
            return NULL;
        equal = same;
    }
    switch (op) {
    case Py_LE:
        return PyBool_FromLong(a < b || equal);
    case Py_GE:
        return PyBool_FromLong(a > b || equal);
    case Py_NE:
        return PyBool_FromLong(!equal);
    default:
        return PyBool_FromLong(equal);
    }
}

static Py_hash_t timer_hash(PyObject *self)
{
    PyObject *when = handle_when(self, NULL);
    if (when == NULL)
        return -1;
    Py_hash_t hash = PyObject_Hash(when);
    Py_DECREF(when);
    return hash;
}

#define HANDLE_METHODS                                                                                                 \
    {"cancel", handle_cancel, METH_NOARGS, PyDoc_STR("Cancel the callback; once it has run this does nothing.")},      \
        {"cancelled", handle_cancelled, METH_NOARGS, PyDoc_STR("True if the callback was cancelled.")},                \
        {"get_context", handle_get_context, METH_NOARGS, PyDoc_STR("The contextvars.Context the callback runs in.")},  \
        {"_run", handle_run, METH_NOARGS, NULL},                                                                       \
    {                                                                                                                  \
        "_repr_info", handle_repr_info, METH_NOARGS, NULL                                                              \
    }

static PyMethodDef handle_methods[] = {HANDLE_METHODS, {NULL, NULL, 0, NULL}};

static PyMethodDef timer_methods[] = {
    HANDLE_METHODS,
    {"when", handle_when, METH_NOARGS, PyDoc_STR("The time of the call, in seconds of loop.time().")},
    {NULL, NULL, 0, NULL},
};

#define HANDLE_GETSET                                                                                                  \
    {"__class__", get_class, NULL, NULL, NULL}, {"_callback", get_callback, NULL, NULL, NULL},                         \
        {"_args", get_args, NULL, NULL, NULL}, {"_cancelled", get_cancelled, NULL, NULL, NULL},                        \
        {"_context", get_context, NULL, NULL, NULL}, {"_loop", get_loop, NULL, NULL, NULL},                            \
        {"_repr", get_repr, NULL, NULL, NULL},                                                                         \
    {                                                                                                                  \
        "_source_traceback", get_none, NULL, NULL, NULL                                                                \
    }

static PyGetSetDef handle_getset[] = {HANDLE_GETSET, {NULL, NULL, NULL, NULL, NULL}};

static PyGetSetDef timer_getset[] = {
    HANDLE_GETSET,
    {"_when", get_when, NULL, NULL, NULL},
    {"_scheduled", get_scheduled, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef handle_members[] = {
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_loop_handle, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A callback that waits in an event loop.")},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_repr, handle_repr},
    {Py_tp_methods, handle_methods},
    {Py_tp_getset, handle_getset},
    {Py_tp_members, handle_members},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A callback that waits in an event loop for its time.")},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {Py_tp_repr, handle_repr},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {Py_tp_members, handle_members},
    {Py_tp_richcompare, timer_compare},
    {Py_tp_hash, timer_hash},
    {0, NULL},
};

enum {
    HANDLE_FLAGS =
        Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE,
};

static PyType_Spec handle_spec = {
    .name = "_erlang.Handle",
    .basicsize = sizeof(py_loop_handle),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

static PyType_Spec threadsafe_spec = {
    .name = "_erlang._ThreadSafeHandle",
    .basicsize = sizeof(py_loop_handle),
    .flags = HANDLE_FLAGS,
    .slots = handle_slots,
};

static PyType_Spec timer_spec = {
    .name = "_erlang.TimerHandle",
    .basicsize = sizeof(py_loop_handle),
    .flags = HANDLE_FLAGS,
    .slots = timer_slots,
};

int py_loop_handle_init(PyObject *module, py_state *st)
{
    py_loop_part *part = &st->loop;
    part->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &handle_spec, NULL);
    part->timer_handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &timer_spec, NULL);
    part->threadsafe_handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &threadsafe_spec, NULL);
    return part->handle_type == NULL || part->timer_handle_type == NULL || part->threadsafe_handle_type == NULL ? -1
                                                                                                                : 0;
}
