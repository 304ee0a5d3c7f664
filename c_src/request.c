/* Requests: pool, reply, and the table through which a reference finds its request. Any thread.
 * Locks: a shard's lock protects the chain and the life of what is in it; rank: just before context.take_lock. */
#include "request.h"

#include "async.h"
#include "atoms.h"
#include "context.h"
#include "interpreter.h"
#include "stream.h"
#include "park.h"

#define SHARDS 64
#define BUCKETS 64

typedef struct {
    pthread_mutex_t lock;
    py_request *buckets[BUCKETS];
    _Atomic unsigned sending; /* replies of tracked requests that are on their way */
} shard;

static shard table[SHARDS];
static _Atomic uint64_t next_serial = 1;

_Atomic long py_requests_live;

static uint64_t ref_hash(ERL_NIF_TERM ref) { return enif_hash(ERL_NIF_INTERNAL_HASH, ref, 0); }

static shard *shard_of(uint64_t hash) { return &table[hash % SHARDS]; }

static py_request **bucket_of(shard *s, uint64_t hash) { return &s->buckets[(hash / SHARDS) % BUCKETS]; }

int py_request_table_init(void)
{
    int i;

    for (i = 0; i < SHARDS; i++) {
        if (pthread_mutex_init(&table[i].lock, NULL) != 0) {
            return -1;
        }
    }
    return 0;
}

void py_request_destroy(py_request *req)
{
    if (req->env != NULL) {
        enif_free_env(req->env);
    }
    if (req->bulk_env != NULL) {
        enif_free_env(req->bulk_env);
    }
    enif_free(req);
}

static py_request *request_create(void)
{
    py_request *req = enif_alloc(sizeof *req);

    if (req == NULL) {
        return NULL;
    }
    memset(req, 0, sizeof *req);
    req->env = enif_alloc_env();
    req->bulk_env = enif_alloc_env();
    if (req->env == NULL || req->bulk_env == NULL) {
        py_request_destroy(req);
        return NULL;
    }
    return req;
}

py_request *py_request_new(py_context *context)
{
    py_request *req = py_context_pool_get(context);

    if (req == NULL && (req = request_create()) == NULL) {
        return NULL;
    }
    req->next = NULL;
    req->context = context;
    atomic_store_explicit(&req->state, REQ_QUEUED, memory_order_relaxed);
    atomic_store_explicit(&req->stop, PY_STOP_NONE, memory_order_relaxed);
    req->flags = 0;
    req->tracked = false;
    req->arg_env = req->env;
    req->stop_ns = 0;
    req->nudged_ns = 0;
    atomic_store_explicit(&req->nudges, 0, memory_order_relaxed);
    req->chain = req->parent = req->nest = 0;
    req->trace = req->callers = 0;
    req->run_ns = 0;
    req->under = NULL;
    req->driver = NULL;
    req->gather = NULL;
    req->open_line = false;
    req->start = NULL;
    req->stream = NULL;
    req->serial = atomic_fetch_add_explicit(&next_serial, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&py_requests_live, 1, memory_order_relaxed);
    return req;
}

void py_request_free(py_request *req)
{
    py_context *context = req->context;

    if (PY_UNLIKELY(req->stream != NULL)) {
        py_stream_release(req);
    }
    if (PY_UNLIKELY(req->start != NULL)) {
        py_interp_drop_later(context->interp, req->start);
    }
    py_request_untrack(req);
    enif_clear_env(req->env);
    py_request_drop_bulk(req);
    atomic_fetch_sub_explicit(&py_requests_live, 1, memory_order_relaxed);
    if (!py_context_pool_put(context, req)) {
        py_request_destroy(req);
    }
}

#define SMALL_ARGS 8
#define SMALL_BYTES 64

/* Whether a term may travel back with the reply: a few words. */
static bool is_small(ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifSInt64 number;
    ErlNifBinary bin;

    switch (enif_term_type(env, term)) {
    case ERL_NIF_TERM_TYPE_ATOM:
    case ERL_NIF_TERM_TYPE_FLOAT:
    case ERL_NIF_TERM_TYPE_PID:
    case ERL_NIF_TERM_TYPE_REFERENCE:
        return true;
    case ERL_NIF_TERM_TYPE_INTEGER:
        return enif_get_int64(env, term, &number);
    case ERL_NIF_TERM_TYPE_BITSTRING:
        return enif_inspect_binary(env, term, &bin) && bin.size <= SMALL_BYTES;
    default:
        return enif_is_empty_list(env, term);
    }
}

