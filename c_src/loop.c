/* `_erlang.LoopBase`: the object, its attributes and its part of py_state. The attributes that asyncio's own loop code
 * reads and writes (_ready, _scheduled, _closed, _stopping, _debug, _thread_id, ...) are here with the same meaning, so
 * that code runs over this type unchanged. Attached. */
#include "loop_internal.h"
#include "poller_beam.h"

static PyObject *import_attr(const char *module, const char *name)
{
    PyObject *mod = PyImport_ImportModule(module);
    PyObject *attr = mod == NULL ? NULL : PyObject_GetAttrString(mod, name);
    Py_XDECREF(mod);
    return attr;
}

/* What the loop needs of asyncio, imported by the first loop and not with the module. */
static int import_asyncio(py_state *st)
{
    py_loop_part *part = &st->loop;
    PyObject *defaults;

    if (part->no_args != NULL)
        return 0;
    Py_XSETREF(part->asyncio_handle, import_attr("asyncio.events", "Handle"));
    Py_XSETREF(part->asyncio_timer_handle, import_attr("asyncio.events", "TimerHandle"));
    Py_XSETREF(part->tasks, PyImport_ImportModule("asyncio.tasks"));
    Py_XSETREF(part->eager_task_factory, import_attr("asyncio.tasks", "eager_task_factory"));
    Py_XSETREF(part->eager_task, import_attr("asyncio.tasks", "Task"));
    Py_XSETREF(part->futures, PyImport_ImportModule("asyncio.futures"));
    Py_XSETREF(part->format_callback, import_attr("asyncio.format_helpers", "_format_callback_source"));
    if (part->asyncio_handle == NULL || part->asyncio_timer_handle == NULL || part->tasks == NULL ||
        part->eager_task_factory == NULL || part->eager_task == NULL || part->futures == NULL ||
        part->format_callback == NULL)
        return -1;
    Py_XSETREF(part->asyncio_threadsafe_handle, import_attr("asyncio.events", "_ThreadSafeHandle"));
    if (part->asyncio_threadsafe_handle == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_AttributeError))
            return -1;
        PyErr_Clear();
    }
    defaults = PyObject_GetAttrString(part->format_callback, "__kwdefaults__");
    if (defaults == NULL)
        return -1;
    if (PyDict_Check(defaults) && PyDict_GetItemString(defaults, "debug") != NULL)
        Py_XSETREF(part->kw_debug, Py_BuildValue("(s)", "debug"));
    Py_DECREF(defaults);
    part->no_args = PyTuple_New(0);
    return part->no_args == NULL || PyErr_Occurred() ? -1 : 0;
}

static PyObject *loop_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    py_state *st = py_state_of_type(type);
    if (st == NULL || import_asyncio(st) < 0)
        return NULL;
    py_loop *loop = (py_loop *)type->tp_alloc(type, 0);
    if (loop == NULL)
        return NULL;
    loop->st = st;
    loop->selector = Py_NewRef(Py_None);
    loop->task_factory = Py_NewRef(Py_None);
    loop->clock_resolution = 1e-9;
    pthread_mutex_init(&loop->ended_lock, NULL);
    pthread_cond_init(&loop->ended, NULL);
    loop->ready = py_ready_new(st);
    if (loop->ready == NULL) {
        Py_DECREF(loop);
        return NULL;
    }
    py_loop_look_up_overrides(loop);
    return PY_LOOP_OBJ(loop);
}

