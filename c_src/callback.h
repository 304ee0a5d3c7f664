/* Calls from Python into Erlang: the slots that wait for an answer. See docs/callbacks.md.
 *
 * A slot has an id (generation and index) that travels with the call and comes back with the answer; correlation is by
 * that id alone. One word holds generation and state, so whoever comes with an old id finds nothing:
 *
 *     FREE ──open──► WAITING ──reply──► DONE ──close──► FREE (next generation)
 *                      │  ▲                ▲
 *                      ▼  │                │
 *                      BUSY ───────────────┘     BUSY: someone writes to the slot; a spin lock held for a copy at most
 *                      └──cancel──► CANCELLED ──close──► FREE
 *
 * Slots are never freed, so a stale pointer is harmless. The waiter closes; everyone else comes with an id.
 *
 * Chains: the function's process carries {py_chain, Chain, Id, DeadlineNs, Trace, Callers}. A request that it submits
 * names the slot it descends from (req->parent), the slot names the one above (cb->parent). A request for a context in
 * which a worker waits on one of its ancestors goes to that worker, which serves it while it waits, and only while that
 * slot is its innermost wait: the stack of a thread is the stack of the chain. So one thread is enough for any depth,
 * and no request of another chain runs on a stack that waits. */
#ifndef ERLANG_PYTHON_CALLBACK_H
#define ERLANG_PYTHON_CALLBACK_H

#include "common.h"

#include "notice.h"
#include "park.h"

enum { PY_CB_FREE, PY_CB_WAITING, PY_CB_BUSY, PY_CB_DONE, PY_CB_CANCELLED };

typedef struct py_callback py_callback;

struct py_callback {
    _Atomic uint64_t word; /* generation << 3 | state */
    uint64_t id;           /* of this generation; the waiter's */
    uint32_t index;
    py_callback *next_free;
    /* set by the waiter before the slot waits */
    py_context *context; /* where the waiter is a worker; compared, and read only as py_callback_route says */
    py_worker *worker;
    py_context *loop;   /* where the waiter blocks that context's loop; compared only */
    py_callback *under; /* the worker's wait below this one */
    uint64_t parent;
    unsigned server;
    py_notice *notice; /* fired in BUSY instead of waking the parker */
    ErlNifEnv *send_env;
    py_parker parker;
    /* set in BUSY */
    _Atomic(ERL_NIF_TERM) pid; /* the function's process, 0 before it is known */
    ErlNifEnv *env;            /* owns result */
    ERL_NIF_TERM result;       /* {ok | bytes, T} | {error, Class, Reason, Stack, Shown} */
    _Atomic unsigned nested;   /* requests queued for this wait; written under take_lock */
};

/* What is called, with what, in send_env. */
typedef struct {
    ERL_NIF_TERM target, args;
} py_callback_what;

typedef struct {
    PyTypeObject *pending_type;
    PyObject *error_type; /* erlang._calls.ErlangError, once it was needed */
} py_callback_part;

int py_callback_load(ErlNifEnv *env);

int py_callback_init(PyObject *module, py_state *st);
int py_callback_traverse(py_state *st, visitproc visit, void *arg);
void py_callback_clear(py_state *st);

/* callback.c: any thread. */

/* A slot in FREE with a new id, or NULL. */
py_callback *py_callback_new(void);
void py_callback_open(py_callback *cb); /* FREE -> WAITING */
void py_callback_close(py_callback *cb);

/* Sends {py_call, Id, Target, Args, Caller, Chain} to a server; the slot waits. False when there is none. */
bool py_callback_send(py_callback *cb, ERL_NIF_TERM target, ERL_NIF_TERM args, ERL_NIF_TERM caller, ERL_NIF_TERM chain);

/* The waiter wants no answer any more: true when the slot was cancelled (the function's process is killed), false when
 * the answer is there. */
bool py_callback_cancel(py_callback *cb);

/* Has `notice` fired when the answer comes; false when it is there, and then the notice is still the caller's. */
bool py_callback_notify(py_callback *cb, py_notice *notice);

static inline int py_callback_state(py_callback *cb)
{
    return (int)(atomic_load_explicit(&cb->word, memory_order_acquire) & 7);
}

/* Answers a slot that stands for something other than a call with {ok, true}. */
void py_callback_fire(uint64_t id);

/* Whether somebody still waits in the slot of that id. */
bool py_callback_is_waiting(uint64_t id);

/* A server's pid, for messages that are not calls. */
bool py_callback_server(unsigned hint, ErlNifPid *pid);

/* Where a request that descends from the slot `parent` goes: ok (queued for a waiting worker), undefined (the context's
 * queue) or cancelled (nobody waits for that chain any more). */
ERL_NIF_TERM py_callback_route(py_context *context, py_request *req);

/* Whether the loop that the request is for stands still until what it descends from has ended. */
bool py_callback_loop_waits(py_context *context, py_request *req);

/* One request less waits for the slot `id`. take_lock of its worker's context held. */
void py_callback_drop_nested(uint64_t id);

bool py_callback_registered(const char *name, size_t size);

extern _Atomic long py_callbacks_live;

/* callback_module.c: attached. The result as an object, or NULL with the error raised. */
PyObject *py_callback_result(py_state *st, py_callback *cb);

/* A slot with `what` to be called as a message to be sent; NULL with an exception. The call target is a name, an
 * erlang.Fun or a tuple (operation, ...). */
py_callback *py_callback_prepare(py_state *st, PyObject *target, PyObject *const *args, Py_ssize_t n,
                                 py_callback_what *what);

/* Sends it, for what this thread runs; false with an exception. */
bool py_callback_start(py_state *st, py_callback *cb, const py_callback_what *what, uint64_t until_ns);

/* Raises what a wait that is not DONE stands for. */
void py_callback_raise(py_state *st, int how);

/* seconds or None to a time of py_now_ns; 0, or -1 with an exception. */
int py_callback_until(PyObject *timeout, uint64_t *until_ns);

/* callback_pending.c and send.c */
int py_callback_pending_init(PyObject *module, py_state *st);
int py_callback_send_init(PyObject *module);

/* A Pending around an open slot that py_callback_fire answers. */
PyObject *py_callback_pending_open(py_state *st, uint64_t *id);

/* {Class, Reason, Stack} as it came from Erlang, when `exc` is an ErlangError that did. */
bool py_callback_error_term(py_state *st, PyObject *exc, ErlNifEnv *env, ERL_NIF_TERM *out);

/* callback_wait.c: attached. */
enum { PY_WAIT_DONE, PY_WAIT_TIMEOUT, PY_WAIT_STOPPED, PY_WAIT_SIGNAL };

/* Puts the slot on its worker's stack of waits, and takes it off. `w` may be NULL. */
void py_callback_enter(py_callback *cb, py_worker *w);
void py_callback_push(py_callback *cb, py_worker *w); /* the same for a slot that waits already: it serves nothing */
void py_callback_leave(py_callback *cb, py_worker *w);

/* Detaches until the slot is DONE, `until_ns` is past (PY_FOREVER: never) or the thread's request is asked to stop;
 * serves nested requests meanwhile. PY_WAIT_SIGNAL: a signal handler raised. */
int py_callback_wait(py_callback *cb, py_worker *w, uint64_t until_ns);

/* What this thread runs for Erlang, on a worker or on a context's loop, or NULL. */
py_request *py_callback_request(void);

PY_NIF(callback_server_nif);
PY_NIF(callback_begin_nif);
PY_NIF(callback_reply_nif);
PY_NIF(callback_down_nif);
PY_NIF(callback_names_nif);

#endif
