/* erlang.Buffer. It owns either an env that holds an Erlang binary or another object's buffer view; the bytes stay
 * where they are until it dies. Read-only and immutable after it is made. Attached. */
#include "state.h"

#include "buffer.h"

typedef struct {
    PyObject_HEAD ErlNifEnv *env; /* owner of `term`, or NULL when `view` is the source */
    ERL_NIF_TERM term;
    Py_buffer view;
    const void *data;
    Py_ssize_t size;
} buffer;

static PyObject *buffer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", NULL};
    PyObject *data;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "O:Buffer", names, &data))
        return NULL;
    if (Py_IS_TYPE(data, type))
        return Py_NewRef(data);
    buffer *self = (buffer *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    if (PyObject_GetBuffer(data, &self->view, PyBUF_SIMPLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    self->data = self->view.buf;
    self->size = self->view.len;
    return (PyObject *)self;
}

PyObject *py_buffer_from_term(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifBinary binary;
    PyTypeObject *type = st->types.buffer;
    buffer *self = (buffer *)type->tp_alloc(type, 0);

    if (self == NULL)
        return NULL;
    if ((self->env = enif_alloc_env()) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    self->term = enif_make_copy(self->env, term);
    if (!enif_inspect_binary(self->env, self->term, &binary)) {
        Py_DECREF(self);
        PyErr_SetString(PyExc_TypeError, "a Buffer is made from a binary");
        return NULL;
    }
    self->data = binary.data;
    self->size = (Py_ssize_t)binary.size;
    return (PyObject *)self;
}

int py_buffer_to_term(py_state *st, ErlNifEnv *env, PyObject *obj, ERL_NIF_TERM *out)
{
    buffer *self = (buffer *)obj;
    if (self->env != NULL)
        *out = enif_make_copy(env, self->term);
    else if ((size_t)self->size >= PY_BUFFER_PIN_MIN)
        *out = py_ref_binary(st, env, obj, self->data, (size_t)self->size);
    else
        memcpy(enif_make_new_binary(env, (size_t)self->size, out), self->data, (size_t)self->size);
    return 0;
}

static void buffer_dealloc(PyObject *obj)
{
    PyTypeObject *type = Py_TYPE(obj);
    buffer *self = (buffer *)obj;

    PyObject_GC_UnTrack(obj);
    if (self->env != NULL && !py_forked)
        enif_free_env(self->env);
    PyBuffer_Release(&self->view);
    type->tp_free(obj);
    Py_DECREF(type);
}

static int buffer_traverse(PyObject *obj, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(obj));
    Py_VISIT(((buffer *)obj)->view.obj);
    return 0;
}

static int buffer_get(PyObject *obj, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, obj, (void *)((buffer *)obj)->data, ((buffer *)obj)->size, 1, flags);
}

static Py_ssize_t buffer_length(PyObject *obj) { return ((buffer *)obj)->size; }

static PyObject *buffer_bytes(PyObject *obj, PyObject *unused)
{
    return PyBytes_FromStringAndSize(((buffer *)obj)->data, ((buffer *)obj)->size);
}

/* An index gives an int; a slice gives a memoryview, so that it copies nothing. */
static PyObject *buffer_subscript(PyObject *obj, PyObject *key)
{
    PyObject *view = PyMemoryView_FromObject(obj);
    PyObject *result = view == NULL ? NULL : PyObject_GetItem(view, key);
    Py_XDECREF(view);
    return result;
}

static PyObject *buffer_compare(PyObject *a, PyObject *b, int op)
{
    Py_buffer other;

    if ((op != Py_EQ && op != Py_NE) || !PyObject_CheckBuffer(b))
        Py_RETURN_NOTIMPLEMENTED;
    if (PyObject_GetBuffer(b, &other, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        Py_RETURN_NOTIMPLEMENTED;
    }
    bool equal = other.len == ((buffer *)a)->size &&
                 (other.len == 0 || memcmp(other.buf, ((buffer *)a)->data, (size_t)other.len) == 0);
    PyBuffer_Release(&other);
    return PyBool_FromLong((op == Py_EQ) == equal);
}

static PyObject *buffer_repr(PyObject *obj)
{
    return PyUnicode_FromFormat("<erlang.Buffer of %zd bytes%s>", ((buffer *)obj)->size,
                                ((buffer *)obj)->env != NULL ? " of an Erlang binary" : "");
}

static PyMethodDef buffer_methods[] = {
    {"__bytes__", buffer_bytes, METH_NOARGS, "The content, copied."},
    {"tobytes", buffer_bytes, METH_NOARGS, "The content, copied."},
    {NULL},
};

PyDoc_STRVAR(buffer_doc, "Buffer(data)\n--\n\n"
                         "Bytes that cross to and from Erlang without a copy.\n\n"
                         "data is any object with a contiguous buffer (bytes, array, a numpy array); it must not be\n"
                         "written to while Erlang has the binary. Reads like a memoryview of bytes.");

static PyType_Slot buffer_slots[] = {
    {Py_tp_doc, (void *)buffer_doc},     {Py_tp_new, buffer_new},         {Py_tp_dealloc, buffer_dealloc},
    {Py_tp_traverse, buffer_traverse},   {Py_tp_repr, buffer_repr},       {Py_tp_hash, PyObject_HashNotImplemented},
    {Py_tp_richcompare, buffer_compare}, {Py_tp_methods, buffer_methods}, {Py_mp_length, buffer_length},
    {Py_mp_subscript, buffer_subscript}, {Py_bf_getbuffer, buffer_get},   {0, NULL},
};

static PyType_Spec buffer_spec = {.name = "erlang.Buffer",
                                  .basicsize = sizeof(buffer),
                                  .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                                  .slots = buffer_slots};

int py_buffer_init(PyObject *module, py_state *st)
{
    st->types.buffer = (PyTypeObject *)PyType_FromModuleAndSpec(module, &buffer_spec, NULL);
    return st->types.buffer == NULL ? -1 : PyModule_AddType(module, st->types.buffer);
}
