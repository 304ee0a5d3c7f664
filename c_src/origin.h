/* Where what runs comes from: the request, seen by the code that it started. A request on a loop has an Origin in the
 * context variable `erlang.request`, so the tasks, callbacks and threads that copy its context find the process that
 * asked, its chain and its trace, also when the request has ended: an Origin owns what it holds. The deadline is not in
 * it; that is the request's own. Attached. */
#ifndef ERLANG_PYTHON_ORIGIN_H
#define ERLANG_PYTHON_ORIGIN_H

#include "common.h"

typedef struct {
    PyTypeObject *type;
    PyObject *var; /* the ContextVar */
} py_origin_part;

typedef struct {
    ErlNifPid caller;
    bool foreign; /* the caller is of another node, and the first of `callers` */
    uint64_t serial;
    uint64_t chain, parent; /* as those of a request, but `chain` is never 0 */
    uint64_t deadline_ns;   /* 0 unless the request itself runs */
    ErlNifEnv *env;         /* owns the two */
    ERL_NIF_TERM callers, trace;
    PyObject *kept; /* strong, may be NULL */
} py_origin;

int py_origin_init(PyObject *module, py_state *st);
int py_origin_traverse(py_state *st, visitproc visit, void *arg);
void py_origin_clear(py_state *st);

/* An Origin of the request, or NULL with an exception. */
PyObject *py_origin_new(py_state *st, py_request *req);

/* Of what this thread runs: the request in hand, else what its context was copied from. False: no request led here.
 * What it gives is good until py_origin_done; the request in hand must outlive it. */
bool py_origin_find(py_state *st, py_origin *out);
void py_origin_done(py_origin *origin);

/* The serial of the request that an Origin is of; 0 for another object. */
uint64_t py_origin_serial(py_state *st, PyObject *object);

#endif
