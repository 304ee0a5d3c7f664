/* Streams: what an iterator of Python's yields, sent item by item to the process that asked for it, as far as its
 * credit goes: {py_stream, Ref, {data, T}}, in the end once {py_stream, Ref, done} or {py_stream, Ref, {error, E}}.
 *
 * A stream is a resource, and Ref is it. Its work is done by *step* requests: an iterator's step runs on a worker,
 * sends a batch of items and gives the worker back; with no credit left the stream is parked, without a request. An
 * async iterator is pumped by one request on the context's loop. At any time there is at most one of them; each ends
 * like any request, by itself or by whoever stops it, and one that is stopped sends the stream's last message.
 *
 * Owner's death and cancel end a stream: the iterator is closed, so `finally` runs. Closing the context ends it where
 * it is; a parked one learns of it with its next credit.
 *
 * Lock: `lock` of a stream; rank: leaf. */
#ifndef ERLANG_PYTHON_STREAM_H
#define ERLANG_PYTHON_STREAM_H

#include "common.h"

#include "loop.h"
#include "request.h"

typedef struct {
    PyTypeObject *type;       /* _erlang.Stream: the loop's side */
    PyObject *pump, *collect; /* of erlang._streams, imported by the first async iterator */
    PyObject *str_close, *str_set_result, *str_done;
} py_stream_part;

int py_stream_init(PyObject *module, py_state *st);
int py_stream_traverse(py_state *st, visitproc visit, void *arg);
void py_stream_clear(py_state *st);

int py_stream_load(ErlNifEnv *env);

/* The reply of a step request that was not stopped, or 0 when the stream goes on (or its reply comes from the loop).
 * Attached, a worker. */
ERL_NIF_TERM py_stream_step(py_context *context, py_request *req);

/* The step is over and `req` finished, `last` with the stream's last message sent: the next step, or rest. The same. */
void py_stream_rest(py_request *req, bool last);

/* A step request is freed. Any thread. */
void py_stream_release(py_request *req);

/* A whole iterator as a list: {ok, List} or {error, E}; 0 when it is an async one and the loop replies. Attached, a
 * worker. */
ERL_NIF_TERM py_stream_collect(py_context *context, py_request *req);

/* stream_start(Context, Op, Target, Function, Args, Kwargs, Credit, Flags, Callers) -> {ok, Ref} | atom. Credit -1: no
 * bound. Callers: of the owner, if it is to say for whom it runs. */
PY_NIF(stream_start_nif);
/* stream_ack(Ref, Credit) -> ok | done | undefined: it is no stream of this node's */
PY_NIF(stream_ack_nif);
/* stream_cancel(Ref) -> owner | other | done | undefined: done: it has sent its last message to the caller; owner: it
 * will. */
PY_NIF(stream_cancel_nif);

extern _Atomic long py_streams_live;

#endif
