/* What Erlang posts to a loop, and what the loop's Python tells its event process (py_event_loop_proc).
 *
 * A *port* is the pair of both ends: a resource, which the event process has, and the Python object
 * `_erlang.EventPort`, which belongs to the loop's thread. A batch of events is one py_event: {Type, Id, Data} each,
 * dispatched by id to what Python has registered: a Future, or a callable that gets (type, data).
 *
 * Lock: `lock` of a port guards the pid and what was sent before there was one; rank: leaf. */
#ifndef ERLANG_PYTHON_POLLER_NIF_H
#define ERLANG_PYTHON_POLLER_NIF_H

#include "common.h"

#include "poller.h"

typedef struct py_event_port py_event_port;

typedef struct {
    PyTypeObject *type;
    PyObject *future; /* asyncio.Future, imported by the first port */
    PyObject *str_done, *str_set_result, *str_failed, *str_down;
} py_poller_nif_part;

int py_poller_nif_init(PyObject *module, py_state *st);
int py_poller_nif_traverse(py_state *st, visitproc visit, void *arg);
void py_poller_nif_clear(py_state *st);

int py_poller_nif_load(ErlNifEnv *env);

/* Sends `term`, which `env` owns, to the event process, now or as soon as it is there. A thread that is not a
 * scheduler. */
void py_event_port_send(py_event_port *port, ErlNifEnv *env, ERL_NIF_TERM term);
void py_event_port_keep(py_event_port *port);
void py_event_port_release(py_event_port *port);

/* events_attach(Port) -> ok | closed: the caller is its event process, and gets what was sent to it before. */
PY_NIF(events_attach_nif);
/* events_post(Port, [{Type, Id, Data}]) -> ok | closed */
PY_NIF(events_post_nif);

#endif
