/* Slots, servers and routing of callbacks. See callback.h. Any thread; never attaches, never waits.
 * Locks: free_lock and names_lock are leaves. */
#include "callback.h"

#include "atoms.h"
#include "context.h"
#include "request.h"
#include "worker.h"

#define CHUNK 256
#define CHUNKS 4096
#define INDEX_BITS 20
#define SERVERS 64

typedef struct {
    ErlNifPid pid;
    unsigned index;
    ErlNifMonitor monitor;
} server;

static _Atomic(py_callback *) chunks[CHUNKS];
static pthread_mutex_t free_lock = PTHREAD_MUTEX_INITIALIZER;
static py_callback *free_list;
static _Atomic uint32_t used;

static _Atomic(ERL_NIF_TERM) servers[SERVERS];
static _Atomic unsigned server_count;
static ErlNifResourceType *server_rtype;

static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static ErlNifEnv *names_env;
static ERL_NIF_TERM names;

_Atomic long py_callbacks_live;

/* ---- slots ---- */

static py_callback *slot_at(uint32_t index)
{
    py_callback *chunk =
        index / CHUNK < CHUNKS ? atomic_load_explicit(&chunks[index / CHUNK], memory_order_acquire) : NULL;
    return chunk == NULL ? NULL : &chunk[index % CHUNK];
}

static py_callback *slot_of(uint64_t id) { return slot_at((uint32_t)(id & ((1u << INDEX_BITS) - 1))); }

static uint64_t word_of(uint64_t id, int state) { return (id >> INDEX_BITS) << 3 | (uint64_t)state; }

/* free_lock held. */
static bool grow(void)
{
    uint32_t first = atomic_load(&used), i;
    py_callback *chunk;

    if (first / CHUNK >= CHUNKS || (chunk = enif_alloc(CHUNK * sizeof *chunk)) == NULL) {
        return false;
    }
    memset(chunk, 0, CHUNK * sizeof *chunk);
    for (i = CHUNK; i-- > 0;) {
        chunk[i].index = first + i;
        py_parker_init(&chunk[i].parker);
        chunk[i].next_free = free_list;
        free_list = &chunk[i];
    }
    atomic_store_explicit(&chunks[first / CHUNK], chunk, memory_order_release);
    atomic_store(&used, first + CHUNK);
    return true;
}

py_callback *py_callback_new(void)
{
    py_callback *cb = NULL;
    uint64_t generation;

    pthread_mutex_lock(&free_lock);
    if (free_list != NULL || grow()) {
        cb = free_list;
        free_list = cb->next_free;
    }
    pthread_mutex_unlock(&free_lock);
    if (cb == NULL) {
        return NULL;
    }
    if (cb->env == NULL) {
        cb->env = enif_alloc_env();
        cb->send_env = enif_alloc_env();
    }
    generation = (atomic_load_explicit(&cb->word, memory_order_relaxed) >> 3) + 1;
    cb->id = generation << INDEX_BITS | cb->index;
    atomic_store_explicit(&cb->word, word_of(cb->id, PY_CB_FREE), memory_order_relaxed);
    atomic_store_explicit(&cb->pid, 0, memory_order_relaxed);
    atomic_store_explicit(&cb->nested, 0, memory_order_relaxed);
    cb->context = NULL;
    cb->worker = NULL;
    cb->loop = NULL;
    cb->under = NULL;
    cb->parent = 0;
    cb->notice = NULL;
    atomic_fetch_add_explicit(&py_callbacks_live, 1, memory_order_relaxed);
    return cb;
}

void py_callback_open(py_callback *cb) { atomic_store(&cb->word, word_of(cb->id, PY_CB_WAITING)); }

void py_callback_close(py_callback *cb)
{
    enif_clear_env(cb->env);
    enif_clear_env(cb->send_env);
    atomic_store(&cb->word, word_of(cb->id, PY_CB_FREE));
    atomic_fetch_sub_explicit(&py_callbacks_live, 1, memory_order_relaxed);
    pthread_mutex_lock(&free_lock);
    cb->next_free = free_list;
    free_list = cb;
    pthread_mutex_unlock(&free_lock);
}

/* WAITING -> BUSY, or false when the slot of that id waits no more. */
static bool claim(py_callback *cb, uint64_t id)
{
    uint64_t word;

    for (;;) {
        word = word_of(id, PY_CB_WAITING);
        if (atomic_compare_exchange_strong(&cb->word, &word, word_of(id, PY_CB_BUSY))) {
            return true;
        }
        if (word != word_of(id, PY_CB_BUSY)) {
            return false;
        }
        py_cpu_relax();
    }
}

/* BUSY -> DONE with the result in place. */
static void finish(py_callback *cb, uint64_t id)
{
    if (cb->notice != NULL) {
        py_notice_fire(cb->notice);
        cb->notice = NULL;
        atomic_store(&cb->word, word_of(id, PY_CB_DONE));
    } else {
        atomic_store(&cb->word, word_of(id, PY_CB_DONE));
        py_parker_wake(&cb->parker); /* if the slot has moved on, somebody looks once too often */
    }
}

