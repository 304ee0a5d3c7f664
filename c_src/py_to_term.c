/* Python objects to Erlang terms. No state but the call's own; attached. Exact built-in types go straight; other types
 * first ask the codec registry, then go by what they are a kind of; what remains becomes a ref.
 *
 * The terms of a container's items gather on one stack for the whole call, indexed because it may move when it grows.
 * Python code (an encoder, a __repr__) may run between any two items: nothing borrowed is kept across an encode(). */
#include "state.h"

#include <math.h>

#include "atoms.h"
#include "bigint.h"
#include "buffer.h"
#include "convert.h"
#include "map.h"
#include "stack.h"

#define STACK_FIXED 128
#define KEYS 32 /* a power of two */
#define KEY_MAX 64

typedef struct level { /* the containers being converted, innermost first */
    PyObject *obj;
    struct level *up;
} level;

typedef struct { /* a dict key that became a binary in walk.env; a strong reference keeps its address its own */
    PyObject *text;
    ERL_NIF_TERM term;
} key;

typedef struct {
    py_state *st;
    ErlNifEnv *env;
    unsigned flags;
    unsigned depth;
    size_t items_left;
    level *levels;
    ERL_NIF_TERM *stack;
    size_t used, size;
    bool has_keys; /* `keys` is set up */
    key keys[KEYS];
    ERL_NIF_TERM fixed[STACK_FIXED];
} walk;

static int encode(walk *w, PyObject *obj, ERL_NIF_TERM *out);

/* Room for n more; their index. */
static bool push(walk *w, size_t n, size_t *base)
{
    if (PY_UNLIKELY(n > w->size - w->used)) {
        size_t size = w->size * 2;
        while (size - w->used < n)
            size *= 2;
        ERL_NIF_TERM *bigger = enif_alloc(size * sizeof *bigger);
        if (bigger == NULL) {
            PyErr_NoMemory();
            return false;
        }
        memcpy(bigger, w->stack, w->used * sizeof *bigger);
        if (w->stack != w->fixed)
            enif_free(w->stack);
        w->stack = bigger;
        w->size = size;
    }
    *base = w->used;
    w->used += n;
    return true;
}

static void raise_too_deep(walk *w)
{
    for (level *a = w->levels; a != NULL; a = a->up)
        for (level *b = a->up; b != NULL; b = b->up)
            if (a->obj == b->obj) {
                PyErr_Format(PyExc_ValueError, "a %.100s that contains itself has no Erlang form",
                             Py_TYPE(a->obj)->tp_name);
                return;
            }
    PyErr_Format(PyExc_RecursionError, "Python object nested deeper than %u levels", w->st->types.max_depth);
}

static bool enter(walk *w, level *here, PyObject *obj, size_t items)
{
    here->obj = obj;
    here->up = w->levels;
    if (PY_UNLIKELY(w->depth >= w->st->types.max_depth)) {
        raise_too_deep(w);
        return false;
    }
    if (PY_UNLIKELY(++w->depth > PY_CONV_SAFE_DEPTH && py_stack_is_short())) {
        PyErr_SetString(PyExc_RecursionError, "no stack left for a Python object nested this deep");
        goto up;
    }
    if (PY_UNLIKELY(w->items_left < items)) {
        PyErr_Format(PyExc_ValueError, "Python object of more than %zu items", w->st->types.max_items);
        goto up;
    }
    if (PY_UNLIKELY(Py_EnterRecursiveCall(" while converting to an Erlang term")))
        goto up;
    w->levels = here;
    w->items_left -= items;
    return true;
up:
    w->depth--;
    return false;
}

static void leave(walk *w, level *here)
{
    w->levels = here->up;
    w->depth--;
    Py_LeaveRecursiveCall();
}

static int encode_memory(walk *w, PyObject *owner, const void *data, size_t size, ERL_NIF_TERM *out)
{
    if (size >= PY_BUFFER_PIN_MIN)
        *out = py_ref_binary(w->st, w->env, owner, data, size);
    else
        memcpy(enif_make_new_binary(w->env, size, out), data, size);
    return 0;
}

static int encode_bytes(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    return encode_memory(w, obj, PyBytes_AS_STRING(obj), (size_t)PyBytes_GET_SIZE(obj), out);
}

