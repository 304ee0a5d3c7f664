/* The loop thread of a context and the lists of its requests. See async.h. */
#include "async.h"

#include "async_thread.h"
#include "atoms.h"
#include "context.h"
#include "driver.h"
#include "gather.h"
#include "interpreter.h"
#include "park.h"
#include "runtime.h"
#include "state.h"
#include "watchdog.h"
#include "worker.h"

#define NUDGE_NS UINT64_C(20000000)
#define LOOK_NS UINT64_C(2000000) /* the watchdog goes through the lists at most this often */
#define SWEEP_MAX 512             /* callers looked at in one sweep */
#define ANSWERS 64                /* replies made in one hold of the lock */
#define CLOSE_SLICES 16           /* of so many each, when the context is closed: the rest is the next look's */
#define NEVER UINT64_MAX

#define REQ_OF_EVENT(e) ((py_request *)((char *)(e)-offsetof(py_request, event)))
#define REQ_OF_LINK(l) ((py_request *)((char *)(l)-offsetof(py_request, link)))
#define ASYNC_OF(e, field) ((py_async *)((char *)(e)-offsetof(py_async, field)))

static int run_cancel(py_event *event, py_loop *loop);
static void drop_nothing(py_event *event) { (void)event; }

/* ---- lists ---- */

static void list_init(py_link *list) { list->next = list->prev = list; }

static void list_add(py_link *list, py_link *link)
{
    link->prev = list->prev;
    link->next = list;
    list->prev->next = link;
    list->prev = link;
}

static void list_remove(py_link *link)
{
    link->prev->next = link->next;
    link->next->prev = link->prev;
}

int py_async_init(py_context *context)
{
    py_async *async = &context->async;

    list_init(&async->live);
    list_init(&async->stopping);
    async->behind = &async->waiting;
    async->next_look = NEVER;
    async->cancel = (py_event){.run = run_cancel, .drop = drop_nothing, .type = PY_EVENT_REQUEST};
    async->leave = (py_event){.run = py_async_run_leave, .drop = drop_nothing, .type = PY_EVENT_REQUEST};
    return pthread_mutex_init(&async->lock, NULL) == 0 ? 0 : -1;
}

void py_async_destroy(py_context *context) { pthread_mutex_destroy(&context->async.lock); }

/* ---- posting ---- */

/* Lock held. The poller to post to, kept, or NULL. */
static py_poller *poller_of(py_async *async)
{
    if (async->poller != NULL) {
        py_poller_keep(async->poller);
    }
    return async->poller;
}

static bool post(py_poller *poller, py_event *event)
{
    bool posted = py_poller_post(poller, event, event, 1);

    py_poller_release(poller);
    return posted;
}

/* A request that the loop did not take: the poller was closed. */
static void drop_request(py_event *event)
{
    py_request *req = REQ_OF_EVENT(event);

    if (py_request_finish(req)) {
        py_request_reply_stop(req, NULL, PY_STOP_STOPPED, false);
    }
    py_async_retire(&req->context->async, req, NULL);
}

/* Lock held. */
static bool start_thread(py_context *context)
{
    enif_keep_resource(context);
    atomic_fetch_add(&context->threads_alive, 1);
    context->async.state = PY_ASYNC_STARTING;
    if (py_thread_start(py_async_main, context, "py_loop")) {
        return true;
    }
    context->async.state = PY_ASYNC_OFF;
    atomic_fetch_sub(&context->threads_alive, 1);
    enif_release_resource(context);
    return false;
}

ERL_NIF_TERM py_async_push(py_context *context, py_request *req)
{
    py_async *async = &context->async;
    py_poller *poller = NULL;
    ERL_NIF_TERM why = py_atoms.ok;

    req->event = (py_event){.run = py_driver_run, .drop = drop_request, .type = PY_EVENT_REQUEST, .id = req->serial};
    pthread_mutex_lock(&async->lock);
    if (PY_UNLIKELY(async->closed)) {
        why = py_atoms.noproc;
    } else if (PY_UNLIKELY(async->state == PY_ASYNC_STOPPING)) {
        why = py_atoms.stopped;
    } else if (PY_UNLIKELY((async->poller != NULL ? py_poller_pending(async->poller) : async->waiting_count) >=
                           context->max_queue)) {
        why = py_atoms.overloaded;
    } else if (PY_UNLIKELY(async->state == PY_ASYNC_OFF) && !start_thread(context)) {
        why = py_atoms.system_limit;
    } else {
        list_add(&async->live, &req->link);
        atomic_fetch_add(&async->count, 1);
        if (req->deadline_ns != 0 && req->deadline_ns < async->next_look) {
            async->next_look = req->deadline_ns;
        }
        if ((poller = poller_of(async)) == NULL) {
            *async->behind = &req->event;
            async->behind = &req->event.next;
            async->waiting_count++;
        }
    }
    pthread_mutex_unlock(&async->lock);
    if (PY_LIKELY(poller != NULL) && !post(poller, &req->event)) {
        drop_request(&req->event);
    }
    if (PY_LIKELY(why == py_atoms.ok)) {
        py_watchdog_running();
    }
    return why;
}

