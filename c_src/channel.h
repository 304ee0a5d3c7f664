/* Channels: two bounded queues of terms, one to Python and one to Erlang, in one resource (docs/channels.md).
 *
 * Each term sits in an env of its own, made by the sender and given back by the receiver. Who finds a queue full or
 * empty leaves a *waiter* and waits elsewhere: a Python thread or coroutine in a callback slot, an Erlang process for a
 * message {Ref, py_channel}. Waiters are called all at once when the state changes (empty to not empty; down to half of
 * the bounds; closed) and look again, so no call can be lost with its receiver.
 *
 * channel.lock is a leaf; nothing is sent, copied or converted while it is held. Any thread. */
#ifndef ERLANG_PYTHON_CHANNEL_H
#define ERLANG_PYTHON_CHANNEL_H

#include "common.h"

typedef struct py_channel py_channel;
typedef struct py_channel_item py_channel_item;

enum { PY_CHANNEL_TO_PYTHON, PY_CHANNEL_TO_ERLANG, PY_CHANNEL_QUEUES };

struct py_channel_item {
    py_channel_item *next;
    ErlNifEnv *env;
    ERL_NIF_TERM term;
    size_t bytes;
};

typedef struct {
    PyTypeObject *type;
} py_channel_part;

extern ErlNifResourceType *py_channel_rtype;
extern _Atomic long py_channels_live;

int py_channel_load(ErlNifEnv *env);

int py_channel_init(PyObject *module, py_state *st);
int py_channel_traverse(py_state *st, visitproc visit, void *arg);
void py_channel_clear(py_state *st);

/* A resource with one reference, or NULL. */
py_channel *py_channel_new(size_t capacity, size_t max_bytes);

/* An item with an empty env; fill in env and term, then push, or give it back. */
py_channel_item *py_channel_item_get(py_channel *ch);
void py_channel_item_put(py_channel *ch, py_channel_item *item);

typedef enum { PY_CHANNEL_OK, PY_CHANNEL_WAIT, PY_CHANNEL_CLOSED } py_channel_answer;

/* OK: the channel has the item. WAIT: it is full. `env`: the calling env on a scheduler, else NULL. */
py_channel_answer py_channel_push(py_channel *ch, int queue, py_channel_item *item, ErlNifEnv *env);

/* A chain of up to `max` items. WAIT: it is empty. CLOSED: and nothing will come. */
py_channel_answer py_channel_pop(py_channel *ch, int queue, size_t max, py_channel_item **items, ErlNifEnv *env);

/* Leaves the callback slot `id` as a waiter for room (sender) or for an item; false when there is no need to wait. */
bool py_channel_wait(py_channel *ch, int queue, bool sender, uint64_t id);

/* Takes that waiter back. */
void py_channel_forget(py_channel *ch, uint64_t id);

void py_channel_close(py_channel *ch, int queue, ErlNifEnv *env);

size_t py_channel_length(py_channel *ch, int queue);

PY_NIF(channel_new_nif);
PY_NIF(channel_send_nif);
PY_NIF(channel_recv_nif);
PY_NIF(channel_forget_nif);
PY_NIF(channel_close_nif);
PY_NIF(channel_info_nif);

#endif
