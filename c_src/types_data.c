/* erlang.BitString and erlang.ImproperList: the two kinds of Erlang data that Python has no word for. Immutable,
 * hashable when their content is. Attached. */
#include "state.h"

enum { ETF_VERSION = 131, ETF_BIT_BINARY = 77 };

/* Takes over `data`. */
static PyObject *bitstring_make(PyTypeObject *type, PyObject *data, Py_ssize_t bits)
{
    py_bitstring *self = data == NULL ? NULL : (py_bitstring *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(data);
        return NULL;
    }
    self->data = data;
    self->bits = bits;
    return (PyObject *)self;
}

static PyObject *bitstring_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"data", "bits", NULL};
    Py_buffer data;
    Py_ssize_t bits;
    PyObject *bytes = NULL;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "y*n:BitString", names, &data, &bits))
        return NULL;
    if (bits < 0 || bits / 8 + (bits % 8 != 0) != data.len)
        PyErr_Format(PyExc_ValueError, "%zd bits need %zd bytes of data, not %zd", bits,
                     bits < 0 ? (Py_ssize_t)0 : bits / 8 + (bits % 8 != 0), data.len);
    else if (bits % 8 == 0)
        bytes = PyBytes_FromStringAndSize(data.buf, data.len);
    else if ((bytes = PyBytes_FromStringAndSize(NULL, data.len)) != NULL) { /* not the shared bytes of one character */
        memcpy(PyBytes_AS_STRING(bytes), data.buf, (size_t)data.len);
        PyBytes_AS_STRING(bytes)[bits / 8] &= (char)(0xff << (8 - bits % 8));
    }
    PyBuffer_Release(&data);
    return bitstring_make(type, bytes, bits);
}

static void bitstring_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    Py_XDECREF(((py_bitstring *)self)->data);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *bitstring_repr(PyObject *self)
{
    return PyUnicode_FromFormat("BitString(%R, %zd)", ((py_bitstring *)self)->data, ((py_bitstring *)self)->bits);
}

static Py_hash_t bitstring_hash(PyObject *self)
{
    Py_hash_t hash = PyObject_Hash(((py_bitstring *)self)->data);
    hash = (Py_hash_t)((Py_uhash_t)hash * 31 + (Py_uhash_t)((py_bitstring *)self)->bits);
    return hash == -1 ? -2 : hash;
}

