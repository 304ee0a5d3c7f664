/* Erlang terms to Python objects. No state but the call's own; attached. Depth is bounded twice, by the limits of the
 * interpreter and by Python's own recursion check, and so is the size when the operator asks for it. */
#include "state.h"

#include "atoms.h"
#include "bigint.h"
#include "buffer.h"
#include "convert.h"
#include "stack.h"

typedef struct {
    py_state *st;
    ErlNifEnv *env;
    unsigned flags;
    unsigned depth;
    size_t items_left;
} walk;

static PyObject *decode(walk *w, ERL_NIF_TERM term);

static bool enter(walk *w, size_t items)
{
    if (PY_UNLIKELY(w->depth >= w->st->types.max_depth)) {
        PyErr_Format(PyExc_RecursionError, "Erlang term nested deeper than %u levels", w->st->types.max_depth);
        return false;
    }
    if (PY_UNLIKELY(++w->depth > PY_CONV_SAFE_DEPTH && py_stack_is_short())) {
        PyErr_SetString(PyExc_RecursionError, "no stack left for an Erlang term nested this deep");
        goto up;
    }
    if (PY_UNLIKELY(w->items_left < items)) {
        PyErr_Format(PyExc_ValueError, "Erlang term of more than %zu items", w->st->types.max_items);
        goto up;
    }
    if (PY_UNLIKELY(Py_EnterRecursiveCall(" while converting an Erlang term")))
        goto up;
    w->items_left -= items;
    return true;
up:
    w->depth--;
    return false;
}

static void leave(walk *w)
{
    w->depth--;
    Py_LeaveRecursiveCall();
}

#define TEXT_HEAD 256 /* bytes that are looked at before a text is taken for ASCII */

typedef uint64_t lane __attribute__((vector_size(16)));

/* How many leading bytes are ASCII. */
static size_t ascii_prefix(const unsigned char *p, size_t n)
{
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        lane a, b, c, d;
        memcpy(&a, p + i, 16);
        memcpy(&b, p + i + 16, 16);
        memcpy(&c, p + i + 32, 16);
        memcpy(&d, p + i + 48, 16);
        a |= b | c | d;
        if ((a[0] | a[1]) & 0x8080808080808080u)
            break;
    }
    for (; i + 8 <= n; i += 8) {
        uint64_t word;
        memcpy(&word, p + i, 8);
        if (word & 0x8080808080808080u)
            break;
    }
    while (i < n && p[i] < 0x80)
        i++;
    return i;
}

/* Copies bytes as long as they are ASCII; how many those were. One pass over a long text instead of two. */
static size_t copy_ascii(unsigned char *to, const unsigned char *from, size_t n)
{
    size_t i = 0;
    for (; i + 64 <= n; i += 64) {
        lane a, b, c, d, all;
        memcpy(&a, from + i, 16);
        memcpy(&b, from + i + 16, 16);
        memcpy(&c, from + i + 32, 16);
        memcpy(&d, from + i + 48, 16);
        all = a | b | c | d;
        if ((all[0] | all[1]) & 0x8080808080808080u)
            break;
        memcpy(to + i, &a, 16);
        memcpy(to + i + 16, &b, 16);
        memcpy(to + i + 32, &c, 16);
        memcpy(to + i + 48, &d, 16);
    }
    for (; i < n && from[i] < 0x80; i++)
        to[i] = from[i];
    return i;
}

/* Strict UTF-8, as Python's own decoder has it: no surrogates, no overlong forms, nothing over U+10FFFF. Asked first
 * because a decode that fails costs an exception. */
static bool is_utf8(const unsigned char *p, size_t n)
{
    size_t i = 0;
    while (i < n) {
        unsigned char lead = p[i];
        if (lead < 0x80) {
            i++;
            continue;
        }
        size_t more;
        unsigned char low = 0x80, high = 0xbf; /* of the second byte */
        if (lead >= 0xc2 && lead <= 0xdf)
            more = 1;
        else if (lead >= 0xe0 && lead <= 0xef) {
            more = 2;
            if (lead == 0xe0)
                low = 0xa0;
            else if (lead == 0xed)
                high = 0x9f;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            more = 3;
            if (lead == 0xf0)
                low = 0x90;
            else if (lead == 0xf4)
                high = 0x8f;
        } else
            return false;
        if (n - i <= more || p[i + 1] < low || p[i + 1] > high)
            return false;
        for (size_t k = 2; k <= more; k++)
            if ((p[i + k] & 0xc0) != 0x80)
                return false;
        i += more + 1;
    }
    return true;
}

