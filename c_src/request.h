/* One thing asked of a context. One object, one state machine:
 *
 *     QUEUED ──start──► RUNNING ──finish──► DONE
 *        └───────────finish──────────────────┘
 *
 * `py_request_finish` has exactly one winner, and only the winner sends the reply: the worker with a result, the
 * watchdog at a deadline, a canceller, or the context when it stops. Whoever loses says nothing. The memory belongs to
 * the queue while QUEUED and to the worker (or loop) that took it from then on; a request that was finished by someone
 * else stays where it is and is freed by its owner when it gets there.
 *
 * `stop` is why a running request should end; it is set once, before the interrupt is sent. Requests and their envs are
 * recycled through the context's freelist. */
#ifndef ERLANG_PYTHON_REQUEST_H
#define ERLANG_PYTHON_REQUEST_H

#include "common.h"

#include "poller.h"

enum { PY_OP_CALL, PY_OP_EVAL, PY_OP_EXEC, PY_OP_COUNT };

enum { REQ_QUEUED, REQ_RUNNING, REQ_DONE };

enum { PY_STOP_NONE, PY_STOP_TIMEOUT, PY_STOP_CANCELLED, PY_STOP_INTERRUPTED, PY_STOP_STOPPED };

enum {
    PY_REQ_NO_REPLY = 1u << 0, /* cast: nobody waits, and the caller's death does not matter */
    PY_REQ_TRACKED = 1u << 1,  /* can be cancelled by its reference */
    PY_REQ_BYTES = 1u << 2,    /* binaries => bytes for this request */
    PY_REQ_LOOP = 1u << 3,     /* runs on the context's loop: async.h */
    PY_REQ_GATHER = 1u << 4,   /* `args` is a list of {M, F, Args, Kwargs}: gather.h */
    PY_REQ_STREAM = 1u << 5,   /* a step of a stream, whose reply is the stream's last message: stream.h */
    PY_REQ_COLLECT = 1u << 6,  /* an iterator is asked for as a list: stream.h */
    PY_REQ_TIMED = 1u << 7,    /* the reply says where the time went: trace.h */
    PY_REQ_FOREIGN = 1u << 8,  /* for a process of another node, the first of `callers`: py_node_server.erl */
};

typedef struct py_gather py_gather; /* gather.h */
typedef struct py_stream py_stream; /* stream.c */

typedef struct py_link {
    struct py_link *next, *prev;
} py_link;

struct py_request {
    py_request *next;
    py_context *context; /* outlives its requests: it ends only when its queue is empty and its workers are gone */
    ErlNifEnv *env;      /* owns `ref`, small arguments, and in the end the reply: sending it moves this memory */
    ErlNifEnv *bulk_env; /* owns arguments that are not small; cleared as soon as they are Python objects */
    ErlNifEnv *arg_env;  /* the one of the two that owns target, function, args and kwargs */
    ERL_NIF_TERM ref, target, function, args, kwargs;
    ErlNifPid caller;
    _Atomic int state;
    _Atomic int stop;
    int op;
    unsigned flags; /* constant once it is submitted */
    bool tracked;   /* in the table: its submitter's, then whoever's that finishes or frees it */
    uint64_t serial;
    uint64_t submitted_ns;
    uint64_t deadline_ns;                      /* 0: none */
    uint64_t stop_ns;                          /* when the first interrupt was sent; watchdog's, under take_lock */
    uint64_t nudged_ns;                        /* when the last one was */
    ERL_NIF_TERM shown_target, shown_function; /* atoms, for info */
    _Atomic unsigned nudges;           /* how often it was asked to stop: a wait for Erlang ends when that grows */
    uint64_t chain;                    /* names the chain, 0: it starts here */
    uint64_t parent;                   /* the callback it descends from, 0: none */
    uint64_t queue_ns, run_ns, gil_ns; /* with PY_REQ_TIMED; set by the worker */
    ERL_NIF_TERM callers;              /* of the caller, a list, innermost first; in env; 0: none */
    ERL_NIF_TERM trace;                /* opaque, carried along the chain; in env; 0: none */
    uint64_t nest;                     /* the wait it is queued for, where a waiting worker serves it */
    py_request *under;                 /* what waits below it on its worker's stack; under take_lock */
    py_request *table_next;            /* in the table of tracked requests */
    uint64_t table_hash;
    py_event event;    /* on its way to a loop; the rest is of such requests alone */
    py_link link;      /* in py_async.live or .stopping, under its lock */
    PyObject *driver;  /* strong: what drives it since it suspended; under that lock */
    py_gather *gather; /* the loop thread's */
    bool open_line;    /* the same: a line of output was left open */
    PyObject *start;   /* strong: a coroutine to run in place of a call */
    py_stream *stream; /* kept: whose step this is */
};