static PyObject *bitstring_compare(PyObject *a, PyObject *b, int op)
{
    if (!Py_IS_TYPE(b, Py_TYPE(a)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    py_bitstring *x = (py_bitstring *)a, *y = (py_bitstring *)b;
    int equal = x->bits == y->bits ? PyObject_RichCompareBool(x->data, y->data, Py_EQ) : 0;
    return equal < 0 ? NULL : PyBool_FromLong((op == Py_EQ) == equal);
}

static PyObject *bitstring_reduce(PyObject *self, PyObject *unused)
{
    return Py_BuildValue("O(On)", Py_TYPE(self), ((py_bitstring *)self)->data, ((py_bitstring *)self)->bits);
}

static Py_ssize_t bitstring_length(PyObject *self) { return ((py_bitstring *)self)->bits; }

static PyMethodDef bitstring_methods[] = {{"__reduce__", bitstring_reduce, METH_NOARGS, NULL}, {NULL}};
static PyMemberDef bitstring_members[] = {
    {"data", Py_T_OBJECT_EX, offsetof(py_bitstring, data), Py_READONLY,
     "The bytes; unused low bits of the last are 0."},
    {"bits", Py_T_PYSSIZET, offsetof(py_bitstring, bits), Py_READONLY, "How many bits there are."},
    {NULL},
};
PyDoc_STRVAR(bitstring_doc, "BitString(data, bits)\n--\n\n"
                            "An Erlang bitstring: the first `bits` bits of `data` (bytes).\n\n"
                            "ValueError when data has not exactly as many bytes as the bits need.");
static PyType_Slot bitstring_slots[] = {
    {Py_tp_doc, (void *)bitstring_doc}, {Py_tp_new, bitstring_new},
    {Py_tp_dealloc, bitstring_dealloc}, {Py_tp_repr, bitstring_repr},
    {Py_tp_hash, bitstring_hash},       {Py_tp_richcompare, bitstring_compare},
    {Py_tp_methods, bitstring_methods}, {Py_tp_members, bitstring_members},
    {Py_sq_length, bitstring_length},   {0, NULL},
};
static PyType_Spec bitstring_spec = {.name = "erlang.BitString",
                                     .basicsize = sizeof(py_bitstring),
                                     .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,
                                     .slots = bitstring_slots};

PyObject *py_types_bitstring_from_term(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifBinary etf;
    PyObject *result;

    if (!enif_term_to_binary(env, term, &etf))
        return PyErr_NoMemory();
    if (etf.size < 7 || etf.data[1] != ETF_BIT_BINARY) {
        result = PyErr_Format(PyExc_SystemError, "bitstring in external format %d", etf.data[1]);
    } else {
        Py_ssize_t size = (Py_ssize_t)etf.size - 7, bits = size * 8 - 8 + etf.data[6];
        PyObject *data = PyBytes_FromStringAndSize((char *)etf.data + 7, size);
        result = bitstring_make(st->types.bitstring, data, bits);
    }
    enif_release_binary(&etf);
    return result;
}

int py_types_bitstring_to_term(PyObject *bitstring, ErlNifEnv *env, ERL_NIF_TERM *out)
{
    py_bitstring *self = (py_bitstring *)bitstring;
    size_t size = (size_t)PyBytes_GET_SIZE(self->data);

    if (self->bits % 8 == 0) {
        memcpy(enif_make_new_binary(env, size, out), PyBytes_AS_STRING(self->data), size);
        return 0;
    }
    unsigned char *etf = size > UINT32_MAX ? NULL : enif_alloc(size + 7);
    if (etf == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    etf[0] = ETF_VERSION;
    etf[1] = ETF_BIT_BINARY;
    for (int i = 0; i < 4; i++)
        etf[2 + i] = (unsigned char)(size >> (24 - 8 * i));
    etf[6] = (unsigned char)(self->bits % 8);
    memcpy(etf + 7, PyBytes_AS_STRING(self->data), size);
    bool made = enif_binary_to_term(env, etf, size + 7, out, 0) != 0;
    enif_free(etf);
    if (!made)
        PyErr_SetString(PyExc_ValueError, "not a bitstring that Erlang accepts");
    return made ? 0 : -1;
}

static PyObject *improper_make(PyTypeObject *type, PyObject *items, PyObject *tail)
{
    py_improper *self = items == NULL || tail == NULL ? NULL : (py_improper *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(items);
        Py_XDECREF(tail);
        return NULL;
    }
    self->items = items;
    self->tail = tail;
    return (PyObject *)self;
}

PyObject *py_types_improper_new(py_state *st, PyObject *items, PyObject *tail)
{
    return improper_make(st->types.improper, items, tail);
}

static PyObject *improper_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"items", "tail", NULL};
    PyObject *items, *tail;

    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OO:ImproperList", names, &items, &tail))
        return NULL;
    if (PyList_Check(tail) || Py_IS_TYPE(tail, type)) {
        PyErr_SetString(PyExc_ValueError, "with a list as its tail it would be a proper list");
        return NULL;
    }
    if ((items = PySequence_Tuple(items)) == NULL)
        return NULL;
    if (PyTuple_GET_SIZE(items) == 0) {
        Py_DECREF(items);
        PyErr_SetString(PyExc_ValueError, "an improper list has at least one item before its tail");
        return NULL;
    }
    return improper_make(type, items, Py_NewRef(tail));
}

static int improper_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_improper *)self)->items);
    Py_VISIT(((py_improper *)self)->tail);
    return 0;
}

