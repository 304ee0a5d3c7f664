/* Maps from arrays of keys and values, around two faults of enif_make_map_from_arrays. Attached or not. */
#ifndef ERLANG_PYTHON_MAP_H
#define ERLANG_PYTHON_MAP_H

#include "common.h"

/* Looks at the emulator's version. Called by load. */
void py_map_load(void);

/* Up to this many keys the emulator finds equal ones itself. */
#define PY_MAP_SMALL 32

/* Whether a map of n keys leaves garbage in the env that it is made in: make it in one of its own and copy it. */
bool py_map_is_wasteful(size_t n);

/* 1 and *out; 0 when two keys are equal (found for certain up to PY_MAP_SMALL keys only); -1 out of memory. */
int py_map_make(ErlNifEnv *env, ERL_NIF_TERM *keys, ERL_NIF_TERM *values, size_t n, ERL_NIF_TERM *out);

/* Two equal keys: 1 and their indices, 0 when there are none, -1 out of memory. */
int py_map_duplicate(const ERL_NIF_TERM *keys, size_t n, size_t *first, size_t *second);

#endif
