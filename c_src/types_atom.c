/* erlang.Atom: a str that carries its Erlang atom, one object per atom and interpreter. Atoms are immediates and are
 * never collected in Erlang, so their words are keys for ever and the objects live as long as the interpreter.
 * Attached. Lock: st->types.lock, innermost, around writes of the map on builds without a GIL. */
#include "state.h"

#include "atoms.h"

static int atom_map_put(py_types_part *types, ERL_NIF_TERM word, PyObject *value);

static py_atom_map *map_new(size_t slots, py_atom_map *older)
{
    py_atom_map *map = PyMem_RawCalloc(1, sizeof *map + slots * sizeof *map->slots);
    if (map != NULL) {
        map->mask = slots - 1;
        map->older = older;
    }
    return map;
}

static void map_insert(py_atom_map *map, ERL_NIF_TERM word, PyObject *value)
{
    size_t i = (size_t)(word >> 6) & map->mask;
    while (atomic_load_explicit(&map->slots[i].word, memory_order_relaxed) != 0)
        i = (i + 1) & map->mask;
    map->slots[i].value = value;
    atomic_store_explicit(&map->slots[i].word, word, memory_order_release);
    map->used++;
}

/* Takes over no reference: `atom_names` keeps atoms alive, True, False and None live anyway. */
static int atom_map_put(py_types_part *types, ERL_NIF_TERM word, PyObject *value)
{
    int result = 0;

    PY_FT_LOCK(&types->lock);
    py_atom_map *map = atomic_load_explicit(&types->atoms, memory_order_relaxed);
    if (py_types_atom_find(types, word) != NULL)
        goto done;
    if (map->used * 2 > map->mask) {
        py_atom_map *bigger = map_new((map->mask + 1) * 2, map);
        if (bigger == NULL) {
            result = -1;
            goto done;
        }
        for (size_t i = 0; i <= map->mask; i++) {
            ERL_NIF_TERM old = atomic_load_explicit(&map->slots[i].word, memory_order_relaxed);
            if (old != 0)
                map_insert(bigger, old, map->slots[i].value);
        }
        map = bigger;
        atomic_store_explicit(&types->atoms, map, memory_order_release);
    }
    map_insert(map, word, value);
done:
    PY_FT_UNLOCK(&types->lock);
    if (result < 0)
        PyErr_NoMemory();
    return result;
}

static int tag_of(ERL_NIF_TERM term)
{
    const ERL_NIF_TERM built_in[] = {py_atoms.py_date,    py_atoms.py_time, py_atoms.py_datetime, py_atoms.py_timedelta,
                                     py_atoms.py_decimal, py_atoms.py_uuid, py_atoms.py_complex,  py_atoms.py_fraction,
                                     py_atoms.py_enum,    py_atoms.py_path};

    if (term == py_atoms.bytes)
        return PY_TAG_BYTES;
    if (term == py_atoms.buffer)
        return PY_TAG_BUFFER;
    if (term == py_atoms.py_ref)
        return PY_TAG_REF;
    for (size_t i = 0; i < sizeof built_in / sizeof *built_in; i++)
        if (term == built_in[i])
            return PY_TAG_LAZY;
    return PY_TAG_NONE;
}

/* The Atom for a name and its word: the one that exists or a new one. New reference. */
static PyObject *atom_object(py_state *st, PyObject *name, ERL_NIF_TERM term)
{
    py_types_part *types = &st->types;
    PyObject *args = NULL, *atom = NULL, *known = NULL;

    if (PyDict_GetItemRef(types->atom_names, name, &known) != 0)
        return known;
    if ((args = PyTuple_Pack(1, name)) == NULL)
        return NULL;
    atom = PyUnicode_Type.tp_new(types->atom, args, NULL);
    Py_DECREF(args);
    if (atom == NULL)
        return NULL;
    ((py_atom *)atom)->term = term;
    ((py_atom *)atom)->tag = tag_of(term);
    known = PyDict_SetDefault(types->atom_names, name, atom);
    Py_XINCREF(known);
    Py_DECREF(atom);
    return known;
}

