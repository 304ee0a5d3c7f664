/* Channels: queues, waiters, NIFs. See channel.h. Any thread; never attaches, never waits. */
#include "channel.h"

#include "atoms.h"
#include "callback.h"

#define FREE_ITEMS 256
#define SWEEP_FROM 64
#define RECV_MAX 1024

typedef struct waiter {
    struct waiter *next;
    uint64_t id;    /* a callback slot, or 0 and: */
    ErlNifPid pid;  /* a process, */
    ErlNifEnv *env; /* which wants {ref, py_channel} */
    ERL_NIF_TERM ref;
} waiter;

typedef struct {
    waiter *head;
    size_t len, sweep_at;
} waiter_list;

typedef struct {
    py_channel_item *head, *tail;
    size_t len, bytes;
    bool closed;
    waiter_list senders, receivers;
} queue;

struct py_channel {
    pthread_mutex_t lock;
    size_t capacity, max_bytes; /* constant */
    queue queues[PY_CHANNEL_QUEUES];
    py_channel_item *free;
    size_t free_len;
    ErlNifPid owner; /* the process that made it, where one did */
    ErlNifMonitor monitor;
};

ErlNifResourceType *py_channel_rtype;
_Atomic long py_channels_live;

/* ---- waiters ---- */

static void waiter_free(waiter *w)
{
    if (w->env != NULL) {
        enif_free_env(w->env);
    }
    enif_free(w);
}

static bool waiter_is_live(waiter *w)
{
    return w->id != 0 ? py_callback_is_waiting(w->id) : enif_is_process_alive(NULL, &w->pid) != 0;
}

/* lock held. Drops waiters that wait no more, now and then, so that who gives up costs no memory for long. */
static waiter *sweep(waiter_list *list)
{
    waiter **at = &list->head, *w, *dead = NULL;

    if (list->len < (list->sweep_at > SWEEP_FROM ? list->sweep_at : SWEEP_FROM)) {
        return NULL;
    }
    while ((w = *at) != NULL) {
        if (w->id == 0 || waiter_is_live(w)) {
            at = &w->next;
        } else {
            *at = w->next;
            w->next = dead;
            dead = w;
            list->len--;
        }
    }
    list->sweep_at = 2 * list->len;
    return dead;
}

static void waiters_free(waiter *w)
{
    waiter *next;

    for (; w != NULL; w = next) {
        next = w->next;
        waiter_free(w);
    }
}

/* Without locks. */
static void waiters_fire(waiter *w, ErlNifEnv *env)
{
    waiter *next;

    for (; w != NULL; w = next) {
        next = w->next;
        if (w->id != 0) {
            py_callback_fire(w->id);
        } else {
            enif_send(env, &w->pid, w->env, enif_make_tuple2(w->env, w->ref, py_atoms.py_channel));
        }
        waiter_free(w);
    }
}

/* lock held. */
static waiter *take_all(waiter_list *list)
{
    waiter *all = list->head;

    list->head = NULL;
    list->len = 0;
    return all;
}

static bool has_room(py_channel *ch, queue *q)
{
    return q->len == 0 || (q->len < ch->capacity && q->bytes < ch->max_bytes);
}

/* Takes over `w`; false, with `w` freed, when there is no need to wait. */
static bool add_waiter(py_channel *ch, queue *q, bool sender, waiter *w)
{
    waiter_list *list = sender ? &q->senders : &q->receivers;
    waiter *dead = NULL;
    bool wait;

    pthread_mutex_lock(&ch->lock);
    wait = !q->closed && (sender ? !has_room(ch, q) : q->len == 0);
    if (wait) {
        dead = sweep(list);
        w->next = list->head;
        list->head = w;
        list->len++;
    }
    pthread_mutex_unlock(&ch->lock);
    waiters_free(dead);
    if (!wait) {
        waiter_free(w);
    }
    return wait;
}

bool py_channel_wait(py_channel *ch, int which, bool sender, uint64_t id)
{
    waiter *w = enif_alloc(sizeof *w);

    if (w == NULL) {
        return false; /* it looks again at once */
    }
    memset(w, 0, sizeof *w);
    w->id = id;
    return add_waiter(ch, &ch->queues[which], sender, w);
}