static PyObject *decode_bytes(const ErlNifBinary *binary)
{
    return PyBytes_FromStringAndSize((const char *)binary->data, (Py_ssize_t)binary->size);
}

static PyObject *decode_text(const ErlNifBinary *binary)
{
    size_t head = binary->size < TEXT_HEAD ? binary->size : TEXT_HEAD;
    size_t ascii = ascii_prefix(binary->data, head);
    if (PY_LIKELY(ascii == head)) {
        PyObject *text = PyUnicode_New((Py_ssize_t)binary->size, 0x7f);
        if (text == NULL || binary->size == 0)
            return text;
        unsigned char *to = PyUnicode_DATA(text);
        memcpy(to, binary->data, head);
        ascii += copy_ascii(to + head, binary->data + head, binary->size - head);
        if (PY_LIKELY(ascii == binary->size))
            return text;
        Py_DECREF(text);
    }
    if (is_utf8(binary->data + ascii, binary->size - ascii))
        return PyUnicode_DecodeUTF8((const char *)binary->data, (Py_ssize_t)binary->size, NULL);
    return decode_bytes(binary);
}

static PyObject *decode_bitstring(walk *w, ERL_NIF_TERM term)
{
    ErlNifBinary binary;
    if (PY_UNLIKELY(!enif_inspect_binary(w->env, term, &binary)))
        return py_types_bitstring_from_term(w->st, w->env, term);
    if (w->flags & PY_CONV_BYTES)
        return decode_bytes(&binary);
    return decode_text(&binary);
}

static PyObject *decode_integer(walk *w, ERL_NIF_TERM term)
{
    ErlNifSInt64 value;
    if (PY_LIKELY(enif_get_int64(w->env, term, &value)))
        return PyLong_FromLongLong(value);
    return py_bigint_from_term(w->env, term);
}

static PyObject *decode_atom(walk *w, ERL_NIF_TERM term)
{
    PyObject *value = py_types_atom_find(&w->st->types, term);
    if (PY_UNLIKELY(value == NULL))
        value = py_types_atom_add(w->st, w->env, term);
    return Py_XNewRef(value);
}

/* [A, B | Tail], seen when the list had no length. */
static PyObject *decode_improper(walk *w, ERL_NIF_TERM list)
{
    ERL_NIF_TERM head, tail = list;
    Py_ssize_t n = 0;
    PyObject *items, *last;

    while (enif_get_list_cell(w->env, tail, &head, &tail))
        n++;
    if (!enter(w, (size_t)n + 1))
        return NULL;
    items = PyTuple_New(n);
    for (Py_ssize_t i = 0; items != NULL && enif_get_list_cell(w->env, list, &head, &list); i++) {
        PyObject *item = decode(w, head);
        if (item == NULL)
            Py_CLEAR(items);
        else
            PyTuple_SET_ITEM(items, i, item);
    }
    last = items == NULL ? NULL : decode(w, tail);
    leave(w);
    if (last == NULL) {
        Py_XDECREF(items);
        return NULL;
    }
    return py_types_improper_new(w->st, items, last);
}

static PyObject *decode_list(walk *w, ERL_NIF_TERM list)
{
    unsigned length;
    ERL_NIF_TERM head;
    ErlNifSInt64 value;
    bool integers = false; /* the last item was one, so the next may be */

    if (PY_UNLIKELY(!enif_get_list_length(w->env, list, &length)))
        return decode_improper(w, list);
    if (!enter(w, length))
        return NULL;
    PyObject *result = PyList_New((Py_ssize_t)length), *item;
    for (Py_ssize_t i = 0; result != NULL && enif_get_list_cell(w->env, list, &head, &list); i++) {
        if (integers && enif_get_int64(w->env, head, &value)) {
            item = PyLong_FromLongLong(value);
        } else {
            item = decode(w, head);
            integers = item != NULL && PyLong_CheckExact(item);
        }
        if (PY_UNLIKELY(item == NULL))
            Py_CLEAR(result);
        else
            PyList_SET_ITEM(result, i, item);
    }
    leave(w);
    return result;
}

static PyObject *decode_elements(walk *w, const ERL_NIF_TERM *elements, int n)
{
    if (!enter(w, (size_t)n))
        return NULL;
    PyObject *result = PyTuple_New(n);
    for (int i = 0; result != NULL && i < n; i++) {
        PyObject *item = decode(w, elements[i]);
        if (PY_UNLIKELY(item == NULL))
            Py_CLEAR(result);
        else
            PyTuple_SET_ITEM(result, i, item);
    }
    leave(w);
    return result;
}