PyObject *py_types_atom_text(ErlNifEnv *env, ERL_NIF_TERM term)
{
    enum { ATOM_EXT = 100, SMALL_ATOM_EXT = 115, ATOM_UTF8_EXT = 118, SMALL_ATOM_UTF8_EXT = 119 };
    ErlNifBinary etf;
    PyObject *text = NULL;

    if (!enif_term_to_binary(env, term, &etf))
        return PyErr_NoMemory();
    const char *name = (const char *)etf.data;
    switch (etf.data[1]) {
    case ATOM_EXT:
        text = PyUnicode_DecodeLatin1(name + 4, etf.data[2] << 8 | etf.data[3], NULL);
        break;
    case SMALL_ATOM_EXT:
        text = PyUnicode_DecodeLatin1(name + 3, etf.data[2], NULL);
        break;
    case ATOM_UTF8_EXT:
        text = PyUnicode_DecodeUTF8(name + 4, etf.data[2] << 8 | etf.data[3], NULL);
        break;
    case SMALL_ATOM_UTF8_EXT:
        text = PyUnicode_DecodeUTF8(name + 3, etf.data[2], NULL);
        break;
    default:
        PyErr_Format(PyExc_SystemError, "atom in external format %d", etf.data[1]);
    }
    enif_release_binary(&etf);
    return text;
}

PyObject *py_types_atom_add(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term)
{
    PyObject *name = py_types_atom_text(env, term);
    PyObject *atom = name == NULL ? NULL : atom_object(st, name, term);

    Py_XDECREF(name);
    if (atom == NULL || atom_map_put(&st->types, term, atom) < 0) {
        Py_XDECREF(atom);
        return NULL;
    }
    Py_DECREF(atom); /* atom_names has it */
    return atom;
}

/* An Atom by name: 1 and a new reference, 0 when it does not exist and may not be made, -1 with an exception. */
static int atom_by_name(py_state *st, PyObject *name, bool (*make)(ErlNifEnv *, const char *, size_t, ERL_NIF_TERM *),
                        PyObject **out)
{
    const char *text;
    Py_ssize_t size;
    ERL_NIF_TERM term;

    int known = PyDict_GetItemRef(st->types.atom_names, name, out);
    if (known != 0)
        return known;
    if (PyUnicode_GET_LENGTH(name) > 255) {
        PyErr_SetString(PyExc_ValueError, "an atom has at most 255 characters");
        return -1;
    }
    if ((text = PyUnicode_AsUTF8AndSize(name, &size)) == NULL)
        return -1;
    ErlNifEnv *env = enif_alloc_env();
    bool made = env != NULL && make(env, text, (size_t)size, &term);
    if (env != NULL)
        enif_free_env(env);
    if (!made)
        return 0;
    *out = atom_object(st, name, term);
    if (*out == NULL)
        return -1;
    bool special = term == py_atoms.true_ || term == py_atoms.false_ || term == py_atoms.none || term == py_atoms.nil ||
                   term == py_atoms.undefined;
    if (!special && atom_map_put(&st->types, term, *out) < 0) {
        Py_CLEAR(*out);
        return -1;
    }
    return 1;
}

PyObject *py_types_atom_make(py_state *st, PyObject *name)
{
    PyObject *atom = NULL;
    if (atom_by_name(st, name, py_atoms_make, &atom) == 0)
        PyErr_Format(PyExc_ValueError, "no atom %R: the quota of atoms made from Python is spent", name);
    return atom;
}

PyObject *py_types_atom_or_str(py_state *st, PyObject *name)
{
    PyObject *atom = NULL;
    if (PyUnicode_GET_LENGTH(name) > 255)
        return Py_NewRef(name);
    if (atom_by_name(st, name, py_atoms_existing, &atom) == 0)
        return Py_NewRef(name);
    return atom;
}

static PyObject *atom_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"name", NULL};
    PyObject *name, *exact, *atom;
    py_state *st = py_state_of_type(type);

    if (st == NULL || !PyArg_ParseTupleAndKeywords(args, kwargs, "U:Atom", names, &name))
        return NULL;
    if (Py_IS_TYPE(name, type))
        return Py_NewRef(name);
    if ((exact = PyUnicode_FromObject(name)) == NULL)
        return NULL;
    atom = py_types_atom_make(st, exact);
    Py_DECREF(exact);
    return atom;
}

static PyObject *atom_repr(PyObject *self)
{
    PyObject *text = PyUnicode_Type.tp_repr(self);
    PyObject *result = text == NULL ? NULL : PyUnicode_FromFormat("Atom(%U)", text);
    Py_XDECREF(text);
    return result;
}

static int atom_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((py_atom *)self)->decoder);
    return 0;
}

