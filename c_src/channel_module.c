/* _erlang.ChannelBase, Python's end of a channel. Attached; a channel may be used from any number of threads at once.
 */
#include "atoms.h"
#include "callback.h"
#include "channel.h"
#include "context.h"
#include "convert.h"
#include "request.h"
#include "state.h"
#include "worker.h"

typedef struct {
    PyObject_HEAD py_channel *ch; /* kept; never NULL after __new__ */
} channel;

static PyObject *channel_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"capacity", "max_bytes", "handle", NULL};
    py_state *st = py_state_of_type(type);
    Py_ssize_t capacity = 1024, max_bytes = 16 << 20;
    PyObject *handle = Py_None;
    channel *self;
    py_channel *ch = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|nnO", names, &capacity, &max_bytes, &handle)) {
        return NULL;
    }
    if (handle == Py_None) {
        if (capacity < 1 || max_bytes < 1) {
            return PyErr_Format(PyExc_ValueError, "capacity and max_bytes must be positive");
        }
        if ((ch = py_channel_new((size_t)capacity, (size_t)max_bytes)) == NULL) {
            return PyErr_NoMemory();
        }
    } else {
        void *found = NULL;
        if (!Py_IS_TYPE(handle, st->types.reference) ||
            !enif_get_resource(((py_handle *)handle)->env, ((py_handle *)handle)->term, py_channel_rtype, &found)) {
            return PyErr_Format(PyExc_TypeError, "not the reference of a channel");
        }
        ch = found;
        enif_keep_resource(ch);
    }
    self = (channel *)type->tp_alloc(type, 0);
    if (self == NULL) {
        enif_release_resource(ch);
        return NULL;
    }
    self->ch = ch;
    return (PyObject *)self;
}

static void channel_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);

    PyObject_GC_UnTrack(self);
    if (((channel *)self)->ch != NULL && !py_forked) {
        enif_release_resource(((channel *)self)->ch);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static int channel_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0;
}

static py_state *state_of(PyObject *self) { return py_state_of_type(Py_TYPE(self)); }