ERL_NIF_TERM py_async_start(py_context *context)
{
    py_async *async = &context->async;
    ERL_NIF_TERM why = py_atoms.ok;

    pthread_mutex_lock(&async->lock);
    if (async->closed) {
        why = py_atoms.noproc;
    } else if (async->state == PY_ASYNC_STOPPING) {
        why = py_atoms.stopped;
    } else if (async->state == PY_ASYNC_OFF && !start_thread(context)) {
        why = py_atoms.system_limit;
    }
    pthread_mutex_unlock(&async->lock);
    return why;
}

bool py_async_adopt(py_request *req, PyObject *coro)
{
    py_request *heir = py_request_new(req->context);
    ERL_NIF_TERM why;

    if (heir == NULL) {
        Py_DECREF(coro);
        return false;
    }
    heir->start = coro;
    heir->op = req->op;
    heir->flags = (req->flags & (unsigned)(PY_REQ_TRACKED | PY_REQ_NO_REPLY)) | PY_REQ_LOOP;
    heir->ref = enif_make_copy(heir->env, req->ref);
    heir->target = heir->function = heir->args = heir->kwargs = py_atoms.undefined;
    heir->shown_target = req->shown_target;
    heir->shown_function = req->shown_function;
    heir->caller = req->caller;
    heir->submitted_ns = req->submitted_ns;
    heir->deadline_ns = req->deadline_ns;
    heir->chain = req->chain;
    heir->parent = req->parent;
    heir->trace = req->trace == 0 ? 0 : enif_make_copy(heir->env, req->trace);
    heir->callers = req->callers == 0 ? 0 : enif_make_copy(heir->env, req->callers);
    if (heir->flags & PY_REQ_TRACKED) { /* before req is done, so that a cancel finds one of the two */
        py_request_track(heir);
    }
    if (!py_request_finish(req)) {
        py_request_free(heir);
        return true;
    }
    why = py_async_push(req->context, heir);
    if (why != py_atoms.ok) {
        if (py_request_finish(heir)) {
            py_request_reply(heir, NULL, heir->env, enif_make_tuple2(heir->env, py_atoms.error, why));
        }
        py_request_free(heir);
    }
    return true;
}

bool py_async_post(py_context *context, py_event *event)
{
    py_poller *poller;

    pthread_mutex_lock(&context->async.lock);
    poller = poller_of(&context->async);
    pthread_mutex_unlock(&context->async.lock);
    return poller != NULL && post(poller, event);
}

/* ---- steps ---- */

/* Lock held: the step is over. True when an interrupt for it may still be pending. */
static bool end_step(py_async *async, py_request *req, py_request *before)
{
    bool stopped = false;

    if (atomic_load_explicit(&async->current, memory_order_relaxed) == req) {
        atomic_store_explicit(&async->current, before, memory_order_relaxed);
        stopped = async->stop_pending;
        async->stop_pending = false;
    }
    return stopped;
}

void py_async_leave(py_async *async, py_request *req, py_request *before, PyObject *driver)
{
    py_poller *poller = NULL;
    bool stopped;

    pthread_mutex_lock(&async->lock);
    stopped = end_step(async, req, before);
    if (driver != NULL) {
        req->driver = Py_NewRef(driver);
        if (atomic_load(&req->stop) != PY_STOP_NONE) { /* asked to stop before there was anything to cancel */
            list_remove(&req->link);
            list_add(&async->stopping, &req->link);
            if (!async->cancel_posted && (poller = poller_of(async)) != NULL) {
                async->cancel_posted = true;
                async->cancel_ns = py_now_ns();
            }
        }
    }
    pthread_mutex_unlock(&async->lock);
    if (PY_UNLIKELY(stopped)) {
        PyThreadState_SetAsyncExc(async->thread_id, NULL);
    }
    if (PY_UNLIKELY(poller != NULL)) {
        (void)post(poller, &async->cancel);
    }
}