static bool is_live(py_callback *cb, uint64_t id)
{
    uint64_t word = atomic_load(&cb->word);
    return word == word_of(id, PY_CB_WAITING) || word == word_of(id, PY_CB_BUSY);
}

static void fail(py_callback *cb, uint64_t id, ERL_NIF_TERM reason)
{
    if (claim(cb, id)) {
        cb->result = enif_make_tuple5(cb->env, py_atoms.error, py_atoms.exit_, reason, enif_make_list(cb->env, 0),
                                      py_atoms.undefined);
        finish(cb, id);
    }
}

void py_callback_fire(uint64_t id)
{
    py_callback *cb = slot_of(id);

    if (claim(cb, id)) {
        cb->result = enif_make_tuple2(cb->env, py_atoms.ok, py_atoms.true_);
        finish(cb, id);
    }
}

bool py_callback_is_waiting(uint64_t id) { return is_live(slot_of(id), id); }

/* ---- servers ---- */

bool py_callback_server(unsigned hint, ErlNifPid *pid)
{
    unsigned count = atomic_load_explicit(&server_count, memory_order_acquire);

    pid->pid = count == 0 ? 0 : atomic_load_explicit(&servers[hint % count], memory_order_acquire);
    return pid->pid != 0;
}

bool py_callback_send(py_callback *cb, ERL_NIF_TERM target, ERL_NIF_TERM args, ERL_NIF_TERM caller, ERL_NIF_TERM chain)
{
    ErlNifPid pid;
    ErlNifEnv *env = cb->send_env;

    cb->server = cb->index % SERVERS;
    return py_callback_server(cb->server, &pid) &&
           enif_send(
               NULL, &pid, env,
               enif_make_tuple6(env, py_atoms.py_call, enif_make_uint64(env, cb->id), target, args, caller, chain));
}

bool py_callback_cancel(py_callback *cb)
{
    ErlNifPid pid;
    ERL_NIF_TERM function;
    ErlNifEnv *env;

    if (!claim(cb, cb->id)) {
        return false;
    }
    atomic_store(&cb->word, word_of(cb->id, PY_CB_CANCELLED));
    function = atomic_load(&cb->pid);
    /* Without a pid the server has not got there, and will hear of it from callback_begin. */
    if (function != 0 && py_callback_server(cb->server, &pid)) {
        env = enif_alloc_env();
        enif_send(NULL, &pid, env, enif_make_tuple2(env, py_atoms.py_kill, function));
        enif_free_env(env);
    }
    return true;
}

bool py_callback_notify(py_callback *cb, py_notice *notice)
{
    if (!claim(cb, cb->id)) {
        return false;
    }
    cb->notice = notice;
    atomic_store(&cb->word, word_of(cb->id, PY_CB_WAITING));
    return true;
}

static void server_down(ErlNifEnv *env, void *obj, ErlNifPid *pid, ErlNifMonitor *monitor)
{
    server *gone = obj;
    ERL_NIF_TERM mine = gone->pid.pid;
    uint32_t i, n;

    (void)env;
    (void)pid;
    (void)monitor;
    atomic_compare_exchange_strong(&servers[gone->index], &mine, 0);
    n = atomic_load(&used);
    for (i = 0; i < n; i++) {
        py_callback *cb = slot_at(i);
        uint64_t word = atomic_load(&cb->word), id = (word >> 3) << INDEX_BITS | i;
        unsigned count = atomic_load(&server_count);
        if (is_live(cb, id) && count != 0 && cb->server % count == gone->index) {
            fail(cb, id, py_atoms.noproc);
        }
    }
    enif_release_resource(gone);
}

PY_NIF(callback_server_nif)
{ /* (Index, Count) */
    unsigned index, count;
    server *new;

    (void)argc;
    if (!enif_get_uint(env, argv[0], &index) || !enif_get_uint(env, argv[1], &count) || count == 0 || count > SERVERS ||
        index >= count) {
        return enif_make_badarg(env);
    }
    new = enif_alloc_resource(server_rtype, sizeof *new);
    if (new == NULL) {
        return py_atoms.system_limit;
    }
    enif_self(env, &new->pid);
    new->index = index;
    if (enif_monitor_process(env, new, &new->pid, &new->monitor) != 0) {
        enif_release_resource(new);
        return py_atoms.noproc;
    }
    atomic_store(&servers[index], new->pid.pid);
    atomic_store(&server_count, count);
    return py_atoms.ok;
}

int py_callback_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.down = server_down};

    names_env = enif_alloc_env();
    names = enif_make_new_map(names_env);
    server_rtype = enif_open_resource_type_x(env, "py_callback_server", &init, ERL_NIF_RT_CREATE, NULL);
    return server_rtype == NULL ? -1 : 0;
}

/* ---- what Erlang says about a slot ---- */

static py_callback *slot_arg(ErlNifEnv *env, ERL_NIF_TERM term, uint64_t *id)
{
    ErlNifUInt64 n;

    if (!enif_get_uint64(env, term, &n)) {
        return NULL;
    }
    *id = n;
    return slot_of(n);
}