static int encode_str(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    if (PY_LIKELY(PyUnicode_IS_COMPACT_ASCII(obj)))
        return encode_memory(w, obj, PyUnicode_DATA(obj), (size_t)PyUnicode_GET_LENGTH(obj), out);
    PyObject *utf8 = PyUnicode_AsUTF8String(obj);
    if (utf8 == NULL)
        return -1;
    encode_bytes(w, utf8, out);
    Py_DECREF(utf8);
    return 0;
}

static int encode_int(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    int overflow;

    if (PY_LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)obj))) {
        *out = enif_make_int64(w->env, PyUnstable_Long_CompactValue((PyLongObject *)obj));
        return 0;
    }
    long long value = PyLong_AsLongLongAndOverflow(obj, &overflow);
    if (overflow != 0)
        return py_bigint_to_term(w->env, obj, out);
    *out = enif_make_int64(w->env, value);
    return 0;
}

static int encode_float(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    double value = PyFloat_AS_DOUBLE(obj);
    if (PY_LIKELY(isfinite(value)))
        *out = enif_make_double(w->env, value);
    else
        *out = isnan(value) ? py_atoms.nan : value > 0 ? py_atoms.infinity : py_atoms.neg_infinity;
    return 0;
}

/* Item i, which is there, of an exact list. */
static int encode_list_item(walk *w, PyObject *list, Py_ssize_t i, ERL_NIF_TERM *out)
{
#ifdef Py_GIL_DISABLED
    PyObject *item = PyList_GetItemRef(list, i);
    if (item == NULL) { /* another thread took items away */
        PyErr_SetString(PyExc_RuntimeError, "list changed size while it was converted");
        return -1;
    }
#else
    PyObject *item = PyList_GET_ITEM(list, i);
    if (Py_TYPE(item) == &PyLong_Type) /* runs no code: the list keeps it */
        return encode_int(w, item, out);
    Py_INCREF(item);
#endif
    int made = encode(w, item, out);
    Py_DECREF(item);
    return made;
}

static int encode_list(walk *w, PyObject *list, ERL_NIF_TERM *out)
{
    Py_ssize_t n = PyList_GET_SIZE(list), i;
    level here;
    size_t base;
    int result = -1;

    if (!enter(w, &here, list, (size_t)n))
        return -1;
    if (!push(w, (size_t)n, &base))
        goto done;
    for (i = 0; i < n && PyList_GET_SIZE(list) == n; i++) {
        ERL_NIF_TERM term;
        if (PY_UNLIKELY(encode_list_item(w, list, i, &term) < 0))
            goto pop;
        w->stack[base + (size_t)i] = term;
    }
    if (PY_UNLIKELY(PyList_GET_SIZE(list) != n || i != n)) {
        PyErr_SetString(PyExc_RuntimeError, "list changed size while it was converted");
        goto pop;
    }
    *out = enif_make_list_from_array(w->env, w->stack + base, (unsigned)n);
    result = 0;
pop:
    w->used = base;
done:
    leave(w, &here);
    return result;
}

/* The items of a tuple, to the stack. */
static int encode_items(walk *w, PyObject *tuple, size_t *base)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);

    if (!push(w, (size_t)n, base))
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        ERL_NIF_TERM term;
        if (PY_UNLIKELY(encode(w, PyTuple_GET_ITEM(tuple, i), &term) < 0)) {
            w->used = *base;
            return -1;
        }
        w->stack[*base + (size_t)i] = term;
    }
    return 0;
}

static int encode_tuple(walk *w, PyObject *tuple, ERL_NIF_TERM *out)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    level here;
    size_t base;
    int result = -1;

    if (PY_UNLIKELY(n > (1 << 24) - 1)) {
        PyErr_Format(PyExc_ValueError, "an Erlang tuple has at most 16777215 elements, not %zd", n);
        return -1;
    }
    if (!enter(w, &here, tuple, (size_t)n))
        return -1;
    if (encode_items(w, tuple, &base) == 0) {
        *out = enif_make_tuple_from_array(w->env, w->stack + base, (unsigned)n);
        w->used = base;
        result = 0;
    }
    leave(w, &here);
    return result;
}