static bool wait_in_process(py_channel *ch, int which, bool sender, ErlNifEnv *env, ERL_NIF_TERM ref)
{
    waiter *w = enif_alloc(sizeof *w);

    if (w == NULL) {
        return false;
    }
    memset(w, 0, sizeof *w);
    enif_self(env, &w->pid);
    w->env = enif_alloc_env();
    w->ref = enif_make_copy(w->env, ref);
    return add_waiter(ch, &ch->queues[which], sender, w);
}

/* lock held. Takes out the waiter of that slot, or of that reference. */
static waiter *remove_waiter(waiter_list *list, uint64_t id, ERL_NIF_TERM ref)
{
    waiter **at, *w;

    for (at = &list->head; (w = *at) != NULL; at = &w->next) {
        if (id != 0 ? w->id == id : w->id == 0 && enif_compare(w->ref, ref) == 0) {
            *at = w->next;
            w->next = NULL;
            list->len--;
            return w;
        }
    }
    return NULL;
}

static void forget(py_channel *ch, uint64_t id, ERL_NIF_TERM ref)
{
    waiter *w = NULL;
    int i;

    pthread_mutex_lock(&ch->lock);
    for (i = 0; i < PY_CHANNEL_QUEUES && w == NULL; i++) {
        if ((w = remove_waiter(&ch->queues[i].senders, id, ref)) == NULL) {
            w = remove_waiter(&ch->queues[i].receivers, id, ref);
        }
    }
    pthread_mutex_unlock(&ch->lock);
    waiters_free(w);
}

void py_channel_forget(py_channel *ch, uint64_t id) { forget(ch, id, 0); }

/* ---- items ---- */

py_channel_item *py_channel_item_get(py_channel *ch)
{
    py_channel_item *item;

    pthread_mutex_lock(&ch->lock);
    if ((item = ch->free) != NULL) {
        ch->free = item->next;
        ch->free_len--;
    }
    pthread_mutex_unlock(&ch->lock);
    if (item == NULL && (item = enif_alloc(sizeof *item)) != NULL) {
        item->env = enif_alloc_env();
    }
    if (item != NULL) {
        item->next = NULL;
        item->bytes = 0;
    }
    return item;
}

static void item_free(py_channel_item *item)
{
    enif_free_env(item->env);
    enif_free(item);
}

void py_channel_item_put(py_channel *ch, py_channel_item *item)
{
    bool kept;

    enif_clear_env(item->env);
    pthread_mutex_lock(&ch->lock);
    kept = ch->free_len < FREE_ITEMS;
    if (kept) {
        item->next = ch->free;
        ch->free = item;
        ch->free_len++;
    }
    pthread_mutex_unlock(&ch->lock);
    if (!kept) {
        item_free(item);
    }
}

/* About what a term holds outside of itself: its binaries, as far down as is cheap to look. */
static size_t term_bytes(ErlNifEnv *env, ERL_NIF_TERM term, int depth)
{
    ErlNifBinary bin;
    const ERL_NIF_TERM *items;
    ERL_NIF_TERM head;
    size_t bytes = 0;
    int arity, i;

    if (enif_inspect_binary(env, term, &bin)) {
        return bin.size;
    }
    if (depth == 0) {
        return 0;
    }
    if (enif_get_tuple(env, term, &arity, &items)) {
        for (i = 0; i < arity && i < 16; i++) {
            bytes += term_bytes(env, items[i], depth - 1);
        }
    } else if (enif_is_list(env, term)) {
        for (i = 0; i < 64 && enif_get_list_cell(env, term, &head, &term); i++) {
            bytes += term_bytes(env, head, depth - 1);
        }
    }
    return bytes;
}

py_channel_answer py_channel_push(py_channel *ch, int which, py_channel_item *item, ErlNifEnv *env)
{
    queue *q = &ch->queues[which];
    py_channel_answer answer = PY_CHANNEL_OK;
    waiter *fire = NULL;

    item->bytes = 64 + term_bytes(item->env, item->term, 3);
    pthread_mutex_lock(&ch->lock);
    if (q->closed) {
        answer = PY_CHANNEL_CLOSED;
    } else if (!has_room(ch, q)) {
        answer = PY_CHANNEL_WAIT;
    } else {
        if (q->tail == NULL) {
            q->head = item;
        } else {
            q->tail->next = item;
        }
        q->tail = item;
        q->len++;
        q->bytes += item->bytes;
        fire = take_all(&q->receivers);
    }
    pthread_mutex_unlock(&ch->lock);
    waiters_fire(fire, env);
    return answer;
}