static int atom_clear(PyObject *self)
{
    ((py_atom *)self)->tag = PY_TAG_NONE;
    Py_CLEAR(((py_atom *)self)->decoder);
    return 0;
}

static PyObject *atom_same(PyObject *self, PyObject *unused) { return Py_NewRef(self); }

static PyMethodDef atom_methods[] = {
    {"__copy__", atom_same, METH_NOARGS, NULL},
    {"__deepcopy__", atom_same, METH_O, NULL},
    {NULL},
};

PyDoc_STRVAR(atom_doc, "Atom(name)\n--\n\n"
                       "An Erlang atom: a str, equal to and hashed like the text of its name.\n\n"
                       "The same name gives the same object. A name that Erlang does not know yet becomes a new atom\n"
                       "under the operator's quota; beyond it ValueError.");

static PyType_Slot atom_slots[] = {
    {Py_tp_doc, (void *)atom_doc},
    {Py_tp_new, atom_new},
    {Py_tp_repr, atom_repr},
    {Py_tp_traverse, atom_traverse},
    {Py_tp_clear, atom_clear},
    {Py_tp_methods, atom_methods},
    {0, NULL},
};

/* GC, unlike str: the state holds atoms and atoms hold their type, which holds the module and so the state. */
static PyType_Spec atom_spec = {
    .name = "erlang.Atom",
    .basicsize = sizeof(py_atom),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = atom_slots,
};

/* _set_decoder(tag: Atom, function or None): what term_to_py.c does with tuples that start with the atom. */
static PyObject *set_decoder(PyObject *module, PyObject *args)
{
    py_state *st = py_state_of_module(module);
    PyObject *tag, *function, *old;

    if (!PyArg_ParseTuple(args, "O!O:_set_decoder", st->types.atom, &tag, &function))
        return NULL;
    py_atom *atom = (py_atom *)tag;
    if (atom->tag != PY_TAG_NONE && atom->tag != PY_TAG_DECODER && atom->tag != PY_TAG_LAZY)
        return PyErr_Format(PyExc_ValueError, "the tag %R has a meaning of its own", tag);
    Py_BEGIN_CRITICAL_SECTION(tag);
    old = atom->decoder;
    atom->decoder = function == Py_None ? NULL : Py_NewRef(function);
    atom->tag = function == Py_None ? PY_TAG_NONE : PY_TAG_DECODER;
    Py_END_CRITICAL_SECTION();
    Py_XDECREF(old);
    Py_RETURN_NONE;
}

static PyObject *atom_or_str(PyObject *module, PyObject *name)
{
    if (!PyUnicode_CheckExact(name))
        return PyErr_Format(PyExc_TypeError, "a str, not %.100s", Py_TYPE(name)->tp_name);
    return py_types_atom_or_str(py_state_of_module(module), name);
}

static PyMethodDef methods[] = {
    {"_set_decoder", set_decoder, METH_VARARGS, NULL},
    {"_atom_or_str", atom_or_str, METH_O, NULL},
    {NULL},
};

int py_types_atom_init(PyObject *module, py_state *st)
{
    py_types_part *types = &st->types;
    py_atom_map *map = map_new(256, NULL);

    if (map == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    atomic_store(&types->atoms, map);
    types->atom_names = PyDict_New();
    types->atom = (PyTypeObject *)PyType_FromModuleAndSpec(module, &atom_spec, (PyObject *)&PyUnicode_Type);
    if (types->atom_names == NULL || types->atom == NULL || PyModule_AddType(module, types->atom) < 0)
        return -1;
    if (atom_map_put(types, py_atoms.true_, Py_True) < 0 || atom_map_put(types, py_atoms.false_, Py_False) < 0 ||
        atom_map_put(types, py_atoms.none, Py_None) < 0 || atom_map_put(types, py_atoms.nil, Py_None) < 0 ||
        atom_map_put(types, py_atoms.undefined, Py_None) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}

int py_types_atom_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->types.atom);
    Py_VISIT(st->types.atom_names);
    return 0;
}

void py_types_atom_clear(py_state *st)
{
    py_atom_map *map = atomic_exchange(&st->types.atoms, NULL);
    while (map != NULL) {
        py_atom_map *older = map->older;
        PyMem_RawFree(map);
        map = older;
    }
    Py_CLEAR(st->types.atom_names);
    Py_CLEAR(st->types.atom);
}