static int loop_traverse(PyObject *self, visitproc visit, void *arg)
{
    py_loop *loop = (py_loop *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(loop->ready);
    Py_VISIT(loop->selector);
    Py_VISIT(loop->own_selector);
    Py_VISIT(loop->task_factory);
    Py_VISIT(loop->kwargs);
    Py_VISIT(loop->eager_kwargs);
    Py_VISIT(loop->driver_kwargs);
    for (size_t i = 0; i < loop->timers_len; i++)
        Py_VISIT(loop->timers[i].handle);
    return py_fds_traverse(loop, visit, arg);
}

static int loop_clear(PyObject *self)
{
    py_loop *loop = (py_loop *)self;
    loop->native = false;
    if (loop->ready != NULL)
        py_ready_drop(loop->ready);
    py_timers_drop(loop);
    py_fds_drop(loop);
    Py_CLEAR(loop->selector);
    Py_CLEAR(loop->own_selector);
    Py_CLEAR(loop->task_factory);
    py_loop_drop_kwargs(loop);
    return 0;
}

static void drop_events(py_loop *loop)
{
    while (loop->events != NULL) {
        py_event *event = loop->events;
        loop->events = event->next;
        event->drop(event);
    }
}

static void loop_dealloc(PyObject *self)
{
    py_loop *loop = (py_loop *)self;
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    if (loop->weakrefs != NULL)
        PyObject_ClearWeakRefs(self);
    (void)loop_clear(self);
    Py_CLEAR(loop->ready);
    if (loop->poller != NULL) {
        py_poller_close(loop->poller);
        py_poller_release(loop->poller);
        loop->poller = NULL;
    }
    drop_events(loop);
    py_loop_handle_drain(loop);
    pthread_mutex_destroy(&loop->ended_lock);
    pthread_cond_destroy(&loop->ended);
    type->tp_free(self);
    Py_DECREF(type);
}

/* _use_poller(selector, spin_us=-1): from now on `selector` stands for the poller that this makes. */
static PyObject *use_poller(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    py_loop *loop = (py_loop *)self;
    long spin_us = -1;
    py_beam *beam = NULL;
    if (nargs < 1 || nargs > 3 || loop->poller != NULL) {
        PyErr_SetString(PyExc_TypeError, "_use_poller(selector, spin_us=-1, beam=False), once");
        return NULL;
    }
    if (nargs >= 2) {
        spin_us = PyLong_AsLong(args[1]);
        if (spin_us == -1 && PyErr_Occurred())
            return NULL;
        if (spin_us > 1000000)
            spin_us = 1000000;
    }
    /* A forked child has no emulator. */
    if (nargs == 3 && args[2] == Py_True && !py_forked && (beam = py_beam_new()) == NULL)
        return PyErr_NoMemory();
    loop->poller = py_poller_new(beam == NULL ? NULL : &py_beam_ops, beam, (int)(spin_us < 0 ? -1 : spin_us));
    if (loop->poller == NULL) {
        if (beam != NULL)
            py_beam_ops.close(beam);
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    Py_XSETREF(loop->own_selector, Py_NewRef(args[0]));
    Py_XSETREF(loop->selector, Py_NewRef(args[0]));
    loop->native = true;
    return PyBool_FromLong(beam != NULL);
}

static PyObject *close_poller(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    loop->native = false;
    if (loop->poller != NULL)
        py_poller_close(loop->poller);
    drop_events(loop);
    py_fds_drop(loop);
    Py_RETURN_NONE;
}

static PyObject *is_running(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((py_loop *)self)->has_thread);
}

static PyObject *is_closed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((py_loop *)self)->closed);
}

static PyObject *get_debug(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return PyBool_FromLong(((py_loop *)self)->debug);
}

static PyObject *stop(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ((py_loop *)self)->stopping = true;
    Py_RETURN_NONE;
}

static PyObject *check_closed(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    return py_loop_check_closed((py_loop *)self) < 0 ? NULL : Py_NewRef(Py_None);
}

/* A bool attribute: any truth value in, True or False out. */
#define FLAG(name)                                                                                                     \
    static PyObject *flag_##name(PyObject *self, void *Py_UNUSED(closure))                                             \
    {                                                                                                                  \
        return PyBool_FromLong(((py_loop *)self)->name);                                                               \
    }                                                                                                                  \
    static int set_##name(PyObject *self, PyObject *value, void *Py_UNUSED(closure))                                   \
    {                                                                                                                  \
        int truth = value == NULL ? 0 : PyObject_IsTrue(value);                                                        \
        if (truth >= 0)                                                                                                \
            ((py_loop *)self)->name = truth;                                                                           \
        return truth < 0 ? -1 : 0;                                                                                     \
    }

FLAG(closed)
FLAG(stopping)
FLAG(debug)

static int set_closed_and_drop(PyObject *self, PyObject *value, void *closure)
{
    py_loop *loop = (py_loop *)self;
    if (set_closed(self, value, closure) < 0)
        return -1;
    if (loop->closed) { /* asyncio clears its queues right after setting this */
        py_ready_drop(loop->ready);
        py_timers_drop(loop);
        py_loop_drop_kwargs(loop);
    }
    return 0;
}

static PyObject *get_thread_id(PyObject *self, void *Py_UNUSED(closure))
{
    py_loop *loop = (py_loop *)self;
    return loop->has_thread ? PyLong_FromUnsignedLong(loop->thread_id) : Py_NewRef(Py_None);
}

static int set_thread_id(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    py_loop *loop = (py_loop *)self;
    if (value == NULL || Py_IsNone(value)) {
        loop->has_thread = false;
        return 0;
    }
    unsigned long id = PyLong_AsUnsignedLong(value);
    if (id == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    loop->thread_id = id;
    loop->has_thread = true;
    return 0;
}

static PyObject *get_ready(PyObject *self, void *Py_UNUSED(closure)) { return Py_NewRef(((py_loop *)self)->ready); }

static int set_ready(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    py_loop *loop = (py_loop *)self;
    PyObject *list = value == NULL ? PyList_New(0) : PySequence_List(value);
    if (list == NULL)
        return -1;
    py_ready_drop(loop->ready);
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(list); i++)
        rc = py_ready_push(loop->ready, PyList_GET_ITEM(list, i));
    Py_DECREF(list);
    return rc;
}