static int encode_improper(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    PyObject *items = ((py_improper *)obj)->items;
    size_t n = (size_t)PyTuple_GET_SIZE(items), base;
    level here;
    int result = -1;

    if (!enter(w, &here, obj, n + 1))
        return -1;
    if (encode_items(w, items, &base) < 0)
        goto done;
    if (encode(w, ((py_improper *)obj)->tail, out) < 0)
        goto pop;
    if (enif_is_list(w->env, *out)) {
        PyErr_SetString(PyExc_ValueError, "the tail of an ImproperList became a list");
        goto pop;
    }
    while (n-- > 0)
        *out = enif_make_list_cell(w->env, w->stack[base + n], *out);
    result = 0;
pop:
    w->used = base;
done:
    leave(w, &here);
    return result;
}

static void forget_keys(walk *w)
{
    if (!w->has_keys)
        return;
    for (size_t i = 0; i < KEYS; i++)
        Py_XDECREF(w->keys[i].text);
    w->has_keys = false;
}

/* A key of a dict that is not alone: dicts that come in numbers have the same keys, which become one binary. */
static int encode_key(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    if (w->levels->up == NULL || Py_TYPE(obj) != &PyUnicode_Type || PyUnicode_GET_LENGTH(obj) > KEY_MAX)
        return encode(w, obj, out);
    if (!w->has_keys) {
        memset(w->keys, 0, sizeof w->keys);
        w->has_keys = true;
    }
    key *slot = &w->keys[((uintptr_t)obj >> 4 ^ (uintptr_t)obj >> 9) & (KEYS - 1)];
    if (slot->text == obj) {
        *out = slot->term;
        return 0;
    }
    if (encode_str(w, obj, out) < 0)
        return -1;
    Py_XSETREF(slot->text, Py_NewRef(obj));
    slot->term = *out;
    return 0;
}

/* Keys of these types are one term only if they are one key in Python: no search for equal ones is needed. */
static bool distinct_by_type(py_types_part *types, PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    return type == &PyUnicode_Type || type == &PyLong_Type || type == types->atom ||
           (type == &PyFloat_Type && isfinite(PyFloat_AS_DOUBLE(key)));
}

/* The map of the n keys at `base` and the n values after them. `sure` says that no two keys are equal. */
static int make_map(walk *w, size_t base, PyObject *const *keys, size_t n, bool sure, ERL_NIF_TERM *out)
{
    size_t first, second;
    int found = 0;

    if (n > PY_MAP_SMALL && !sure)
        found = py_map_duplicate(w->stack + base, n, &first, &second);
    if (found == 0) {
        int made = py_map_make(w->env, w->stack + base, w->stack + base + n, n, out);
        if (PY_LIKELY(made > 0))
            return 0;
        found = made < 0 ? -1 : py_map_duplicate(w->stack + base, n, &first, &second);
    }
    if (found > 0)
        PyErr_Format(PyExc_ValueError, "the keys %.200R and %.200R of a dict are one key in Erlang", keys[first],
                     keys[second]);
    else
        PyErr_NoMemory();
    return -1;
}

/* Encodes n keys and (unless `values` is NULL: all are []) n values to the stack and makes their map. */
static int encode_entries(walk *w, PyObject *const *keys, PyObject *const *values, size_t n, ERL_NIF_TERM *out)
{
    size_t base;
    bool sure = true;
    int result = -1;

    if (!push(w, 2 * n, &base))
        return -1;
    for (size_t i = 0; i < n; i++) {
        ERL_NIF_TERM key, value;
        if (PY_UNLIKELY(encode_key(w, keys[i], &key) < 0))
            goto pop;
        if (values == NULL)
            value = enif_make_list(w->env, 0);
        else if (PY_UNLIKELY(encode(w, values[i], &value) < 0))
            goto pop;
        w->stack[base + i] = key;
        w->stack[base + n + i] = value;
        sure = sure && distinct_by_type(&w->st->types, keys[i]);
    }
    result = make_map(w, base, keys, n, sure, out);
pop:
    w->used = base;
    return result;
}

/* As encode_entries, in an env of its own, so that only the finished map gets into w->env. */
static int encode_entries_apart(walk *w, PyObject *const *keys, PyObject *const *values, size_t n, ERL_NIF_TERM *out)
{
    ErlNifEnv *outer = w->env;
    int result = -1;

    forget_keys(w);
    if ((w->env = enif_alloc_env()) == NULL) {
        PyErr_NoMemory();
    } else {
        if ((result = encode_entries(w, keys, values, n, out)) == 0)
            *out = enif_make_copy(outer, *out);
        forget_keys(w);
        enif_free_env(w->env);
    }
    w->env = outer;
    return result;
}

