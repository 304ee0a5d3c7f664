/* erlang.Pid, Reference, Port and Fun: opaque terms, equal, ordered and hashed as Erlang does, printed as Erlang does,
 * exact on the way back. Immutable after they are made. Attached. */
#include "state.h"

static void handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    py_handle *handle = (py_handle *)self;
    if (handle->env != NULL && !py_forked)
        enif_free_env(handle->env);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyObject *handle_repr(PyObject *self)
{
    char small[128], *text = small;
    size_t size = sizeof small;
    int n;

    while ((n = enif_snprintf(text, size, "%T", ((py_handle *)self)->term)) >= (int)size - 1 && size < 65536) {
        if (text != small)
            enif_free(text);
        size *= 4;
        if ((text = enif_alloc(size)) == NULL)
            return PyErr_NoMemory();
    }
    PyObject *result = n < 0 ? PyUnicode_FromString(Py_TYPE(self)->tp_name)
                             : PyUnicode_DecodeUTF8(text, n < (int)size ? n : (int)size - 1, "replace");
    if (text != small)
        enif_free(text);
    return result;
}

static Py_hash_t handle_hash(PyObject *self)
{
    Py_hash_t hash = (Py_hash_t)enif_hash(ERL_NIF_INTERNAL_HASH, ((py_handle *)self)->term, 0);
    return hash == -1 ? -2 : hash;
}

static PyObject *handle_compare(PyObject *self, PyObject *other, int op)
{
    if (!Py_IS_TYPE(other, Py_TYPE(self)))
        Py_RETURN_NOTIMPLEMENTED;
    int order = enif_compare(((py_handle *)self)->term, ((py_handle *)other)->term);
    Py_RETURN_RICHCOMPARE(order, 0, op);
}

static PyObject *handle_reduce(PyObject *self, PyObject *unused)
{
    return PyErr_Format(PyExc_TypeError, "cannot pickle %s: it has no meaning outside its Erlang node",
                        Py_TYPE(self)->tp_name);
}

static PyObject *handle_same(PyObject *self, PyObject *unused) { return Py_NewRef(self); }

static PyObject *fun_call(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    py_state *st = py_state_of_type(Py_TYPE(self));
    if (st == NULL)
        return NULL;
    if (st->types.call_fun == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "Erlang functions cannot be called from here");
        return NULL;
    }
    return st->types.call_fun(st, self, args, nargsf, kwnames);
}

static PyMethodDef handle_methods[] = {
    {"__copy__", handle_same, METH_NOARGS, NULL},
    {"__deepcopy__", handle_same, METH_O, NULL},
    {"__reduce_ex__", handle_reduce, METH_O, NULL},
    {NULL},
};

PyDoc_STRVAR(pid_doc, "An Erlang process identifier.");
PyDoc_STRVAR(reference_doc, "An Erlang reference.");
PyDoc_STRVAR(port_doc, "An Erlang port.");
PyDoc_STRVAR(fun_doc, "An Erlang fun. Calling it runs it in an Erlang process.");

#define HANDLE_SLOTS(doc)                                                                                              \
    {Py_tp_doc, (void *)doc}, {Py_tp_dealloc, handle_dealloc}, {Py_tp_repr, handle_repr}, {Py_tp_hash, handle_hash},   \
        {Py_tp_richcompare, handle_compare},                                                                           \
    {                                                                                                                  \
        Py_tp_methods, handle_methods                                                                                  \
    }

static PyType_Slot pid_slots[] = {HANDLE_SLOTS(pid_doc), {0, NULL}};
static PyType_Slot reference_slots[] = {HANDLE_SLOTS(reference_doc), {0, NULL}};
static PyType_Slot port_slots[] = {HANDLE_SLOTS(port_doc), {0, NULL}};

static PyMemberDef fun_members[] = {
    {"__vectorcalloffset__", Py_T_PYSSIZET, offsetof(py_handle, vectorcall), Py_READONLY},
    {NULL},
};
static PyType_Slot fun_slots[] = {
    HANDLE_SLOTS(fun_doc), {Py_tp_members, fun_members}, {Py_tp_call, PyVectorcall_Call}, {0, NULL}};

#define HANDLE_FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_IMMUTABLETYPE)

static PyType_Spec pid_spec = {
    .name = "erlang.Pid", .basicsize = sizeof(py_handle), .flags = HANDLE_FLAGS, .slots = pid_slots};
static PyType_Spec reference_spec = {
    .name = "erlang.Reference", .basicsize = sizeof(py_handle), .flags = HANDLE_FLAGS, .slots = reference_slots};
static PyType_Spec port_spec = {
    .name = "erlang.Port", .basicsize = sizeof(py_handle), .flags = HANDLE_FLAGS, .slots = port_slots};
static PyType_Spec fun_spec = {.name = "erlang.Fun",
                               .basicsize = sizeof(py_handle),
                               .flags = HANDLE_FLAGS | Py_TPFLAGS_HAVE_VECTORCALL,
                               .slots = fun_slots};

int py_types_handle_init(PyObject *module, py_state *st)
{
    struct {
        PyTypeObject **type;
        PyType_Spec *spec;
    } all[] = {{&st->types.pid, &pid_spec},
               {&st->types.reference, &reference_spec},
               {&st->types.port, &port_spec},
               {&st->types.fun, &fun_spec}};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        *all[i].type = (PyTypeObject *)PyType_FromModuleAndSpec(module, all[i].spec, NULL);
        if (*all[i].type == NULL || PyModule_AddType(module, *all[i].type) < 0)
            return -1;
    }
    return 0;
}

PyObject *py_types_handle_new(PyTypeObject *type, ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifPid pid;
    ErlNifPort port;
    py_handle *handle = (py_handle *)type->tp_alloc(type, 0);

    if (handle == NULL)
        return NULL;
    handle->vectorcall = fun_call;
    handle->term = term;
    /* pids and ports of this node are immediates */
    if (!enif_get_local_pid(env, term, &pid) && !enif_get_local_port(env, term, &port)) {
        if ((handle->env = enif_alloc_env()) == NULL) {
            Py_DECREF(handle);
            return PyErr_NoMemory();
        }
        handle->term = enif_make_copy(handle->env, term);
    }
    return (PyObject *)handle;
}

ERL_NIF_TERM py_types_handle_term(PyObject *self, ErlNifEnv *env)
{
    py_handle *handle = (py_handle *)self;
    return handle->env == NULL ? handle->term : enif_make_copy(env, handle->term);
}