static PyObject *get_scheduled(PyObject *self, void *Py_UNUSED(closure)) { return py_timers_list((py_loop *)self); }

static int set_scheduled(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    py_loop *loop = (py_loop *)self;
    PyObject *list = value == NULL ? PyList_New(0) : PySequence_List(value);
    if (list == NULL)
        return -1;
    py_timers_drop(loop);
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(list); i++) {
        PyObject *when = PyObject_CallMethod(PyList_GET_ITEM(list, i), "when", NULL);
        double at = when == NULL ? -1 : PyFloat_AsDouble(when);
        Py_XDECREF(when);
        rc = PyErr_Occurred() ? -1 : py_timers_push(loop, at, PyList_GET_ITEM(list, i));
    }
    Py_DECREF(list);
    return rc;
}

static PyObject *get_selector(PyObject *self, void *Py_UNUSED(closure))
{
    PyObject *selector = ((py_loop *)self)->selector;
    return Py_NewRef(selector != NULL ? selector : Py_None);
}

static int set_selector(PyObject *self, PyObject *value, void *Py_UNUSED(closure))
{
    py_loop *loop = (py_loop *)self;
    Py_XSETREF(loop->selector, Py_NewRef(value != NULL ? value : Py_None));
    loop->native = loop->poller != NULL && !loop->closed && value == loop->own_selector;
    return 0;
}