/* A map from n keys and values (NULL: all are []); takes over the references in both arrays. */
static int encode_pairs(walk *w, PyObject *owner, PyObject **keys, PyObject **values, size_t n, ERL_NIF_TERM *out)
{
    level here;
    int result = -1;

    if (enter(w, &here, owner, 2 * n)) {
        result = PY_UNLIKELY(py_map_is_wasteful(n)) ? encode_entries_apart(w, keys, values, n, out)
                                                    : encode_entries(w, keys, values, n, out);
        leave(w, &here);
    }
    for (size_t i = 0; i < n; i++) {
        Py_DECREF(keys[i]);
        if (values != NULL)
            Py_DECREF(values[i]);
    }
    return result;
}

#define PAIRS_FIXED 16

/* A snapshot of an exact dict, taken at once: no Python code runs until it is complete. */
static int encode_dict(walk *w, PyObject *dict, ERL_NIF_TERM *out)
{
    PyObject *fixed[2 * PAIRS_FIXED], **items = fixed, *key, *value;
    Py_ssize_t pos = 0;
    size_t n, i = 0;
    bool memory = true;

    Py_BEGIN_CRITICAL_SECTION(dict);
    n = (size_t)PyDict_GET_SIZE(dict);
    if (n > PAIRS_FIXED)
        memory = (items = enif_alloc(2 * n * sizeof *items)) != NULL;
    while (memory && i < n && PyDict_Next(dict, &pos, &key, &value)) {
        items[i] = Py_NewRef(key);
        items[n + i] = Py_NewRef(value);
        i++;
    }
    Py_END_CRITICAL_SECTION();
    if (!memory) {
        PyErr_NoMemory();
        return -1;
    }
    int result = encode_pairs(w, dict, items, items + n, n, out);
    if (items != fixed)
        enif_free(items);
    return result;
}

/* A list of (key, value) tuples, of a Mapping that is no exact dict. */
static int encode_item_list(walk *w, PyObject *owner, PyObject *list, ERL_NIF_TERM *out)
{
    size_t n = (size_t)PyList_GET_SIZE(list);
    PyObject **items = enif_alloc(2 * n * sizeof *items + 1);

    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        PyObject *pair = PyList_GET_ITEM(list, i);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2) {
            PyErr_Format(PyExc_TypeError, "items() of %.100s gave something else than pairs", Py_TYPE(owner)->tp_name);
            while (i-- > 0) {
                Py_DECREF(items[i]);
                Py_DECREF(items[n + i]);
            }
            enif_free(items);
            return -1;
        }
        items[i] = Py_NewRef(PyTuple_GET_ITEM(pair, 0));
        items[n + i] = Py_NewRef(PyTuple_GET_ITEM(pair, 1));
    }
    int result = encode_pairs(w, owner, items, items + n, n, out);
    enif_free(items);
    return result;
}

static int encode_mapping(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    PyObject *list = PyMapping_Items(obj);
    if (list == NULL)
        return -1;
    int result = encode_item_list(w, obj, list, out);
    Py_DECREF(list);
    return result;
}

static int encode_set(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    PyObject *list = PySequence_List(obj);
    if (list == NULL)
        return -1;
    size_t n = (size_t)PyList_GET_SIZE(list);
    PyObject **items = enif_alloc(n * sizeof *items + 1);
    int result = -1;
    if (items == NULL) {
        PyErr_NoMemory();
    } else {
        for (size_t i = 0; i < n; i++)
            items[i] = Py_NewRef(PyList_GET_ITEM(list, (Py_ssize_t)i));
        result = encode_pairs(w, obj, items, NULL, n, out);
        enif_free(items);
    }
    Py_DECREF(list);
    return result;
}

/* bytearray, memoryview: copied while the export holds their size. 0 when it is not contiguous. */
static int encode_view(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    Py_buffer view;
    if (PyObject_GetBuffer(obj, &view, PyBUF_CONTIG_RO) < 0)
        return PyErr_ExceptionMatches(PyExc_BufferError) ? (PyErr_Clear(), 0) : -1;
    memcpy(enif_make_new_binary(w->env, (size_t)view.len, out), view.buf, (size_t)view.len);
    PyBuffer_Release(&view);
    return 1;
}

