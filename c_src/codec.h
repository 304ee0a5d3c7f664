/* The codec registry as C sees it: which Python function, if any, turns an object of a type into something simpler.
 * The policy itself is python/erlang/_codec.py; this is its cache, per interpreter. All functions: attached. */
#ifndef ERLANG_PYTHON_CODEC_H
#define ERLANG_PYTHON_CODEC_H

#include "common.h"

#define PY_CODEC_SLOTS 64 /* a power of two */

typedef struct {
    PyTypeObject *type; /* a strong reference, so that no other type takes its address */
    PyObject *encoder;  /* NULL: none */
} py_codec_slot;

typedef struct {
    py_codec_slot slots[PY_CODEC_SLOTS];
    PyObject *find_encoder; /* erlang._codec.find_encoder, once it was needed */
    uint64_t generation;    /* counts the registrations */
} py_codec_part;

int py_codec_init(PyObject *module, py_state *st);
int py_codec_traverse(py_state *st, visitproc visit, void *arg);
void py_codec_clear(py_state *st);

/* Fills a slot of the state, once, with an attribute of a module of ours. 0, or -1 with an exception. */
int py_codec_import(py_state *st, PyObject **slot, const char *module_name, const char *name);

/* 1 and a new reference, 0 when the type has no encoder, -1 with an exception. */
int py_codec_find(py_state *st, PyTypeObject *type, PyObject **encoder);

#endif