static bool all_small(ErlNifEnv *env, const ERL_NIF_TERM what[4])
{
    ERL_NIF_TERM head, tail = what[2];
    int n = 0;

    if (!enif_is_empty_list(env, what[3]) || !is_small(env, what[0]) || !is_small(env, what[1])) {
        return false;
    }
    while (n++ < SMALL_ARGS && enif_get_list_cell(env, tail, &head, &tail)) {
        if (!is_small(env, head)) {
            return false;
        }
    }
    return is_small(env, tail);
}

void py_request_fill(py_request *req, ErlNifEnv *env, ERL_NIF_TERM ref, const ERL_NIF_TERM what[4])
{
    req->ref = enif_make_copy(req->env, ref);
    req->arg_env = all_small(env, what) ? req->env : req->bulk_env;
    req->target = enif_make_copy(req->arg_env, what[0]);
    req->function = enif_make_copy(req->arg_env, what[1]);
    req->args = enif_make_copy(req->arg_env, what[2]);
    req->kwargs = enif_make_copy(req->arg_env, what[3]);
    req->shown_target = enif_is_atom(env, what[0]) ? what[0] : py_atoms.undefined;
    req->shown_function = enif_is_atom(env, what[1]) ? what[1] : py_atoms.undefined;
}

ERL_NIF_TERM py_request_stop_term(ErlNifEnv *env, int stop, bool abandoned)
{
    ERL_NIF_TERM reason;

    switch (stop) {
    case PY_STOP_TIMEOUT:
        reason = py_atoms.timeout;
        break;
    case PY_STOP_INTERRUPTED:
        reason = py_atoms.interrupted;
        break;
    case PY_STOP_STOPPED:
        reason = py_atoms.stopped;
        break;
    default:
        reason = py_atoms.cancelled;
        break;
    }
    if (abandoned) {
        reason = enif_make_tuple2(env, reason, py_atoms.abandoned);
    }
    return enif_make_tuple2(env, py_atoms.error, reason);
}

ERL_NIF_TERM py_request_message(ErlNifEnv *env, py_request *req, ERL_NIF_TERM result)
{
    ERL_NIF_TERM ref = env == req->env ? req->ref : enif_make_copy(env, req->ref);
    const ERL_NIF_TERM *items;
    int arity;

    if (req->flags & PY_REQ_STREAM) {
        bool failed = enif_get_tuple(env, result, &arity, &items) && enif_is_identical(items[0], py_atoms.error);
        return enif_make_tuple3(env, py_atoms.py_stream, ref, failed ? result : py_atoms.done);
    }
    if (PY_LIKELY(!(req->flags & PY_REQ_TIMED) || req->run_ns == 0)) {
        return enif_make_tuple2(env, ref, result);
    }
    return enif_make_tuple3(env, ref, result,
                            enif_make_tuple3(env, enif_make_uint64(env, req->queue_ns),
                                             enif_make_uint64(env, req->run_ns), enif_make_uint64(env, req->gil_ns)));
}

py_sending py_request_sending(py_request *req)
{
    py_sending sending = req->tracked ? &shard_of(req->table_hash)->sending : NULL;

    if (sending != NULL) {
        atomic_fetch_add(sending, 1);
    }
    return sending;
}

void py_request_sent(py_sending sending)
{
    if (sending != NULL) {
        atomic_fetch_sub(sending, 1);
    }
}

void py_request_reply(py_request *req, ErlNifEnv *env, ErlNifEnv *msg_env, ERL_NIF_TERM result)
{
    bool own = msg_env == req->env;
    py_sending sending = py_request_sending(req);

    py_request_untrack(req); /* nobody may compare with a reference that is the receiver's */
    if (!(req->flags & PY_REQ_NO_REPLY)) {
        enif_send(env, &req->caller, msg_env, py_request_message(msg_env, req, result));
    }
    py_request_sent(sending);
    if (!own) {
        enif_clear_env(msg_env);
    }
}

void py_request_reply_stop(py_request *req, ErlNifEnv *env, int stop, bool abandoned)
{
    ErlNifEnv *msg_env = enif_alloc_env();

    py_request_reply(req, env, msg_env, py_request_stop_term(msg_env, stop, abandoned));
    enif_free_env(msg_env);
}

ERL_NIF_TERM py_request_caller(ErlNifEnv *env, py_request *req)
{
    ERL_NIF_TERM head, tail;

    if ((req->flags & PY_REQ_FOREIGN) && req->callers != 0 &&
        enif_get_list_cell(req->env, req->callers, &head, &tail)) {
        return enif_make_copy(env, head);
    }
    return enif_make_pid(env, &req->caller);
}

