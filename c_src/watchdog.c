/* The watchdog. See watchdog.h. Runs on its own thread, never attaches, never waits for anything but its parker. */
#include "watchdog.h"

#include "callback.h"
#include "context.h"
#include "interpreter.h"
#include "park.h"
#include "runtime.h"
#include "worker.h"

#define TICK_NS UINT64_C(1000000)
#define RELAXED_TICK_NS UINT64_C(10000000)
#define NUDGE_NS                                                                                                       \
    UINT64_C(100000000) /* an interrupt that was swallowed is sent again after this, then after twice that */
#define NUDGING_NS UINT64_C(10000000000) /* and so on up to this */
#define SWEEP_NS UINT64_C(20000000)      /* how often callers are looked at */
#define IDLE_TICKS 32

_Atomic int py_watchdog_mode = PY_WATCH_IDLE;
_Atomic uint64_t py_watchdog_now;
_Atomic uint64_t py_watchdog_grace_ns = UINT64_C(250000000);

static py_parker parker;
static ErlNifPid *callers; /* scratch, grows */
static uint64_t *serials;
static size_t callers_cap;

void py_watchdog_wake(void) { py_parker_wake(&parker); }

/* `then` may be after `now`, which was taken at the start of the look. */
static uint64_t since(uint64_t then, uint64_t now) { return now > then ? now - then : 0; }

/* What one look at one context found to be done without its locks. */
typedef struct {
    py_request *expired; /* taken out of the queue: ours */
} findings;

/* take_lock held. Takes overdue requests out of a list; returns how many, and the earliest deadline left. */
static size_t expire(py_request **at, uint64_t now, py_request **out, uint64_t *next)
{
    py_request *req;
    size_t n = 0;

    while ((req = *at) != NULL) {
        if (req->deadline_ns != 0 && req->deadline_ns <= now) {
            *at = req->next;
            req->next = *out;
            *out = req;
            n++;
        } else {
            if (req->deadline_ns != 0 && req->deadline_ns < *next) {
                *next = req->deadline_ns;
            }
            at = &req->next;
        }
    }
    return n;
}

/* take_lock held. Takes what is overdue out of the queue; costs nothing while nothing can be. */
static void expire_queue(py_context *context, uint64_t now, findings *f)
{
    uint64_t next = UINT64_MAX;
    size_t n;

    pthread_mutex_lock(&context->inbox_lock);
    if (context->next_deadline > now) {
        pthread_mutex_unlock(&context->inbox_lock);
        return;
    }
    n = expire(&context->ready, now, &f->expired, &next);
    n += expire(&context->inbox_head, now, &f->expired, &next);
    context->next_deadline = next;
    context->inbox_tail = context->inbox_head;
    while (context->inbox_tail != NULL && context->inbox_tail->next != NULL) {
        context->inbox_tail = context->inbox_tail->next;
    }
    pthread_mutex_unlock(&context->inbox_lock);
    atomic_fetch_sub(&context->queued, n);
}

/* take_lock held. Requests for a wait whose worker is busy with another one. */
static void expire_nested(py_context *context, uint64_t now, findings *f)
{
    py_worker *w;
    py_request **at, *req;

    for (w = context->workers; w != NULL; w = w->next) {
        for (at = &w->nested; (req = *at) != NULL;) {
            if (req->deadline_ns != 0 && req->deadline_ns <= now) {
                py_callback_drop_nested(req->nest);
                *at = req->next;
                req->next = f->expired;
                f->expired = req;
            } else {
                at = &req->next;
            }
        }
    }
}

/* take_lock held. Deadlines of all that is on the worker's stack, and the interrupt that was swallowed, again. */
static void watch_worker(py_context *context, py_worker *w, uint64_t now)
{
    py_request *req, *overdue = NULL;

    for (req = w->current; req != NULL; req = req->under) {
        if (req->deadline_ns != 0 && req->deadline_ns <= now && atomic_load(&req->stop) == PY_STOP_NONE) {
            overdue = req;
        }
    }
    req = w->current;
    if (overdue != NULL) {
        py_context_stop_down_to(context, w, overdue, PY_STOP_TIMEOUT);
    } else if (req->stop_ns != 0 && since(req->nudged_ns, now) >= NUDGE_NS &&
               since(req->nudged_ns, now) >= req->nudged_ns - req->stop_ns) {
        req->nudged_ns = now;
        py_interp_interrupt(context->interp, context, req->serial);
    }
}

typedef struct message {
    struct message *next;
    ErlNifEnv *env;
    ErlNifPid to;
    ERL_NIF_TERM term;
    py_sending sending;
} message;

/* take_lock held. The worker is stuck: others go on without it, and it leaves when it comes back. What is on its stack
 * is answered here, because it may free its requests as soon as the lock is gone; returns what is to be sent. */
static message *write_off(py_context *context, py_worker *w)
{
    py_request *req;
    message *out = NULL, *m;

    for (req = w->current; req != NULL; req = req->under) {
        if (!py_request_finish(req) || (req->flags & PY_REQ_NO_REPLY) || (m = enif_alloc(sizeof *m)) == NULL) {
            continue;
        }
        m->env = enif_alloc_env();
        m->to = req->caller;
        m->sending = py_request_sending(req);
        m->term = enif_make_tuple2(m->env, enif_make_copy(m->env, req->ref),
                                   py_request_stop_term(m->env, atomic_load(&w->current->stop), true));
        m->next = out;
        out = m;
    }
    w->lost = true;
    context->lost_workers++;
    context->worker_count--;
    if (context->active == w) {
        context->active = NULL;
        if (!atomic_load(&context->closing)) {
            py_context_promote(context);
        }
    }
    return out;
}

