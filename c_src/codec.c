/* A direct-mapped cache of `erlang._codec.find_encoder(type)`. It holds its types strongly, and few of them, so a
 * class made at run time can neither be mistaken for another nor live for ever because of it. */
#include "state.h"

static inline size_t slot_of(PyTypeObject *type) { return ((uintptr_t)type >> 5) & (PY_CODEC_SLOTS - 1); }

static void forget_all(py_codec_part *codec)
{
    for (size_t i = 0; i < PY_CODEC_SLOTS; i++) {
        Py_CLEAR(codec->slots[i].type);
        Py_CLEAR(codec->slots[i].encoder);
    }
}

int py_codec_import(py_state *st, PyObject **slot, const char *module_name, const char *name)
{
    bool known;

    PY_FT_LOCK(&st->types.lock);
    known = *slot != NULL;
    PY_FT_UNLOCK(&st->types.lock);
    if (known)
        return 0;
    PyObject *module = PyImport_ImportModule(module_name);
    PyObject *function = module == NULL ? NULL : PyObject_GetAttrString(module, name);
    Py_XDECREF(module);
    if (function == NULL)
        return -1;
    PY_FT_LOCK(&st->types.lock);
    if (*slot == NULL) {
        *slot = function;
        function = NULL;
    }
    PY_FT_UNLOCK(&st->types.lock);
    Py_XDECREF(function);
    return 0;
}

static int ask(py_state *st, PyTypeObject *type, PyObject **encoder)
{
    py_codec_part *codec = &st->types.codec;

    if (py_codec_import(st, &codec->find_encoder, "erlang._codec", "find_encoder") < 0)
        return -1;
    *encoder = PyObject_CallOneArg(codec->find_encoder, (PyObject *)type);
    if (*encoder == NULL)
        return -1;
    if (*encoder == Py_None)
        Py_CLEAR(*encoder);
    return 0;
}

int py_codec_find(py_state *st, PyTypeObject *type, PyObject **encoder)
{
    py_codec_part *codec = &st->types.codec;
    py_codec_slot *slot = &codec->slots[slot_of(type)];
    PyObject *old_type = NULL, *old_encoder = NULL;
    uint64_t generation;
    bool hit;

    PY_FT_LOCK(&st->types.lock);
    hit = slot->type == type;
    if (hit)
        *encoder = Py_XNewRef(slot->encoder);
    generation = codec->generation;
    PY_FT_UNLOCK(&st->types.lock);
    if (hit)
        return *encoder != NULL;
    if (ask(st, type, encoder) < 0)
        return -1;
    PY_FT_LOCK(&st->types.lock);
    if (generation == codec->generation) {
        old_type = (PyObject *)slot->type;
        old_encoder = slot->encoder;
        slot->type = (PyTypeObject *)Py_NewRef(type);
        slot->encoder = Py_XNewRef(*encoder);
    }
    PY_FT_UNLOCK(&st->types.lock);
    Py_XDECREF(old_type);
    Py_XDECREF(old_encoder);
    return *encoder != NULL;
}

/* Called by the registry after each change. */
static PyObject *codec_changed(PyObject *module, PyObject *unused)
{
    py_codec_part *codec = &py_state_of_module(module)->types.codec;
    py_codec_slot old[PY_CODEC_SLOTS];

    PY_FT_LOCK(&py_state_of_module(module)->types.lock);
    memcpy(old, codec->slots, sizeof old);
    memset(codec->slots, 0, sizeof codec->slots);
    codec->generation++;
    PY_FT_UNLOCK(&py_state_of_module(module)->types.lock);
    for (size_t i = 0; i < PY_CODEC_SLOTS; i++) {
        Py_XDECREF(old[i].type);
        Py_XDECREF(old[i].encoder);
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"_codec_changed", codec_changed, METH_NOARGS, NULL},
    {NULL},
};

int py_codec_init(PyObject *module, py_state *st) { return PyModule_AddFunctions(module, methods); }

int py_codec_traverse(py_state *st, visitproc visit, void *arg)
{
    py_codec_part *codec = &st->types.codec;
    Py_VISIT(codec->find_encoder);
    for (size_t i = 0; i < PY_CODEC_SLOTS; i++) {
        Py_VISIT(codec->slots[i].type);
        Py_VISIT(codec->slots[i].encoder);
    }
    return 0;
}

void py_codec_clear(py_state *st)
{
    Py_CLEAR(st->types.codec.find_encoder);
    forget_all(&st->types.codec);
}