static PyGetSetDef loop_getset[] = {
    {"_closed", flag_closed, set_closed_and_drop, NULL, NULL},
    {"_stopping", flag_stopping, set_stopping, NULL, NULL},
    {"_debug", flag_debug, set_debug, NULL, NULL},
    {"_thread_id", get_thread_id, set_thread_id, NULL, NULL},
    {"_ready", get_ready, set_ready, NULL, NULL},
    {"_scheduled", get_scheduled, set_scheduled, NULL, NULL},
    {"_selector", get_selector, set_selector, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef loop_members[] = {
    {"_task_factory", Py_T_OBJECT_EX, offsetof(py_loop, task_factory), 0, NULL},
    {"_timer_cancelled_count", Py_T_PYSSIZET, offsetof(py_loop, timers_cancelled), 0, NULL},
    {"_steps", Py_T_PYSSIZET, offsetof(py_loop, steps), Py_READONLY, NULL},
    {"_waiting", Py_T_BOOL, offsetof(py_loop, waiting), Py_READONLY, NULL},
    {"_clock_resolution", Py_T_DOUBLE, offsetof(py_loop, clock_resolution), 0, NULL},
    {"__weaklistoffset__", Py_T_PYSSIZET, offsetof(py_loop, weakrefs), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef loop_methods[] = {
    {"time", py_loop_time_meth, METH_NOARGS, PyDoc_STR("The loop's clock in seconds: time.monotonic().")},
    {"stop", stop, METH_NOARGS, PyDoc_STR("Make run_forever() return after this step.")},
    {"is_running", is_running, METH_NOARGS, PyDoc_STR("True while a thread runs the loop.")},
    {"is_closed", is_closed, METH_NOARGS, PyDoc_STR("True once close() was called.")},
    {"get_debug", get_debug, METH_NOARGS, PyDoc_STR("True in debug mode.")},
    {"_check_closed", check_closed, METH_NOARGS, NULL},
    {"_run_once", py_loop_run_once_meth, METH_NOARGS, NULL},
    {"_run_until_stopped", py_loop_run_until_stopped_meth, METH_NOARGS, NULL},
    {"_use_poller", _PyCFunction_CAST(use_poller), METH_FASTCALL, NULL},
    {"_close_poller", close_poller, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot loop_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The C part of erlang.ErlangEventLoop; of no use alone.")},
    {Py_tp_new, loop_new},
    {Py_tp_dealloc, loop_dealloc},
    {Py_tp_traverse, loop_traverse},
    {Py_tp_clear, loop_clear},
    {Py_tp_methods, loop_methods},
    {Py_tp_getset, loop_getset},
    {Py_tp_members, loop_members},
    {0, NULL},
};

static PyType_Spec loop_spec = {
    .name = "_erlang.LoopBase",
    .basicsize = sizeof(py_loop),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = loop_slots,
};

/* The methods of the other files. */
static int add_methods(PyTypeObject *type, PyMethodDef *defs)
{
    for (; defs->ml_name != NULL; defs++) {
        PyObject *descr = PyDescr_NewMethod(type, defs);
        int rc = descr == NULL ? -1 : PyObject_SetAttrString((PyObject *)type, defs->ml_name, descr);
        Py_XDECREF(descr);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* Every object of this part, for init, traverse and clear alike. */
#define LOOP_STRINGS(S)                                                                                                \
    S(str_cancelled, "_cancelled");                                                                                    \
    S(str_run, "_run");                                                                                                \
    S(str_scheduled, "_scheduled");                                                                                    \
    S(str_context, "context");                                                                                         \
    S(str_loop, "loop");                                                                                               \
    S(str_name, "name");                                                                                               \
    S(str_task, "Task");                                                                                               \
    S(str_future, "Future");                                                                                           \
    S(str_select, "select");                                                                                           \
    S(str_process_events, "_process_events");                                                                          \
    S(str_run_once, "_run_once");                                                                                      \
    S(str_time, "time");                                                                                               \
    S(str_call_exception_handler, "call_exception_handler");                                                           \
    S(str_call_at, "call_at");                                                                                         \
    S(str_check_thread, "_check_thread");                                                                              \
    S(str_check_callback, "_check_callback");                                                                          \
    S(str_callback, "callback");                                                                                       \
    S(str_delay, "delay");                                                                                             \
    S(str_when, "when");

#define LOOP_OBJECTS(O)                                                                                                \
    O(loop_type);                                                                                                      \
    O(handle_type);                                                                                                    \
    O(threadsafe_handle_type);                                                                                         \
    O(asyncio_threadsafe_handle);                                                                                      \
    O(timer_handle_type);                                                                                              \
    O(ready_type);                                                                                                     \
    O(asyncio_handle);                                                                                                 \
    O(asyncio_timer_handle);                                                                                           \
    O(tasks);                                                                                                          \
    O(eager_task_factory);                                                                                             \
    O(eager_task);                                                                                                     \
    O(futures);                                                                                                        \
    O(format_callback);                                                                                                \
    O(kw_debug);                                                                                                       \
    O(no_args);                                                                                                        \
    O(kw_context);

int py_loop_init(PyObject *module, py_state *st)
{
    py_loop_part *part = &st->loop;

#define INTERN(field, text)                                                                                            \
    if ((part->field = PyUnicode_InternFromString(text)) == NULL)                                                      \
    return -1
    LOOP_STRINGS(INTERN)
#undef INTERN
    if (py_ready_init(module, st) < 0 || py_loop_handle_init(module, st) < 0)
        return -1;
    part->loop_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &loop_spec, NULL);
    if (part->loop_type == NULL || add_methods(part->loop_type, py_loop_call_methods) < 0 ||
        add_methods(part->loop_type, py_loop_task_methods) < 0 || add_methods(part->loop_type, py_loop_fd_methods) < 0)
        return -1;
    return PyModule_AddType(module, part->loop_type);
}

int py_loop_traverse(py_state *st, visitproc visit, void *arg)
{
#define VISIT(field) Py_VISIT(st->loop.field)
    LOOP_OBJECTS(VISIT)
#undef VISIT
    return 0;
}

void py_loop_clear(py_state *st){
#define CLEAR(field) Py_CLEAR(st->loop.field)
#define CLEAR_STRING(field, text) Py_CLEAR(st->loop.field)
    LOOP_OBJECTS(CLEAR) LOOP_STRINGS(CLEAR_STRING)
#undef CLEAR
#undef CLEAR_STRING
}

py_loop *py_loop_of(py_state *st, PyObject *obj)
{
    if (PyObject_TypeCheck(obj, st->loop.loop_type))
        return (py_loop *)obj;
    PyErr_Format(PyExc_TypeError, "an ErlangEventLoop was expected, got %.100s", Py_TYPE(obj)->tp_name);
    return NULL;
}

PyObject *py_loop_object(py_loop *loop) { return PY_LOOP_OBJ(loop); }

py_state *py_loop_state(py_loop *loop) { return loop->st; }

py_poller *py_loop_poller(py_loop *loop) { return loop->native ? loop->poller : NULL; }

int py_loop_report(py_loop *loop, const char *message)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *exc = PyErr_GetRaisedException();
    PyObject *context = Py_BuildValue("{s:s,s:N}", "message", message, "exception", exc);
    PyObject *done = context == NULL ? NULL
                                     : PyObject_CallMethodOneArg(PY_LOOP_OBJ(loop),
                                                                 loop->st->loop.str_call_exception_handler, context);
    Py_XDECREF(context);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