static int improper_clear(PyObject *self)
{
    Py_CLEAR(((py_improper *)self)->items);
    Py_CLEAR(((py_improper *)self)->tail);
    return 0;
}

static void improper_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, improper_dealloc) improper_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

static PyObject *improper_repr(PyObject *self)
{
    PyObject *items = PySequence_List(((py_improper *)self)->items), *result = NULL;
    if (items != NULL && Py_EnterRecursiveCall(" in ImproperList.__repr__") == 0) {
        result = PyUnicode_FromFormat("ImproperList(%R, %R)", items, ((py_improper *)self)->tail);
        Py_LeaveRecursiveCall();
    }
    Py_XDECREF(items);
    return result;
}

static Py_hash_t improper_hash(PyObject *self)
{
    Py_hash_t items = PyObject_Hash(((py_improper *)self)->items);
    Py_hash_t tail = items == -1 ? -1 : PyObject_Hash(((py_improper *)self)->tail);
    if (tail == -1)
        return -1;
    items = (Py_hash_t)((Py_uhash_t)items * 31 + (Py_uhash_t)tail);
    return items == -1 ? -2 : items;
}

static PyObject *improper_compare(PyObject *a, PyObject *b, int op)
{
    if (!Py_IS_TYPE(b, Py_TYPE(a)) || (op != Py_EQ && op != Py_NE))
        Py_RETURN_NOTIMPLEMENTED;
    int equal = PyObject_RichCompareBool(((py_improper *)a)->items, ((py_improper *)b)->items, Py_EQ);
    if (equal > 0)
        equal = PyObject_RichCompareBool(((py_improper *)a)->tail, ((py_improper *)b)->tail, Py_EQ);
    return equal < 0 ? NULL : PyBool_FromLong((op == Py_EQ) == equal);
}

static PyObject *improper_reduce(PyObject *self, PyObject *unused)
{
    return Py_BuildValue("O(OO)", Py_TYPE(self), ((py_improper *)self)->items, ((py_improper *)self)->tail);
}

static PyMethodDef improper_methods[] = {{"__reduce__", improper_reduce, METH_NOARGS, NULL}, {NULL}};
static PyMemberDef improper_members[] = {
    {"items", Py_T_OBJECT_EX, offsetof(py_improper, items), Py_READONLY, "The elements before the tail, a tuple."},
    {"tail", Py_T_OBJECT_EX, offsetof(py_improper, tail), Py_READONLY, "What stands in the place of []."},
    {NULL},
};
PyDoc_STRVAR(improper_doc, "ImproperList(items, tail)\n--\n\n"
                           "An Erlang list that ends in `tail` instead of []: [a, b | Tail].\n\n"
                           "ValueError when items is empty or tail is a list.");
static PyType_Slot improper_slots[] = {
    {Py_tp_doc, (void *)improper_doc},
    {Py_tp_new, improper_new},
    {Py_tp_dealloc, improper_dealloc},
    {Py_tp_traverse, improper_traverse},
    {Py_tp_clear, improper_clear},
    {Py_tp_repr, improper_repr},
    {Py_tp_hash, improper_hash},
    {Py_tp_richcompare, improper_compare},
    {Py_tp_methods, improper_methods},
    {Py_tp_members, improper_members},
    {0, NULL},
};
static PyType_Spec improper_spec = {.name = "erlang.ImproperList",
                                    .basicsize = sizeof(py_improper),
                                    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
                                    .slots = improper_slots};

int py_types_data_init(PyObject *module, py_state *st)
{
    st->types.bitstring = (PyTypeObject *)PyType_FromModuleAndSpec(module, &bitstring_spec, NULL);
    st->types.improper = (PyTypeObject *)PyType_FromModuleAndSpec(module, &improper_spec, NULL);
    if (st->types.bitstring == NULL || st->types.improper == NULL ||
        PyModule_AddType(module, st->types.bitstring) < 0 || PyModule_AddType(module, st->types.improper) < 0)
        return -1;
    return 0;
}