/* What remains of the law when no encoder wants the object. */
static int encode_kind(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    if (PyLong_Check(obj))
        return encode_int(w, obj, out);
    if (PyFloat_Check(obj))
        return encode_float(w, obj, out);
    if (PyUnicode_Check(obj))
        return encode_str(w, obj, out);
    if (PyBytes_Check(obj))
        return encode_bytes(w, obj, out);
    if (PyTuple_Check(obj))
        return encode_tuple(w, obj, out);
    if (PyList_Check(obj))
        return encode_list(w, obj, out);
    if (PyDict_Check(obj))
        return encode_mapping(w, obj, out);
    if (PyAnySet_Check(obj))
        return encode_set(w, obj, out);
    if (PyByteArray_Check(obj) || PyMemoryView_Check(obj)) {
        int made = encode_view(w, obj, out);
        if (made != 0)
            return made < 0 ? -1 : 0;
    }
    if (w->flags & PY_CONV_NO_REFS) {
        PyErr_Format(PyExc_TypeError, "an object of type %.200s has no Erlang form", Py_TYPE(obj)->tp_name);
        return -1;
    }
    return py_ref_make(w->st, w->env, obj, out);
}

static int encode_other(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    PyObject *encoder, *simpler;
    level here;

    int found = py_codec_find(w->st, Py_TYPE(obj), &encoder);
    if (found <= 0)
        return found < 0 ? -1 : encode_kind(w, obj, out);
    if (!enter(w, &here, obj, 1)) {
        Py_DECREF(encoder);
        return -1;
    }
    simpler = PyObject_CallOneArg(encoder, obj);
    Py_DECREF(encoder);
    int result = -1;
    if (simpler == Py_NotImplemented)
        result = encode_kind(w, obj, out);
    else if (simpler == obj)
        PyErr_Format(PyExc_ValueError, "the encoder of %.200s gave back the object itself", Py_TYPE(obj)->tp_name);
    else if (simpler != NULL)
        result = encode(w, simpler, out);
    Py_XDECREF(simpler);
    leave(w, &here);
    return result;
}

static int encode(walk *w, PyObject *obj, ERL_NIF_TERM *out)
{
    PyTypeObject *type = Py_TYPE(obj);
    py_types_part *types = &w->st->types;

    if (type == &PyUnicode_Type)
        return encode_str(w, obj, out);
    if (type == &PyLong_Type)
        return encode_int(w, obj, out);
    if (type == &PyFloat_Type)
        return encode_float(w, obj, out);
    if (obj == Py_None)
        *out = py_atoms.none;
    else if (type == &PyBool_Type)
        *out = obj == Py_True ? py_atoms.true_ : py_atoms.false_;
    else if (type == types->atom)
        *out = ((py_atom *)obj)->term;
    else if (type == &PyTuple_Type)
        return encode_tuple(w, obj, out);
    else if (type == &PyList_Type)
        return encode_list(w, obj, out);
    else if (type == &PyDict_Type)
        return encode_dict(w, obj, out);
    else if (type == &PyBytes_Type)
        return encode_bytes(w, obj, out);
    else if (type == types->pid || type == types->reference || type == types->port || type == types->fun)
        *out = py_types_handle_term(obj, w->env);
    else if (type == types->buffer)
        return py_buffer_to_term(w->st, w->env, obj, out);
    else if (type == types->bitstring)
        return py_types_bitstring_to_term(obj, w->env, out);
    else if (type == types->improper)
        return encode_improper(w, obj, out);
    else if (type == &PySet_Type || type == &PyFrozenSet_Type)
        return encode_set(w, obj, out);
    else
        return encode_other(w, obj, out);
    return 0;
}

int py_py_to_term(py_state *st, ErlNifEnv *env, PyObject *obj, unsigned flags, ERL_NIF_TERM *out)
{
    walk w; /* the array is not cleared: that would cost more than most conversions */

    if (PY_UNLIKELY(st->types.atom_names == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "this Python interpreter is ending");
        return -1;
    }
    w.st = st;
    w.env = env;
    w.flags = flags;
    w.depth = 0;
    w.items_left = st->types.max_items == 0 ? SIZE_MAX : st->types.max_items;
    w.levels = NULL;
    w.stack = w.fixed;
    w.used = 0;
    w.size = STACK_FIXED;
    w.has_keys = false;
    int result = encode(&w, obj, out);
    forget_keys(&w);
    if (w.stack != w.fixed)
        enif_free(w.stack);
    return result;
}