void py_request_track(py_request *req)
{
    uint64_t hash = ref_hash(req->ref);
    shard *s = shard_of(hash);
    py_request **bucket = bucket_of(s, hash);

    req->tracked = true;
    req->table_hash = hash;
    pthread_mutex_lock(&s->lock);
    req->table_next = *bucket;
    *bucket = req;
    pthread_mutex_unlock(&s->lock);
}

void py_request_untrack(py_request *req)
{
    uint64_t hash;
    shard *s;
    py_request **at;

    if (PY_LIKELY(!req->tracked)) {
        return;
    }
    req->tracked = false;
    hash = req->table_hash;
    s = shard_of(hash);
    at = bucket_of(s, hash);
    pthread_mutex_lock(&s->lock);
    while (*at != NULL && *at != req) {
        at = &(*at)->table_next;
    }
    if (*at == req) {
        *at = req->table_next;
    }
    pthread_mutex_unlock(&s->lock);
}

/* The shard's lock held. */
static py_request *find(shard *s, uint64_t hash, ERL_NIF_TERM ref)
{
    py_request *req = *bucket_of(s, hash);

    while (req != NULL && enif_compare(req->ref, ref) != 0) {
        req = req->table_next;
    }
    return req;
}

py_request_fate py_request_look(ERL_NIF_TERM ref)
{
    uint64_t hash = ref_hash(ref);
    shard *s = shard_of(hash);
    py_request *req;
    py_request_fate fate = PY_REQUEST_GONE;

    pthread_mutex_lock(&s->lock);
    if ((req = find(s, hash, ref)) != NULL && !py_request_is_done(req)) {
        fate = PY_REQUEST_OPEN;
    } else if (req != NULL || atomic_load(&s->sending) != 0) {
        fate = PY_REQUEST_SENDING;
    }
    pthread_mutex_unlock(&s->lock);
    return fate;
}

bool py_request_cancel(ErlNifEnv *env, ERL_NIF_TERM ref, bool silent)
{
    uint64_t hash = ref_hash(ref);
    shard *s = shard_of(hash);
    py_request *req;
    py_context *context = NULL;
    uint64_t serial = 0;
    bool queued, won = false;
    py_sending sending = NULL;
    ErlNifEnv *msg_env = NULL;
    ErlNifPid caller;
    ERL_NIF_TERM reply = 0;

    pthread_mutex_lock(&s->lock);
    req = find(s, hash, ref);
    if (req != NULL && !py_request_is_done(req)) {
        context = req->context;
        enif_keep_resource(context);
        serial = req->serial;
        queued = atomic_load(&req->state) == REQ_QUEUED;
        /* A queued request, and any reply that nobody wants, is ours to finish. A running one is asked to stop and its
         * worker replies. The memory stays: its owner must come through this lock to free it. */
        won = !(silent || queued) || py_request_finish(req);
        if (won && queued && !silent) {
            msg_env = enif_alloc_env();
            caller = req->caller;
            reply = py_request_message(msg_env, req, py_request_stop_term(msg_env, PY_STOP_CANCELLED, false));
            sending = py_request_sending(req);
        }
        if (req->flags & PY_REQ_LOOP) {
            py_async_stop(req, PY_STOP_CANCELLED);
        }
    }
    pthread_mutex_unlock(&s->lock);
    if (msg_env != NULL) {
        enif_send(env, &caller, msg_env, reply);
        enif_free_env(msg_env);
        py_request_sent(sending);
    }
    if (context != NULL) {
        py_context_stop_request(context, serial, PY_STOP_CANCELLED);
        enif_release_resource(context);
    }
    return won;
}

PY_NIF(cancel_nif)
{ /* (Ref, Silent) */
    (void)argc;
    if (!enif_is_ref(env, argv[0])) {
        return enif_make_badarg(env);
    }
    return py_request_cancel(env, argv[0], enif_is_identical(argv[1], py_atoms.true_)) ? py_atoms.cancelled
                                                                                       : py_atoms.done;
}

PY_NIF(look_nif)
{ /* (Ref) */
    (void)argc;
    if (!enif_is_ref(env, argv[0])) {
        return enif_make_badarg(env);
    }
    switch (py_request_look(argv[0])) {
    case PY_REQUEST_OPEN:
        return py_atoms.open;
    case PY_REQUEST_SENDING:
        return py_atoms.sending;
    default:
        return py_atoms.done;
    }
}