PY_NIF(callback_begin_nif)
{ /* (Id, Pid) */
    uint64_t id;
    py_callback *cb = slot_arg(env, argv[0], &id);
    ErlNifPid pid;

    (void)argc;
    if (cb == NULL || !enif_get_local_pid(env, argv[1], &pid)) {
        return enif_make_badarg(env);
    }
    if (!claim(cb, id)) { /* answered already, or cancelled */
        return atomic_load(&cb->word) == word_of(id, PY_CB_DONE) ? py_atoms.true_ : py_atoms.false_;
    }
    atomic_store(&cb->pid, pid.pid);
    atomic_store(&cb->word, word_of(id, PY_CB_WAITING));
    return py_atoms.true_;
}

PY_NIF(callback_reply_nif)
{ /* (Id, Result) */
    uint64_t id;
    py_callback *cb = slot_arg(env, argv[0], &id);

    (void)argc;
    if (cb == NULL) {
        return enif_make_badarg(env);
    }
    if (!claim(cb, id)) {
        return py_atoms.false_;
    }
    cb->result = enif_make_copy(cb->env, argv[1]);
    finish(cb, id);
    return py_atoms.true_;
}

PY_NIF(callback_down_nif)
{ /* (Pid, Result) */
    ErlNifPid pid;
    uint32_t i, n = atomic_load(&used);

    (void)argc;
    if (!enif_get_local_pid(env, argv[0], &pid)) {
        return enif_make_badarg(env);
    }
    for (i = 0; i < n; i++) {
        py_callback *cb = slot_at(i);
        uint64_t id = (atomic_load(&cb->word) >> 3) << INDEX_BITS | i;
        if (atomic_load_explicit(&cb->pid, memory_order_relaxed) != pid.pid || !claim(cb, id)) {
            continue;
        }
        if (atomic_load(&cb->pid) == pid.pid) {
            cb->result = enif_make_copy(cb->env, argv[1]);
            finish(cb, id);
            return py_atoms.true_;
        }
        atomic_store(&cb->word, word_of(id, PY_CB_WAITING));
    }
    return py_atoms.false_;
}

/* ---- nested requests ---- */

ERL_NIF_TERM py_callback_route(py_context *context, py_request *req)
{
    py_callback *cb = slot_of(req->parent);
    uint64_t id = req->parent, up;
    py_context *where;
    py_worker *w;
    ERL_NIF_TERM answer = py_atoms.undefined;

    if (cb == NULL || !is_live(cb, id)) {
        return py_atoms.cancelled;
    }
    if (req->flags & PY_REQ_NO_REPLY) { /* nobody waits for it */
        return py_atoms.undefined;
    }
    for (; id != 0; id = up, cb = slot_of(id)) {
        where = cb->context;
        w = cb->worker;
        up = cb->parent;
        if (!is_live(cb, id)) {
            break; /* what was read may belong to a later generation */
        }
        if (w == NULL || where != context) {
            continue;
        }
        pthread_mutex_lock(&context->take_lock);
        /* While it waits its worker is there: it takes this lock when it stops waiting. */
        if (atomic_load(&context->closing)) {
            answer = py_atoms.noproc;
        } else if (is_live(cb, id) && !w->lost) {
            py_request **at = &w->nested;
            while (*at != NULL) {
                at = &(*at)->next;
            }
            req->next = NULL;
            req->nest = id;
            *at = req;
            atomic_fetch_add(&cb->nested, 1);
            py_parker_wake(&cb->parker);
            answer = py_atoms.ok;
        }
        pthread_mutex_unlock(&context->take_lock);
        break;
    }
    return answer;
}

bool py_callback_loop_waits(py_context *context, py_request *req)
{
    py_callback *cb;
    py_context *loop;
    uint64_t id, up;

    if (req->flags & PY_REQ_NO_REPLY) {
        return false;
    }
    for (id = req->parent; id != 0; id = up) {
        cb = slot_of(id);
        loop = cb->loop;
        up = cb->parent;
        if (!is_live(cb, id)) {
            return false;
        }
        if (loop == context) {
            return true;
        }
    }
    return false;
}

void py_callback_drop_nested(uint64_t id)
{
    atomic_fetch_sub(&slot_of(id)->nested,
                     1); /* its worker leaves the wait under the lock that is held, and resets it */
}

/* ---- names ---- */

PY_NIF(callback_names_nif)
{ /* (Names): a map with the names, binaries, as keys */
    (void)argc;
    if (!enif_is_map(env, argv[0])) {
        return enif_make_badarg(env);
    }
    pthread_mutex_lock(&names_lock);
    enif_clear_env(names_env);
    names = enif_make_copy(names_env, argv[0]);
    pthread_mutex_unlock(&names_lock);
    return py_atoms.ok;
}

bool py_callback_registered(const char *name, size_t size)
{
    ErlNifEnv *env = enif_alloc_env();
    ERL_NIF_TERM key, value;
    bool found;

    memcpy(enif_make_new_binary(env, size, &key), name, size);
    pthread_mutex_lock(&names_lock);
    found = enif_get_map_value(names_env, names, key, &value);
    pthread_mutex_unlock(&names_lock);
    enif_free_env(env);
    return found;
}