/* {Tag, ...} with a meaning: 1 and *out (NULL after an exception), or 0 when it is an ordinary tuple. */
static int decode_tagged(walk *w, const ERL_NIF_TERM *elements, int n, PyObject **out)
{
    PyObject *atom = py_types_atom_find(&w->st->types, elements[0]), *decoder;
    ErlNifBinary binary;

    if (PY_UNLIKELY(atom == NULL) && (atom = py_types_atom_add(w->st, w->env, elements[0])) == NULL) {
        *out = NULL;
        return 1;
    }
    if (!Py_IS_TYPE(atom, w->st->types.atom))
        return 0;
    if (PY_UNLIKELY(((py_atom *)atom)->tag == PY_TAG_LAZY)) {
        PyObject *module = PyImport_ImportModule("erlang._codec");
        if (module == NULL) {
            *out = NULL;
            return 1;
        }
        Py_DECREF(module);
    }
    switch (((py_atom *)atom)->tag) {
    case PY_TAG_BYTES:
        if (n != 2 || !enif_inspect_binary(w->env, elements[1], &binary))
            return 0;
        *out = decode_bytes(&binary);
        return 1;
    case PY_TAG_BUFFER:
        if (n != 2 || !enif_is_binary(w->env, elements[1]))
            return 0;
        *out = py_buffer_from_term(w->st, w->env, elements[1]);
        return 1;
    case PY_TAG_REF:
        if (n != 3)
            return 0;
        *out = py_ref_object(w->st, w->env, elements[2]);
        return *out != NULL || PyErr_Occurred() != NULL;
    case PY_TAG_DECODER:
        Py_BEGIN_CRITICAL_SECTION(atom);
        decoder = Py_XNewRef(((py_atom *)atom)->decoder);
        Py_END_CRITICAL_SECTION();
        if (decoder == NULL)
            return 0;
        PyObject *args = decode_elements(w, elements + 1, n - 1);
        *out = args == NULL ? NULL : PyObject_CallObject(decoder, args);
        Py_XDECREF(args);
        Py_DECREF(decoder);
        return 1;
    default:
        return 0;
    }
}

static PyObject *decode_tuple(walk *w, ERL_NIF_TERM term)
{
    const ERL_NIF_TERM *elements;
    PyObject *result;
    int n;

    if (!enif_get_tuple(w->env, term, &n, &elements))
        return PyErr_Format(PyExc_SystemError, "not a tuple");
    if (n > 0 && enif_is_atom(w->env, elements[0]) && decode_tagged(w, elements, n, &result))
        return result;
    return decode_elements(w, elements, n);
}

static size_t key_slot(const unsigned char *data, size_t size)
{
    uint64_t head = 0, tail = 0;
    memcpy(&head, data, size < 8 ? size : 8);
    if (size > 8)
        memcpy(&tail, data + size - 8, 8);
    head = (head ^ (tail * 0x9e3779b97f4a7c15u) ^ size) * 0xff51afd7ed558ccdu;
    return (size_t)(head >> 32) & (PY_TYPES_KEYS - 1);
}

/* A key of a map: as decode(), but short texts are found again instead of made again. */
static PyObject *decode_key(walk *w, ERL_NIF_TERM term)
{
    py_types_part *types = &w->st->types;
    ErlNifBinary binary;
    PyObject *key, *old;

    if ((w->flags & PY_CONV_BYTES) || !enif_inspect_binary(w->env, term, &binary))
        return decode(w, term);
    if (binary.size == 0 || binary.size > PY_TYPES_KEY_MAX)
        return decode_text(&binary);
    PyObject **slot = &types->keys[key_slot(binary.data, binary.size)];
    PY_FT_LOCK(&types->lock);
    key = *slot;
    if (key != NULL && (size_t)PyUnicode_GET_LENGTH(key) == binary.size &&
        memcmp(PyUnicode_DATA(key), binary.data, binary.size) == 0) {
        Py_INCREF(key);
        PY_FT_UNLOCK(&types->lock);
        return key;
    }
    PY_FT_UNLOCK(&types->lock);
    key = decode_text(&binary);
    if (key != NULL && PyUnicode_Check(key) && PyUnicode_IS_ASCII(key)) {
        PY_FT_LOCK(&types->lock);
        old = *slot;
        *slot = Py_NewRef(key);
        PY_FT_UNLOCK(&types->lock);
        Py_XDECREF(old);
    }
    return key;
}

