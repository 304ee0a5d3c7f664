/* The part that gathers the types: init, traversal, clearing, limits of a conversion, and `roundtrip` for tests.
 * Attached. */
#include "state.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "buffer.h"
#include "convert.h"
#include "map.h"

#define MAX_DEPTH_LIMIT 10000 /* frames of a conversion are about 200 bytes: 2 MB of the 8 MB of a worker */

/* The emulator sets malloc's trim threshold, which switches off glibc's learning of its mmap threshold: with that at
 * 128 KiB for ever, each larger Python object is mapped and faulted in anew (1 MiB: 0.4 ms instead of 0.05). */
static void keep_freed_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 8 * 1024 * 1024);
    mallopt(M_TRIM_THRESHOLD, 16 * 1024 * 1024);
#endif
}

int py_types_load(ErlNifEnv *env)
{
    keep_freed_memory();
    py_map_load();
    return py_ref_load(env);
}

/* roundtrip(obj, flags=0): to an Erlang term and back. */
static PyObject *roundtrip(PyObject *module, PyObject *args)
{
    py_state *st = py_state_of_module(module);
    PyObject *obj, *result = NULL;
    unsigned flags = 0;
    ERL_NIF_TERM term;

    if (!PyArg_ParseTuple(args, "O|I:roundtrip", &obj, &flags))
        return NULL;
    ErlNifEnv *env = enif_alloc_env();
    if (env == NULL)
        return PyErr_NoMemory();
    if (py_py_to_term(st, env, obj, flags, &term) == 0)
        result = py_term_to_py(st, env, term, flags);
    enif_free_env(env);
    return result;
}

/* term_text(obj): the term that it becomes, as io:format("~p") would show it but for strings. */
static PyObject *term_text(PyObject *module, PyObject *obj)
{
    ERL_NIF_TERM term;
    PyObject *result = NULL;
    char *text = NULL;
    ErlNifEnv *env = enif_alloc_env();

    if (env == NULL)
        return PyErr_NoMemory();
    if (py_py_to_term(py_state_of_module(module), env, obj, 0, &term) == 0) {
        size_t size = 1 << 16;
        if ((text = enif_alloc(size)) == NULL || enif_snprintf(text, size, "%T", term) < 0)
            PyErr_NoMemory();
        else
            result = PyUnicode_DecodeUTF8(text, (Py_ssize_t)strnlen(text, size), "replace");
    }
    if (text != NULL)
        enif_free(text);
    enif_free_env(env);
    return result;
}

static PyObject *set_limits(PyObject *module, PyObject *args)
{
    py_types_part *types = &py_state_of_module(module)->types;
    unsigned depth;
    Py_ssize_t items;

    if (!PyArg_ParseTuple(args, "In:_set_limits", &depth, &items))
        return NULL;
    if (depth == 0 || depth > MAX_DEPTH_LIMIT || items < 0)
        return PyErr_Format(PyExc_ValueError, "depth is 1 to %d and items 0 (no bound) or more", MAX_DEPTH_LIMIT);
    types->max_depth = depth;
    types->max_items = (size_t)items;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"roundtrip", roundtrip, METH_VARARGS, NULL},
    {"term_text", term_text, METH_O, NULL},
    {"_set_limits", set_limits, METH_VARARGS, NULL},
    {NULL},
};

int py_types_init(PyObject *module, py_state *st)
{
    st->types.max_depth = PY_CONV_MAX_DEPTH;
    if (py_types_atom_init(module, st) < 0 || py_types_handle_init(module, st) < 0 ||
        py_types_data_init(module, st) < 0 || py_buffer_init(module, st) < 0 || py_codec_init(module, st) < 0)
        return -1;
    return PyModule_AddFunctions(module, methods);
}

int py_types_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->types.pid);
    Py_VISIT(st->types.reference);
    Py_VISIT(st->types.port);
    Py_VISIT(st->types.fun);
    Py_VISIT(st->types.bitstring);
    Py_VISIT(st->types.improper);
    Py_VISIT(st->types.buffer);
    int stop = py_codec_traverse(st, visit, arg);
    return stop != 0 ? stop : py_types_atom_traverse(st, visit, arg);
}

void py_types_clear(py_state *st)
{
    py_codec_clear(st);
    py_types_atom_clear(st);
    for (size_t i = 0; i < PY_TYPES_KEYS; i++)
        Py_CLEAR(st->types.keys[i]);
    Py_CLEAR(st->types.pid);
    Py_CLEAR(st->types.reference);
    Py_CLEAR(st->types.port);
    Py_CLEAR(st->types.fun);
    Py_CLEAR(st->types.bitstring);
    Py_CLEAR(st->types.improper);
    Py_CLEAR(st->types.buffer);
}