void py_async_retire(py_async *async, py_request *req, py_request *before)
{
    PyObject *driver;
    bool stopped;

    pthread_mutex_lock(&async->lock);
    stopped = end_step(async, req, before);
    list_remove(&req->link);
    atomic_fetch_sub(&async->count, 1);
    driver = req->driver;
    req->driver = NULL;
    pthread_mutex_unlock(&async->lock);
    if (PY_UNLIKELY(stopped)) {
        PyThreadState_SetAsyncExc(async->thread_id, NULL);
    }
    Py_XDECREF(driver);
    py_request_free(req);
}

/* ---- stopping ---- */

/* Lock held. Marks the request; true when the loop has to be told. */
static bool mark(py_async *async, py_request *req, int stop, uint64_t now)
{
    int none = PY_STOP_NONE;

    if (!atomic_compare_exchange_strong(&req->stop, &none, stop)) {
        return false;
    }
    req->stop_ns = req->nudged_ns = now;
    if (now + py_watchdog_grace_ns < async->next_look) {
        async->next_look = now + py_watchdog_grace_ns;
    }
    if (req->driver == NULL && req->gather == NULL) {
        return false;
    }
    list_remove(&req->link);
    list_add(&async->stopping, &req->link);
    return true;
}

/* Lock held: the poller to post `cancel` to, or NULL. */
static py_poller *to_cancel(py_async *async)
{
    if (async->cancel_posted || async->poller == NULL) {
        return NULL;
    }
    async->cancel_posted = true;
    async->cancel_ns = py_now_ns();
    return poller_of(async);
}

void py_async_stop(py_request *req, int stop)
{
    py_async *async = &req->context->async;
    py_poller *poller = NULL;

    pthread_mutex_lock(&async->lock);
    if (mark(async, req, stop, py_now_ns())) {
        poller = to_cancel(async);
    }
    pthread_mutex_unlock(&async->lock);
    if (poller != NULL) {
        (void)post(poller, &async->cancel);
    }
    py_watchdog_waiting();
}

void py_async_stop_running(py_context *context, int stop)
{
    py_async *async = &context->async;
    py_poller *poller = NULL;
    py_link *link, *next;
    uint64_t now = py_now_ns();
    bool any = false;

    pthread_mutex_lock(&async->lock);
    for (link = async->live.next; link != &async->live; link = next) {
        next = link->next;
        if (atomic_load(&REQ_OF_LINK(link)->state) == REQ_RUNNING) {
            any |= mark(async, REQ_OF_LINK(link), stop, now);
        }
    }
    if (any) {
        poller = to_cancel(async);
    }
    pthread_mutex_unlock(&async->lock);
    if (poller != NULL) {
        (void)post(poller, &async->cancel);
    }
    py_watchdog_waiting();
}

/* On the loop's thread: cancels what `stopping` holds. */
static int run_cancel(py_event *event, py_loop *loop)
{
    py_async *async = ASYNC_OF(event, cancel);
    py_request *req;
    PyObject *driver;
    bool freed;

    (void)loop;
    for (;;) {
        pthread_mutex_lock(&async->lock);
        if (async->stopping.next == &async->stopping) {
            async->cancel_posted = false;
            freed = async->freed;
            async->freed = false;
            pthread_mutex_unlock(&async->lock);
            if (PY_UNLIKELY(freed)) {
                PyThreadState_SetAsyncExc(async->thread_id, NULL);
            }
            return 0;
        }
        req = REQ_OF_LINK(async->stopping.next);
        list_remove(&req->link);
        list_add(&async->live, &req->link);
        driver = Py_XNewRef(req->driver);
        pthread_mutex_unlock(&async->lock);
        if (req->gather != NULL) {
            py_gather_cancel(req->gather);
        } else if (driver != NULL) {
            py_driver_cancel(driver);
        }
        Py_XDECREF(driver);
    }
}

static size_t count_open(py_link *list)
{
    size_t n = 0;

    for (py_link *link = list->next; link != list; link = link->next) {
        n += !py_request_is_done(REQ_OF_LINK(link));
    }
    return n;
}

size_t py_async_open(py_context *context)
{
    py_async *async = &context->async;
    size_t n;

    pthread_mutex_lock(&async->lock);
    n = count_open(&async->live) + count_open(&async->stopping);
    pthread_mutex_unlock(&async->lock);
    return n;
}

bool py_async_is_leaving(py_async *async)
{
    bool leaving;

    pthread_mutex_lock(&async->lock);
    leaving = async->leave_posted;
    pthread_mutex_unlock(&async->lock);
    return leaving;
}