/* Waits until the channel calls, the time is over or the request is to stop. 0, or -1 with an exception. */
static int wait_sync(PyObject *self, int queue, bool sender, uint64_t until_ns)
{
    py_channel *ch = ((channel *)self)->ch;
    py_worker *w = py_worker_current();
    py_callback *cb;
    int how = PY_WAIT_DONE;

    if (until_ns == 0) {
        py_callback_raise(state_of(self), PY_WAIT_TIMEOUT);
        return -1;
    }
    if ((cb = py_callback_new()) == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    py_callback_push(cb, w);
    py_callback_open(cb);
    if (py_channel_wait(ch, queue, sender, cb->id)) {
        how = py_callback_wait(cb, w, until_ns);
    }
    if (how != PY_WAIT_DONE) {
        py_channel_forget(ch, cb->id);
    }
    py_callback_cancel(cb);
    py_callback_leave(cb, w);
    py_callback_close(cb);
    if (how != PY_WAIT_DONE) {
        py_callback_raise(state_of(self), how);
        return -1;
    }
    return 0;
}

static PyObject *raise_closed(void)
{
    PyErr_SetString(PyExc_EOFError, "the channel is closed");
    return NULL;
}

/* The next item as an object: 1; 0 when there is none yet; -1 with an exception; -2 closed, without one. */
static int pop(PyObject *self, PyObject **out)
{
    py_channel *ch = ((channel *)self)->ch;
    py_channel_item *item;

    switch (py_channel_pop(ch, PY_CHANNEL_TO_PYTHON, 1, &item, NULL)) {
    case PY_CHANNEL_OK:
        *out = py_term_to_py(state_of(self), item->env, item->term, 0);
        py_channel_item_put(ch, item);
        return *out == NULL ? -1 : 1;
    case PY_CHANNEL_WAIT:
        return 0;
    default:
        return -2;
    }
}

/* A new reference; NULL with an exception, or without one when the channel is closed. */
static PyObject *receive(PyObject *self, uint64_t until_ns)
{
    PyObject *value = NULL;
    int rc;

    while ((rc = pop(self, &value)) == 0) {
        if (wait_sync(self, PY_CHANNEL_TO_PYTHON, false, until_ns) < 0) {
            return NULL;
        }
    }
    return value;
}

static int timeout_arg(PyObject *args, PyObject *kwargs, const char *format, char **names, PyObject **value,
                       uint64_t *until_ns)
{
    PyObject *timeout = NULL;
    int ok = value != NULL ? PyArg_ParseTupleAndKeywords(args, kwargs, format, names, value, &timeout)
                           : PyArg_ParseTupleAndKeywords(args, kwargs, format, names, &timeout);

    return ok ? py_callback_until(timeout, until_ns) : -1;
}

static PyObject *channel_recv(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    PyObject *value;
    uint64_t until_ns;

    if (timeout_arg(args, kwargs, "|O", names, NULL, &until_ns) < 0) {
        return NULL;
    }
    value = receive(self, until_ns);
    return value != NULL || PyErr_Occurred() ? value : raise_closed();
}

static PyObject *channel_next(PyObject *self) { return receive(self, PY_FOREVER); }

/* 1 sent, 0 full, -1 with an exception. The item is the caller's until it is sent. */
static int push(PyObject *self, py_channel_item *item)
{
    switch (py_channel_push(((channel *)self)->ch, PY_CHANNEL_TO_ERLANG, item, NULL)) {
    case PY_CHANNEL_OK:
        return 1;
    case PY_CHANNEL_WAIT:
        return 0;
    default:
        raise_closed();
        return -1;
    }
}

static py_channel_item *make_item(PyObject *self, PyObject *value)
{
    py_channel *ch = ((channel *)self)->ch;
    py_channel_item *item;

    if (py_forked) {
        PyErr_SetString(PyExc_RuntimeError, "a child of os.fork() has no Erlang to send to");
        return NULL;
    }
    if ((item = py_channel_item_get(ch)) == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    if (py_py_to_term(state_of(self), item->env, value, 0, &item->term) < 0) {
        py_channel_item_put(ch, item);
        return NULL;
    }
    return item;
}

static PyObject *channel_send(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"", "timeout", NULL};
    PyObject *value;
    py_channel_item *item;
    uint64_t until_ns;
    int rc;

    if (timeout_arg(args, kwargs, "O|O", names, &value, &until_ns) < 0 || (item = make_item(self, value)) == NULL) {
        return NULL;
    }
    while ((rc = push(self, item)) == 0 && (rc = wait_sync(self, PY_CHANNEL_TO_ERLANG, true, until_ns)) == 0) {
    }
    if (rc < 0) {
        py_channel_item_put(((channel *)self)->ch, item);
        return NULL;
    }
    Py_RETURN_NONE;
}

/* _try_send(value) -> whether there was room */
static PyObject *channel_try_send(PyObject *self, PyObject *value)
{
    py_channel_item *item = make_item(self, value);
    int rc;

    if (item == NULL) {
        return NULL;
    }
    rc = push(self, item);
    if (rc <= 0) {
        py_channel_item_put(((channel *)self)->ch, item);
    }
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

/* _try_recv() -> (value,) or None; EOFError when closed */
static PyObject *channel_try_recv(PyObject *self, PyObject *unused)
{
    PyObject *value = NULL, *pair;
    int rc = pop(self, &value);

    (void)unused;
    if (rc == 0) {
        Py_RETURN_NONE;
    }
    if (rc < 0) {
        return rc == -2 ? raise_closed() : NULL;
    }
    pair = PyTuple_Pack(1, value);
    Py_DECREF(value);
    return pair;
}

/* _wait(sender) -> Pending, or None when there is no need to wait */
static PyObject *channel_wait(PyObject *self, PyObject *sender)
{
    int is_sender = PyObject_IsTrue(sender);
    PyObject *pending;
    uint64_t id;

    if (is_sender < 0 || (pending = py_callback_pending_open(state_of(self), &id)) == NULL) {
        return NULL;
    }
    if (py_channel_wait(((channel *)self)->ch, is_sender ? PY_CHANNEL_TO_ERLANG : PY_CHANNEL_TO_PYTHON, is_sender != 0,
                        id)) {
        return pending;
    }
    Py_DECREF(pending);
    Py_RETURN_NONE;
}

static PyObject *channel_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    if (!py_forked) {
        py_channel_close(((channel *)self)->ch, PY_CHANNEL_TO_ERLANG, NULL);
    }
    Py_RETURN_NONE;
}

static PyObject *channel_handle(PyObject *self, PyObject *unused)
{
    py_state *st = state_of(self);
    ErlNifEnv *env = enif_alloc_env();
    PyObject *handle = py_types_handle_new(st->types.reference, env, enif_make_resource(env, ((channel *)self)->ch));

    (void)unused;
    enif_free_env(env);
    return handle;
}

static Py_ssize_t channel_len(PyObject *self)
{
    return (Py_ssize_t)py_channel_length(((channel *)self)->ch, PY_CHANNEL_TO_PYTHON);
}

static int channel_bool(PyObject *self)
{
    (void)self;
    return 1;
}

static PyObject *channel_compare(PyObject *self, PyObject *other, int op)
{
    if (!PyObject_TypeCheck(other, state_of(self)->channel.type) || (op != Py_EQ && op != Py_NE)) {
        Py_RETURN_NOTIMPLEMENTED;
    }
    return PyBool_FromLong((((channel *)self)->ch == ((channel *)other)->ch) == (op == Py_EQ));
}

static Py_hash_t channel_hash(PyObject *self) { return (Py_hash_t)((uintptr_t)((channel *)self)->ch >> 4); }

PyDoc_STRVAR(recv_doc, "recv(timeout=None)\n--\n\n"
                       "The next term from Erlang. EOFError when the channel is closed and empty, TimeoutError after\n"
                       "`timeout` seconds.");
PyDoc_STRVAR(send_doc, "send(value, timeout=None)\n--\n\n"
                       "Sends a value to Erlang and blocks while the channel is full. EOFError when it is closed.");
PyDoc_STRVAR(close_doc, "close()\n--\n\nNothing more goes to Erlang, which still gets what is there.");

static PyMethodDef channel_methods[] = {
    {"recv", (PyCFunction)(void (*)(void))channel_recv, METH_VARARGS | METH_KEYWORDS, recv_doc},
    {"send", (PyCFunction)(void (*)(void))channel_send, METH_VARARGS | METH_KEYWORDS, send_doc},
    {"close", channel_close, METH_NOARGS, close_doc},
    {"_try_send", channel_try_send, METH_O, NULL},
    {"_try_recv", channel_try_recv, METH_NOARGS, NULL},
    {"_wait", channel_wait, METH_O, NULL},
    {"_handle", channel_handle, METH_NOARGS, NULL},
    {NULL},
};

static PyType_Slot channel_slots[] = {
    {Py_tp_new, channel_new},
    {Py_tp_dealloc, channel_dealloc},
    {Py_tp_traverse, channel_traverse},
    {Py_tp_methods, channel_methods},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, channel_next},
    {Py_tp_richcompare, channel_compare},
    {Py_tp_hash, channel_hash},
    {Py_sq_length, channel_len},
    {Py_nb_bool, channel_bool},
    {0, NULL},
};

static PyType_Spec channel_spec = {
    .name = "_erlang.ChannelBase",
    .basicsize = sizeof(channel),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = channel_slots,
};

int py_channel_init(PyObject *module, py_state *st)
{
    st->channel.type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &channel_spec, NULL);
    return st->channel.type == NULL ? -1 : PyModule_AddType(module, st->channel.type);
}

int py_channel_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->channel.type);
    return 0;
}

void py_channel_clear(py_state *st) { Py_CLEAR(st->channel.type); }