/* A blank request from the context's freelist; NULL when memory is out. Any thread. */
py_request *py_request_new(py_context *context);
void py_request_free(py_request *req);

/* The arguments have been converted: what they held is given back. */
static inline void py_request_drop_bulk(py_request *req)
{
    if (req->arg_env == req->bulk_env) {
        enif_clear_env(req->bulk_env);
        req->arg_env = req->env;
    }
}

/* Copies what is asked into the request's envs. */
void py_request_fill(py_request *req, ErlNifEnv *env, ERL_NIF_TERM ref, const ERL_NIF_TERM what[4]);
void py_request_destroy(py_request *req); /* the freelist's */

static inline bool py_request_start(py_request *req)
{
    int expected = REQ_QUEUED;
    return atomic_compare_exchange_strong(&req->state, &expected, REQ_RUNNING);
}

static inline bool py_request_finish(py_request *req) { return atomic_exchange(&req->state, REQ_DONE) != REQ_DONE; }

static inline bool py_request_is_done(py_request *req) { return atomic_load(&req->state) == REQ_DONE; }

/* {error, timeout | cancelled | interrupted | stopped}, or {error, {That, abandoned}}. */
ERL_NIF_TERM py_request_stop_term(ErlNifEnv *env, int stop, bool abandoned);

/* Asks the request with this reference to stop, as cancel_nif does; `env` is the calling one. False: it is done. */
bool py_request_cancel(ErlNifEnv *env, ERL_NIF_TERM ref, bool silent);

/* {Ref, result}, or the last message of a stream, in `env`, which owns `result`; the reference is copied. */
ERL_NIF_TERM py_request_message(ErlNifEnv *env, py_request *req, ERL_NIF_TERM result);

/* Sends {Ref, result} to the caller. `msg_env` owns `result`: the request's own env, whose memory then is the
 * receiver's, or another one, which is cleared. `env` is the calling env on a scheduler, NULL on a thread of ours. Only
 * for the winner of py_request_finish, without locks. */
void py_request_reply(py_request *req, ErlNifEnv *env, ErlNifEnv *msg_env, ERL_NIF_TERM result);

/* The same for a reason that needs no env of its own. */
void py_request_reply_stop(py_request *req, ErlNifEnv *env, int stop, bool abandoned);

/* For a reply that is sent otherwise than by the functions above: from before the request is freed until it was sent.
 */
typedef _Atomic unsigned *py_sending;
py_sending py_request_sending(py_request *req);
void py_request_sent(py_sending sending);

typedef enum { PY_REQUEST_OPEN, PY_REQUEST_SENDING, PY_REQUEST_GONE } py_request_fate;

/* Of the tracked request with this reference. SENDING: its reply may be on its way; GONE: it came, if there was one. */
py_request_fate py_request_look(ERL_NIF_TERM ref);

/* The process for which it runs, in `env`. The request's owner, or whoever keeps it from ending. */
ERL_NIF_TERM py_request_caller(ErlNifEnv *env, py_request *req);

/* The table of tracked requests. */
int py_request_table_init(void);
void py_request_track(py_request *req);
void py_request_untrack(py_request *req);

/* cancel(Ref, Silent) -> cancelled | done: asks the tracked request to stop. A silent cancel also takes the reply:
 * after `cancelled` no message will come; after `done` it has come or is on its way. */
PY_NIF(cancel_nif);

/* look(Ref) -> open | sending | done. After `done` a reply that there was is in its receiver's mailbox. */
PY_NIF(look_nif);

extern _Atomic long py_requests_live;

#endif