py_channel_answer py_channel_pop(py_channel *ch, int which, size_t max, py_channel_item **items, ErlNifEnv *env)
{
    queue *q = &ch->queues[which];
    py_channel_item *last = NULL;
    py_channel_answer answer = PY_CHANNEL_OK;
    waiter *fire = NULL;

    pthread_mutex_lock(&ch->lock);
    *items = q->head;
    for (; max > 0 && q->head != NULL; max--) {
        last = q->head;
        q->head = last->next;
        q->len--;
        q->bytes -= last->bytes;
    }
    if (last == NULL) {
        answer = q->closed ? PY_CHANNEL_CLOSED : PY_CHANNEL_WAIT;
    } else {
        last->next = NULL;
        if (q->head == NULL) {
            q->tail = NULL;
        }
        if (q->senders.head != NULL && q->len <= ch->capacity / 2 && q->bytes <= ch->max_bytes / 2) {
            fire = take_all(&q->senders);
        }
    }
    pthread_mutex_unlock(&ch->lock);
    waiters_fire(fire, env);
    return answer;
}

size_t py_channel_length(py_channel *ch, int which)
{
    size_t len;

    pthread_mutex_lock(&ch->lock);
    len = ch->queues[which].len;
    pthread_mutex_unlock(&ch->lock);
    return len;
}

void py_channel_close(py_channel *ch, int which, ErlNifEnv *env)
{
    queue *q = &ch->queues[which];
    waiter *senders, *receivers;

    pthread_mutex_lock(&ch->lock);
    q->closed = true;
    senders = take_all(&q->senders);
    receivers = take_all(&q->receivers);
    pthread_mutex_unlock(&ch->lock);
    waiters_fire(senders, env);
    waiters_fire(receivers, env);
}

/* ---- life ---- */

static void items_free(py_channel_item *item)
{
    py_channel_item *next;

    for (; item != NULL; item = next) {
        next = item->next;
        item_free(item);
    }
}

static void channel_dtor(ErlNifEnv *env, void *obj)
{
    py_channel *ch = obj;
    int i;

    (void)env;
    for (i = 0; i < PY_CHANNEL_QUEUES; i++) {
        items_free(ch->queues[i].head);
        waiters_free(ch->queues[i].senders.head);
        waiters_free(ch->queues[i].receivers.head);
    }
    items_free(ch->free);
    pthread_mutex_destroy(&ch->lock);
    atomic_fetch_sub(&py_channels_live, 1);
}

static void channel_owner_down(ErlNifEnv *env, void *obj, ErlNifPid *pid, ErlNifMonitor *monitor)
{
    (void)pid;
    (void)monitor;
    py_channel_close(obj, PY_CHANNEL_TO_PYTHON, env);
    py_channel_close(obj, PY_CHANNEL_TO_ERLANG, env);
}

int py_channel_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = channel_dtor, .down = channel_owner_down};

    py_channel_rtype = enif_open_resource_type_x(env, "py_channel", &init, ERL_NIF_RT_CREATE, NULL);
    return py_channel_rtype == NULL ? -1 : 0;
}

py_channel *py_channel_new(size_t capacity, size_t max_bytes)
{
    py_channel *ch = enif_alloc_resource(py_channel_rtype, sizeof *ch);
    pthread_mutexattr_t attr;

    if (ch == NULL) {
        return NULL;
    }
    memset(ch, 0, sizeof *ch);
    pthread_mutexattr_init(&attr);
#ifdef __GLIBC__
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* held for a few instructions, from both sides */
#endif
    pthread_mutex_init(&ch->lock, &attr);
    pthread_mutexattr_destroy(&attr);
    ch->capacity = capacity;
    ch->max_bytes = max_bytes;
    atomic_fetch_add(&py_channels_live, 1);
    return ch;
}

/* ---- Erlang ---- */

static bool channel_arg(ErlNifEnv *env, ERL_NIF_TERM term, py_channel **ch)
{
    return enif_get_resource(env, term, py_channel_rtype, (void **)ch) != 0;
}

PY_NIF(channel_new_nif)
{ /* (Capacity, MaxBytes) */
    ErlNifUInt64 capacity, max_bytes;
    py_channel *ch;
    ERL_NIF_TERM term;

    (void)argc;
    if (!enif_get_uint64(env, argv[0], &capacity) || capacity == 0 || !enif_get_uint64(env, argv[1], &max_bytes)) {
        return enif_make_badarg(env);
    }
    if ((ch = py_channel_new(capacity, max_bytes)) == NULL) {
        return enif_raise_exception(env, py_atoms.system_limit);
    }
    enif_self(env, &ch->owner);
    term = enif_make_resource(env, ch);
    if (enif_monitor_process(env, ch, &ch->owner, &ch->monitor) != 0) {
        channel_owner_down(env, ch, NULL, NULL);
    }
    enif_release_resource(ch);
    return term;
}