/* The key in the dict that `key` met, for the message. */
static void raise_collision(PyObject *dict, PyObject *key)
{
    PyObject *other, *value;
    Py_ssize_t pos = 0;

    while (PyDict_Next(dict, &pos, &other, &value)) {
        Py_INCREF(other);
        int equal = PyObject_RichCompareBool(other, key, Py_EQ);
        if (equal > 0)
            PyErr_Format(PyExc_ValueError, "the keys %.200R and %.200R of a map are one key in Python", other, key);
        Py_DECREF(other);
        if (equal != 0)
            return;
    }
    PyErr_Format(PyExc_ValueError, "the key %.200R of a map meets an equal one in Python", key);
}

static int put(PyObject *dict, PyObject *key, PyObject *value, Py_ssize_t size)
{
    if (PY_UNLIKELY(PyDict_SetItem(dict, key, value) < 0)) {
        if (PyErr_ExceptionMatches(PyExc_TypeError)) {
            PyObject *cause = PyErr_GetRaisedException();
            PyErr_Format(PyExc_TypeError, "the map key %.200R cannot be a dict key: %S", key, cause);
            Py_DECREF(cause);
        }
        return -1;
    }
    if (PY_UNLIKELY(PyDict_GET_SIZE(dict) != size)) {
        raise_collision(dict, key);
        return -1;
    }
    return 0;
}

static PyObject *decode_map(walk *w, ERL_NIF_TERM map)
{
    ErlNifMapIterator iter;
    ERL_NIF_TERM key_term, value_term;
    PyObject *dict = NULL;
    size_t n;

    if (!enif_get_map_size(w->env, map, &n) ||
        !enif_map_iterator_create(w->env, map, &iter, ERL_NIF_MAP_ITERATOR_FIRST))
        return PyErr_Format(PyExc_SystemError, "not a map");
    if (!enter(w, 2 * n))
        goto destroy;
    dict = py_dict_presized((Py_ssize_t)n);
    for (Py_ssize_t size = 1; dict != NULL && enif_map_iterator_get_pair(w->env, &iter, &key_term, &value_term);
         size++, enif_map_iterator_next(w->env, &iter)) {
        PyObject *key = decode_key(w, key_term);
        PyObject *value = key == NULL ? NULL : decode(w, value_term);
        if (PY_UNLIKELY(value == NULL || put(dict, key, value, size) < 0))
            Py_CLEAR(dict);
        Py_XDECREF(key);
        Py_XDECREF(value);
    }
    leave(w);
destroy:
    enif_map_iterator_destroy(w->env, &iter);
    return dict;
}

static PyObject *decode(walk *w, ERL_NIF_TERM term)
{
    double number;

    switch (enif_term_type(w->env, term)) {
    case ERL_NIF_TERM_TYPE_ATOM:
        return decode_atom(w, term);
    case ERL_NIF_TERM_TYPE_INTEGER:
        return decode_integer(w, term);
    case ERL_NIF_TERM_TYPE_FLOAT:
        return enif_get_double(w->env, term, &number) ? PyFloat_FromDouble(number) : NULL;
    case ERL_NIF_TERM_TYPE_BITSTRING:
        return decode_bitstring(w, term);
    case ERL_NIF_TERM_TYPE_LIST:
        return decode_list(w, term);
    case ERL_NIF_TERM_TYPE_TUPLE:
        return decode_tuple(w, term);
    case ERL_NIF_TERM_TYPE_MAP:
        return decode_map(w, term);
    case ERL_NIF_TERM_TYPE_PID:
        return py_types_handle_new(w->st->types.pid, w->env, term);
    case ERL_NIF_TERM_TYPE_REFERENCE:
        return py_types_handle_new(w->st->types.reference, w->env, term);
    case ERL_NIF_TERM_TYPE_PORT:
        return py_types_handle_new(w->st->types.port, w->env, term);
    case ERL_NIF_TERM_TYPE_FUN:
        return py_types_handle_new(w->st->types.fun, w->env, term);
    default:
        PyErr_SetString(PyExc_TypeError, "an Erlang term of a kind that has no Python form");
        return NULL;
    }
}

PyObject *py_term_to_py(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term, unsigned flags)
{
    size_t items = st->types.max_items;
    walk w = {st, env, flags, 0, items == 0 ? SIZE_MAX : items};

    if (PY_UNLIKELY(st->types.atom_names == NULL)) {
        PyErr_SetString(PyExc_RuntimeError, "this Python interpreter is ending");
        return NULL;
    }
    return decode(&w, term);
}
