/* The Python types that stand for Erlang's own kinds of terms: Atom (a str), Pid, Reference, Port, Fun, BitString,
 * ImproperList, Buffer; the map of interned atoms; the limits of a conversion. One set per interpreter.
 * All functions: attached. */
#ifndef ERLANG_PYTHON_TYPES_H
#define ERLANG_PYTHON_TYPES_H

#include "codec.h"
#include "common.h"
#include "compat.h"

/* What a tuple that starts with this atom means to term_to_py.c. LAZY: a built-in decoder, which is there once
 * erlang._codec is imported. */
enum { PY_TAG_NONE, PY_TAG_BYTES, PY_TAG_BUFFER, PY_TAG_REF, PY_TAG_LAZY, PY_TAG_DECODER };

typedef struct {
    PyUnicodeObject text;
    ERL_NIF_TERM term; /* an immediate: valid in every env and for ever */
    int tag;
    PyObject *decoder; /* of erlang.register_decoder, when tag is PY_TAG_DECODER */
} py_atom;

/* A pid, reference, port or fun. `env` owns the term unless it is an immediate (then NULL). */
typedef struct {
    PyObject_HEAD ErlNifEnv *env;
    ERL_NIF_TERM term;
    vectorcallfunc vectorcall; /* funs only */
} py_handle;

typedef struct {
    PyObject_HEAD PyObject *data; /* bytes; the unused low bits of the last one are zero */
    Py_ssize_t bits;
} py_bitstring;

typedef struct {
    PyObject_HEAD PyObject *items; /* tuple, never empty */
    PyObject *tail;
} py_improper;

/* Atom word -> its Python value (an Atom, or True, False, None): open addressing; a slot is published by its word,
 * so readers take no lock. A map that was outgrown stays until the end, a reader may be in it. */
typedef struct {
    _Atomic(ERL_NIF_TERM) word; /* 0: free */
    PyObject *value;
} py_atom_slot;

typedef struct py_atom_map {
    size_t mask, used;
    struct py_atom_map *older;
    py_atom_slot slots[];
} py_atom_map;

/* Calls an Erlang fun; the callback part sets it. Arguments as for a vectorcall. */
typedef PyObject *(*py_fun_call_hook)(py_state *st, PyObject *fun, PyObject *const *args, size_t nargsf,
                                      PyObject *kwnames);

/* Short ASCII texts that were keys of maps, so that the same key is the same str with its hash ready. */
#define PY_TYPES_KEYS 512 /* a power of two */
#define PY_TYPES_KEY_MAX 32

typedef struct {
    PyTypeObject *atom, *pid, *reference, *port, *fun, *bitstring, *improper, *buffer;
    _Atomic(py_atom_map *) atoms;
    PyObject *atom_names;          /* dict: str -> Atom, every one there is */
    py_ft_mutex lock;              /* of `keys`, the codec's slots and writers of `atoms`; innermost */
    PyObject *keys[PY_TYPES_KEYS]; /* guarded by `lock` */
    py_fun_call_hook call_fun;
    unsigned max_depth;
    size_t max_items; /* 0: no bound */
    py_codec_part codec;
} py_types_part;

/* Called by load; opens the resource types of refs too. */
int py_types_load(ErlNifEnv *env);

int py_types_init(PyObject *module, py_state *st);
int py_types_traverse(py_state *st, visitproc visit, void *arg);
void py_types_clear(py_state *st);

/* types_atom.c */
int py_types_atom_init(PyObject *module, py_state *st);
int py_types_atom_traverse(py_state *st, visitproc visit, void *arg);
void py_types_atom_clear(py_state *st);

/* The value of an atom seen for the first time; use py_types_atom_value. Borrowed. */
PyObject *py_types_atom_add(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term);
/* The Atom of that name, made under the quota. New reference. */
PyObject *py_types_atom_make(py_state *st, PyObject *name);
/* The Atom of that name when Erlang has it already, else the name itself. New reference. */
PyObject *py_types_atom_or_str(py_state *st, PyObject *name);
/* The text of any atom as an exact str. New reference. */
PyObject *py_types_atom_text(ErlNifEnv *env, ERL_NIF_TERM term);

/* types_handle.c */
int py_types_handle_init(PyObject *module, py_state *st);
PyObject *py_types_handle_new(PyTypeObject *type, ErlNifEnv *env, ERL_NIF_TERM term);
ERL_NIF_TERM py_types_handle_term(PyObject *handle, ErlNifEnv *env);

/* types_data.c */
int py_types_data_init(PyObject *module, py_state *st);
PyObject *py_types_bitstring_from_term(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term);
int py_types_bitstring_to_term(PyObject *bitstring, ErlNifEnv *env, ERL_NIF_TERM *out);
/* Steals both references, also on failure. */
PyObject *py_types_improper_new(py_state *st, PyObject *items, PyObject *tail);

/* Borrowed: an atom's value lives as long as its interpreter. */
static inline PyObject *py_types_atom_find(py_types_part *types, ERL_NIF_TERM term)
{
    py_atom_map *map = atomic_load_explicit(&types->atoms, memory_order_acquire);
    for (size_t i = (size_t)(term >> 6) & map->mask;; i = (i + 1) & map->mask) {
        ERL_NIF_TERM word = atomic_load_explicit(&map->slots[i].word, memory_order_acquire);
        if (word == term)
            return map->slots[i].value;
        if (word == 0)
            return NULL;
    }
}

#endif