PY_NIF(channel_send_nif)
{ /* (Channel, Term, Ref) -> ok | wait | again | closed */
    py_channel *ch;
    py_channel_item *item;
    py_channel_answer answer;

    (void)argc;
    if (!channel_arg(env, argv[0], &ch)) {
        return enif_make_badarg(env);
    }
    if ((item = py_channel_item_get(ch)) == NULL) {
        return enif_raise_exception(env, py_atoms.system_limit);
    }
    item->term = enif_make_copy(item->env, argv[1]);
    answer = py_channel_push(ch, PY_CHANNEL_TO_PYTHON, item, env);
    if (answer == PY_CHANNEL_OK) {
        return py_atoms.ok;
    }
    py_channel_item_put(ch, item);
    if (answer == PY_CHANNEL_CLOSED) {
        return py_atoms.closed;
    }
    return wait_in_process(ch, PY_CHANNEL_TO_PYTHON, true, env, argv[2]) ? py_atoms.wait : py_atoms.again;
}

PY_NIF(channel_recv_nif)
{ /* (Channel, Max, Ref) -> [Term] | wait | again | closed */
    py_channel *ch;
    py_channel_item *items, *next;
    py_channel_answer answer;
    ERL_NIF_TERM terms[RECV_MAX];
    unsigned max, n = 0;

    (void)argc;
    if (!channel_arg(env, argv[0], &ch) || !enif_get_uint(env, argv[1], &max) || max == 0) {
        return enif_make_badarg(env);
    }
    answer = py_channel_pop(ch, PY_CHANNEL_TO_ERLANG, max < RECV_MAX ? max : RECV_MAX, &items, env);
    if (answer == PY_CHANNEL_CLOSED) {
        return py_atoms.closed;
    }
    if (answer == PY_CHANNEL_WAIT) {
        return wait_in_process(ch, PY_CHANNEL_TO_ERLANG, false, env, argv[2]) ? py_atoms.wait : py_atoms.again;
    }
    for (; items != NULL; items = next) {
        next = items->next;
        terms[n++] = enif_make_copy(env, items->term);
        py_channel_item_put(ch, items);
    }
    return enif_make_list_from_array(env, terms, n);
}

PY_NIF(channel_forget_nif)
{ /* (Channel, Ref) */
    py_channel *ch;

    (void)argc;
    if (!channel_arg(env, argv[0], &ch)) {
        return enif_make_badarg(env);
    }
    forget(ch, 0, argv[1]);
    return py_atoms.ok;
}

PY_NIF(channel_close_nif)
{ /* (Channel): no more to Python */
    py_channel *ch;

    (void)argc;
    if (!channel_arg(env, argv[0], &ch)) {
        return enif_make_badarg(env);
    }
    py_channel_close(ch, PY_CHANNEL_TO_PYTHON, env);
    return py_atoms.ok;
}

PY_NIF(channel_info_nif)
{ /* (Channel) -> {Capacity, MaxBytes, {Len, Bytes, Closed}, {Len, Bytes, Closed}}: to Python, to Erlang */
    py_channel *ch;
    ERL_NIF_TERM queues[PY_CHANNEL_QUEUES];
    int i;

    (void)argc;
    if (!channel_arg(env, argv[0], &ch)) {
        return enif_make_badarg(env);
    }
    for (i = 0; i < PY_CHANNEL_QUEUES; i++) {
        size_t len, bytes;
        bool closed;
        pthread_mutex_lock(&ch->lock);
        len = ch->queues[i].len;
        bytes = ch->queues[i].bytes;
        closed = ch->queues[i].closed;
        pthread_mutex_unlock(&ch->lock);
        queues[i] = enif_make_tuple3(env, enif_make_uint64(env, len), enif_make_uint64(env, bytes),
                                     closed ? py_atoms.true_ : py_atoms.false_);
    }
    return enif_make_tuple4(env, enif_make_uint64(env, ch->capacity), enif_make_uint64(env, ch->max_bytes), queues[0],
                            queues[1]);
}