bool py_async_interrupt(py_context *context, uint64_t serial)
{
    py_async *async = &context->async;
    py_request *req;
    bool found = false;

    if (serial == 0) {
        return py_async_free_loop(context);
    }
    pthread_mutex_lock(&async->lock);
    req = atomic_load(&async->current);
    if (req != NULL && req->serial == serial) {
        found = async->stop_pending = true;
        atomic_fetch_add(&req->nudges, 1);
        PyThreadState_SetAsyncExc(async->thread_id, context->interp->state->call.interrupted);
    }
    pthread_mutex_unlock(&async->lock);
    return found;
}

/* ---- answers from outside the loop's thread ---- */

typedef struct {
    ErlNifEnv *env;
    ErlNifPid to;
    ERL_NIF_TERM message;
    py_sending sending;
} answer;

typedef struct {
    answer items[ANSWERS];
    size_t n;
} answers;

/* Lock held. Finishes a request that its loop does not get to. The memory stays the loop's. */
static void give_up(answers *out, py_request *req, int stop, bool abandoned)
{
    answer *a = &out->items[out->n];

    if (!py_request_finish(req) || (req->flags & PY_REQ_NO_REPLY)) {
        return;
    }
    a->env = enif_alloc_env();
    a->to = req->caller;
    a->sending = py_request_sending(req);
    a->message = py_request_message(a->env, req, py_request_stop_term(a->env, stop, abandoned));
    out->n++;
}

static void send_answers(answers *out, ErlNifEnv *env)
{
    size_t i;

    for (i = 0; i < out->n; i++) {
        enif_send(env, &out->items[i].to, out->items[i].env, out->items[i].message);
        py_request_sent(out->items[i].sending);
        enif_free_env(out->items[i].env);
    }
    out->n = 0;
}

/* Lock held. Goes through a list for what is overdue; false when there was no room for another answer. */
static bool look_at(py_async *async, py_link *list, uint64_t now, uint64_t *next_look, answers *out, bool *tell)
{
    py_link *link, *next;

    for (link = list->next; link != list; link = next) {
        py_request *req = REQ_OF_LINK(link);
        uint64_t at = NEVER;

        next = link->next;
        if (out->n == ANSWERS) {
            return false;
        }
        if (py_request_is_done(req)) {
            continue;
        }
        if (req->stop_ns != 0) {
            at = req->stop_ns + py_watchdog_grace_ns;
            if (at <= now) {
                give_up(out, req, atomic_load(&req->stop), true);
                continue;
            }
        } else if (req->deadline_ns != 0) {
            at = req->deadline_ns;
            if (at <= now && atomic_load(&req->state) == REQ_QUEUED) {
                give_up(out, req, PY_STOP_TIMEOUT, false);
                continue;
            }
            if (at <= now) {
                *tell |= mark(async, req, PY_STOP_TIMEOUT, now);
                at = now + py_watchdog_grace_ns;
            }
        }
        *next_look = at < *next_look ? at : *next_look;
    }
    return true;
}

static void look_at_deadlines(py_async *async, uint64_t now)
{
    answers out = {.n = 0};
    py_poller *poller;
    uint64_t next_look;
    bool all, tell;

    do {
        poller = NULL;
        tell = false;
        pthread_mutex_lock(&async->lock);
        all = async->next_look > now;
        if (!all) {
            next_look = NEVER;
            all = look_at(async, &async->stopping, now, &next_look, &out, &tell) &&
                  look_at(async, &async->live, now, &next_look, &out, &tell);
            if (all) {
                async->next_look = next_look < now + LOOK_NS ? now + LOOK_NS : next_look;
            }
            poller = tell ? to_cancel(async) : NULL;
        }
        pthread_mutex_unlock(&async->lock);
        send_answers(&out, NULL);
        if (poller != NULL) {
            (void)post(poller, &async->cancel);
        }
    } while (!all);
}

/* Requests of callers that are gone, a part of them at a time: those looked at go to the end of the list. */
static void look_at_callers(py_async *async, uint64_t now)
{
    py_poller *poller = NULL;
    ErlNifPid last;
    bool have_last = false, alive = true, tell = false;
    size_t n, count;

    pthread_mutex_lock(&async->lock);
    count = atomic_load(&async->count);
    for (n = 0; n < count && n < SWEEP_MAX && async->live.next != &async->live; n++) {
        py_request *req = REQ_OF_LINK(async->live.next);

        list_remove(&req->link);
        list_add(&async->live, &req->link);
        if ((req->flags & PY_REQ_NO_REPLY) || req->stop_ns != 0 || py_request_is_done(req)) {
            continue;
        }
        if (!have_last || enif_compare_pids(&last, &req->caller) != 0) {
            last = req->caller;
            have_last = true;
            alive = enif_is_process_alive(NULL, &last);
        }
        if (!alive && atomic_load(&req->state) == REQ_QUEUED) {
            py_request_finish(req);
        } else if (!alive) {
            tell |= mark(async, req, PY_STOP_CANCELLED, now);
        }
    }
    if (tell) {
        poller = to_cancel(async);
    }
    pthread_mutex_unlock(&async->lock);
    if (poller != NULL) {
        (void)post(poller, &async->cancel);
    }
}