static size_t look_at_workers(py_context *context, uint64_t now)
{
    message *out, *m;
    py_worker *w;
    size_t running;

    do {
        running = 0;
        out = NULL;
        pthread_mutex_lock(&context->take_lock);
        for (w = context->workers; w != NULL && out == NULL; w = w->next) {
            if (w->current == NULL || (w->lost && since(w->current->stop_ns, now) > NUDGING_NS)) {
                continue;
            }
            running++;
            watch_worker(context, w, now);
            if (!w->lost && w->current->stop_ns != 0 && since(w->current->stop_ns, now) >= py_watchdog_grace_ns) {
                out = write_off(context, w);
            }
        }
        pthread_mutex_unlock(&context->take_lock);
        while ((m = out) != NULL) {
            out = m->next;
            enif_send(NULL, &m->to, m->env, m->term);
            py_request_sent(m->sending);
            enif_free_env(m->env);
            enif_free(m);
        }
    } while (w != NULL);
    return running;
}

/* Someone waits while nobody moves: another worker, if there may be one. Overdue requests are answered where they are.
 */
static bool look_at_queue(py_context *context, uint64_t now, bool sweep)
{
    findings f = {0};
    py_request *req;
    bool waiting, moved;

    pthread_mutex_lock(&context->take_lock);
    waiting = atomic_load(&context->queued) != 0;
    moved = context->progress != context->watched_progress;
    if (waiting && context->watched_waiting && !moved) {
        if (context->active == NULL) {
            py_context_promote(context);
        } else if (context->active->current != NULL) {
            context->active->stalled = true;
            py_context_promote(context);
        }
    }
    if (waiting && sweep) {
        expire_queue(context, now, &f);
    }
    if (sweep) {
        expire_nested(context, now, &f);
    }
    context->watched_waiting = waiting;
    context->watched_progress = context->progress;
    pthread_mutex_unlock(&context->take_lock);
    while ((req = f.expired) != NULL) {
        f.expired = req->next;
        if (py_request_finish(req)) {
            py_request_reply_stop(req, NULL, PY_STOP_TIMEOUT, false);
        }
        py_request_free(req);
    }
    return waiting || moved;
}

static bool grow_callers(void)
{
    size_t cap = callers_cap == 0 ? 64 : callers_cap * 2;
    ErlNifPid *pids = enif_realloc(callers, cap * sizeof *pids);
    uint64_t *ids = enif_realloc(serials, cap * sizeof *ids);

    callers = pids != NULL ? pids : callers;
    serials = ids != NULL ? ids : serials;
    callers_cap = pids != NULL && ids != NULL ? cap : callers_cap;
    return callers_cap == cap;
}

/* Interrupts what runs for callers that are gone. */
static void look_at_callers(py_context *context)
{
    py_worker *w;
    py_request *req;
    size_t n = 0, i;

    pthread_mutex_lock(&context->take_lock);
    for (w = context->workers; w != NULL; w = w->next) {
        for (req = w->current; req != NULL; req = req->under) {
            if ((req->flags & PY_REQ_NO_REPLY) || req->stop_ns != 0) {
                continue;
            }
            if (n == callers_cap && !grow_callers()) {
                break;
            }
            callers[n] = req->caller;
            serials[n++] = req->serial;
        }
    }
    pthread_mutex_unlock(&context->take_lock);
    for (i = 0; i < n; i++) {
        if (!enif_is_process_alive(NULL, &callers[i])) {
            py_context_stop_request(context, serials[i], PY_STOP_CANCELLED);
        }
    }
}

typedef struct {
    uint64_t now;
    bool sweep, moving;
    size_t running;
} look;

static void look_at_context(py_context *context, void *arg)
{
    look *l = arg;

    if (PY_UNLIKELY(atomic_load(&context->closing))) {
        py_context_answer_orphans(context, NULL);
    }
    l->running += look_at_workers(context, l->now);
    l->running += py_async_watch(context, l->now, l->sweep);
    l->moving |= look_at_queue(context, l->now, l->sweep);
    if (l->sweep) {
        look_at_callers(context);
    }
}

static void *watchdog_main(void *arg)
{
    uint64_t swept = 0;
    int idle = 0, mode;

    (void)arg;
    for (;;) {
        look l = {.now = py_now_ns()};

        atomic_store_explicit(&py_watchdog_now, l.now, memory_order_relaxed);
        l.sweep = l.now - swept >= SWEEP_NS;
        swept = l.sweep ? l.now : swept;
        py_runtime_each(look_at_context, &l);
        idle = l.moving || l.running != 0 ? 0 : idle + 1;
        mode = PY_WATCH_TICKING;
        if (!l.moving && l.running != 0) {
            mode = PY_WATCH_RELAXED;
        } else if (idle >= IDLE_TICKS) {
            mode = PY_WATCH_IDLE;
        }
        py_parker_prepare(&parker);
        if (atomic_exchange(&py_watchdog_mode, mode) != mode || mode == PY_WATCH_TICKING) {
            /* What came between the look and a new mode did not wake us: one more look before a long sleep. */
            py_parker_sleep(&parker, TICK_NS);
        } else {
            py_parker_sleep(&parker, mode == PY_WATCH_RELAXED ? RELAXED_TICK_NS : PY_FOREVER);
        }
    }
    return NULL;
}

bool py_watchdog_start(void)
{
    py_parker_init(&parker);
    return py_thread_start(watchdog_main, NULL, "py_watchdog");
}