/* A step that goes on although its request is to stop is interrupted, again and again. */
static void look_at_step(py_context *context, uint64_t now)
{
    py_async *async = &context->async;
    uint64_t step = atomic_load(&async->step), serial = 0;
    py_request *req;
    bool nudge = false;

    if (step != async->watched_step) {
        async->watched_step = step;
        async->watched_since = now;
    } else if (now - async->watched_since >= NUDGE_NS) {
        pthread_mutex_lock(&async->lock);
        req = atomic_load(&async->current);
        if (req == NULL && async->cancel_posted && now - async->cancel_ns >= 2 * NUDGE_NS) {
            async->cancel_ns = now;
            nudge = true; /* no step of a request: a task that one of them started does not end */
        } else if (req != NULL && req->stop_ns != 0 && now - req->nudged_ns >= NUDGE_NS) {
            req->nudged_ns = now;
            serial = req->serial;
            nudge = true;
        }
        pthread_mutex_unlock(&async->lock);
    }
    if (nudge) {
        py_interp_interrupt(context->interp, context, serial);
    }
}

/* Answers some of what a closed context's loop has; false when it has been through them. Then the loop is told to
 * leave: that cancels what runs, which by then is known to be stopped. */
static bool answer_some(py_async *async, ErlNifEnv *env)
{
    answers out = {.n = 0};
    py_poller *poller = NULL, *leave = NULL;
    uint64_t now = py_now_ns();
    size_t left;
    bool tell = false, more;

    pthread_mutex_lock(&async->lock);
    left = atomic_load(&async->unanswered);
    for (; out.n < ANSWERS && left > 0 && async->live.next != &async->live; left--) {
        py_request *req = REQ_OF_LINK(async->live.next);

        list_remove(&req->link); /* those looked at go to the end of the list */
        list_add(&async->live, &req->link);
        if (atomic_load(&req->state) == REQ_QUEUED) {
            give_up(&out, req, PY_STOP_STOPPED, false);
        } else {
            tell |= mark(async, req, PY_STOP_STOPPED, now);
        }
    }
    more = left > 0 && async->live.next != &async->live;
    atomic_store(&async->unanswered, more ? left : 0);
    poller = tell ? to_cancel(async) : NULL;
    if (!more && async->poller != NULL && !async->leave_posted) {
        async->leave_posted = true;
        leave = poller_of(async);
    }
    pthread_mutex_unlock(&async->lock);
    send_answers(&out, env);
    if (poller != NULL) {
        (void)post(poller, &async->cancel);
    }
    if (leave != NULL) {
        (void)post(leave, &async->leave);
    }
    return more;
}

static void answer_closed(py_async *async, ErlNifEnv *env)
{
    int i;

    for (i = 0; i < CLOSE_SLICES && answer_some(async, env); i++) {
    }
}

size_t py_async_watch(py_context *context, uint64_t now, bool sweep)
{
    py_async *async = &context->async;

    if (atomic_load(&async->unanswered) != 0) {
        answer_closed(async, NULL);
    }
    if (atomic_load(&async->count) == 0) {
        return 0;
    }
    look_at_deadlines(async, now);
    look_at_step(context, now);
    if (sweep && !atomic_load(&async->closed)) { /* it keeps no order, which the answering needs */
        look_at_callers(async, now);
    }
    return atomic_load(&async->count);
}

void py_async_close(py_context *context, ErlNifEnv *env)
{
    py_async *async = &context->async;

    pthread_mutex_lock(&async->lock);
    if (!atomic_load(&async->closed)) {
        atomic_store(&async->closed, true);
        atomic_store(&async->unanswered, atomic_load(&async->count));
    }
    async->drain_ns = 0;
    if (async->state == PY_ASYNC_RUNNING) {
        async->state = PY_ASYNC_STOPPING;
    }
    pthread_mutex_unlock(&async->lock);
    answer_closed(async, env);
    py_watchdog_waiting();
}
