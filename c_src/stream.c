/* Streams. See stream.h. */
#include "stream.h"

#include "async.h"
#include "atoms.h"
#include "call.h"
#include "context.h"
#include "convert.h"
#include "interpreter.h"
#include "park.h"
#include "state.h"

#define BATCH 256 /* items of one step */
#define SLICE_NS UINT64_C(1000000)
#define CLOCK_ITEMS 16 /* how often a step looks at the clock */

enum { STREAM_BUSY, STREAM_PARKED, STREAM_ENDED };

struct py_stream {
    py_context *context; /* kept */
    ErlNifPid owner;
    ErlNifMonitor monitor, context_monitor;
    ErlNifEnv *env; /* owns what is called; cleared by the first step */
    ERL_NIF_TERM what[4];
    ErlNifEnv *callers_env;
    ERL_NIF_TERM callers; /* of the owner: none unless it stands for a process of another node */
    int op;
    unsigned flags;
    pthread_mutex_t lock;
    int state;      /* under lock */
    int64_t credit; /* under lock; below 0: no bound */
    _Atomic bool cancelled;
    int why;          /* under lock: PY_STOP_* of the cancel */
    PyObject *iter;   /* of whoever runs the step; the drop's in the end */
    PyObject *waiter; /* under lock: the pump's future */
    bool wake_posted; /* under lock */
    py_event wake;    /* to the loop: there is credit */
};

/* The loop's face of it. */
typedef struct {
    PyObject_HEAD py_stream *stream; /* kept */
    unsigned batch;
} stream_object;

static ErlNifResourceType *stream_rtype;

_Atomic long py_streams_live;

/* ---- life ---- */

static void stream_dtor(ErlNifEnv *env, void *obj)
{
    py_stream *s = obj;

    (void)env;
    pthread_mutex_lock(&s->lock); /* what its last step wrote is seen here */
    pthread_mutex_unlock(&s->lock);
    if (s->iter != NULL) { /* a generator that goes runs its finally */
        py_interp_drop_later(s->context->interp, s->iter);
    }
    if (s->waiter != NULL) {
        py_interp_drop_later(s->context->interp, s->waiter);
    }
    py_interp_unuse(s->context->interp);
    enif_free_env(s->env);
    enif_free_env(s->callers_env);
    pthread_mutex_destroy(&s->lock);
    enif_release_resource(s->context);
    atomic_fetch_sub(&py_streams_live, 1);
}

static void cancel(py_stream *s, ErlNifEnv *env, int why);
static int end(py_stream *s, ErlNifEnv *env, int why);

/* The stream's owner, or the process of its context. */
static void owner_down(ErlNifEnv *env, void *obj, ErlNifPid *pid, ErlNifMonitor *monitor)
{
    py_stream *s = obj;

    (void)monitor;
    if (enif_compare_pids(pid, &s->owner) == 0) {
        cancel(s, env, PY_STOP_CANCELLED);
    } else { /* which ends what runs or waits there */
        (void)end(s, env, PY_STOP_STOPPED);
    }
}

int py_stream_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = stream_dtor, .down = owner_down};

    stream_rtype = enif_open_resource_type_x(env, "py_stream", &init, ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER, NULL);
    return stream_rtype == NULL ? -1 : 0;
}

static int run_wake(py_event *event, py_loop *loop);
static void drop_wake(py_event *event) { enif_release_resource((char *)event - offsetof(py_stream, wake)); }

static py_stream *stream_new(py_context *context)
{
    py_stream *s;

    if (!py_interp_try_use(context->interp)) {
        return NULL;
    }
    s = enif_alloc_resource(stream_rtype, sizeof *s);
    if (s == NULL) {
        py_interp_unuse(context->interp);
        return NULL;
    }
    memset(s, 0, sizeof *s);
    s->env = enif_alloc_env();
    s->callers_env = enif_alloc_env();
    pthread_mutex_init(&s->lock, NULL);
    s->wake = (py_event){.run = run_wake, .drop = drop_wake, .type = PY_EVENT_REQUEST};
    enif_keep_resource(context);
    s->context = context;
    atomic_fetch_add(&py_streams_live, 1);
    return s;
}

/* ---- messages ---- */

static void send_body(py_stream *s, ErlNifEnv *env, ErlNifEnv *msg_env, ERL_NIF_TERM body)
{
    ERL_NIF_TERM ref = enif_make_resource(msg_env, s);

    enif_send(env, &s->owner, msg_env, enif_make_tuple3(msg_env, py_atoms.py_stream, ref, body));
    enif_clear_env(msg_env);
}

static void send_stop(py_stream *s, ErlNifEnv *env, int why)
{
    ErlNifEnv *msg_env = enif_alloc_env();

    send_body(s, env, msg_env, py_request_stop_term(msg_env, why, false));
    enif_free_env(msg_env);
}

/* ---- steps ---- */

/* A request for the stream, which is BUSY. False when the context does not take it. */
static bool push_step(py_stream *s, bool loop, PyObject *start)
{
    py_context *context = s->context;
    py_request *req = py_request_new(context);
    ERL_NIF_TERM why;

    if (req == NULL) {
        return false;
    }
    req->op = s->op;
    req->flags = s->flags | PY_REQ_STREAM | PY_REQ_TRACKED | (loop ? PY_REQ_LOOP : 0u);
    req->start = start;
    py_request_fill(req, s->env, enif_make_resource(req->env, s), s->what);
    req->caller = s->owner;
    req->callers = enif_make_copy(req->env, s->callers);
    req->submitted_ns = py_now_ns();
    req->deadline_ns = 0;
    enif_keep_resource(s);
    req->stream = s;
    py_request_track(req);
    why = loop ? py_async_push(context, req) : py_context_push(context, req);
    if (why != py_atoms.ok) {
        py_request_free(req);
    }
    return why == py_atoms.ok;
}

/* BUSY, and nothing runs: the next step, or the end. */
static void go_on(py_stream *s, ErlNifEnv *env, bool loop, PyObject *start)
{
    PyObject *iter;

    if (!push_step(s, loop, start)) {
        iter = s->iter; /* nobody else runs it */
        s->iter = NULL;
        if (iter != NULL) {
            py_interp_drop_later(s->context->interp, iter);
        }
        send_stop(s, env, PY_STOP_STOPPED);
        pthread_mutex_lock(&s->lock); /* ended is only what has sent its last message */
        s->state = STREAM_ENDED;
        pthread_mutex_unlock(&s->lock);
    }
}

void py_stream_release(py_request *req)
{
    py_stream *s = req->stream;

    if (req->tracked) { /* it never came to its end: whoever stopped it sent the last message */
        py_request_untrack(req);
        pthread_mutex_lock(&s->lock);
        s->state = STREAM_ENDED;
        pthread_mutex_unlock(&s->lock);
    }
    req->stream = NULL;
    enif_release_resource(s);
}

/* Gives up the iterator. Attached. The exception that is set stays, and one of close() comes in its place. */
static void close_iterator(py_state *st, py_stream *s)
{
    PyObject *exc = PyErr_GetRaisedException(), *iter = s->iter, *close = NULL, *closed;

    s->iter = NULL;
    if (iter != NULL && PyObject_GetOptionalAttr(iter, st->stream.str_close, &close) > 0) {
        closed = PyObject_CallNoArgs(close);
        Py_DECREF(close);
        Py_XDECREF(closed);
    }
    Py_XDECREF(iter);
    if (PyErr_Occurred()) {
        Py_XDECREF(exc);
    } else {
        PyErr_SetRaisedException(exc);
    }
}

static int import_streams(py_state *st)
{
    PyObject *module;

    if (st->stream.collect != NULL) {
        return 0;
    }
    module = PyImport_ImportModule("erlang._streams");
    if (module != NULL) {
        Py_XSETREF(st->stream.pump, PyObject_GetAttrString(module, "pump"));
        Py_XSETREF(st->stream.collect, st->stream.pump == NULL ? NULL : PyObject_GetAttrString(module, "collect"));
        Py_DECREF(module);
    }
    return st->stream.collect == NULL ? -1 : 0;
}

static bool is_async(PyObject *value)
{
    PyAsyncMethods *methods = Py_TYPE(value)->tp_as_async;

    return methods != NULL && methods->am_aiter != NULL;
}

/* The first step: the call. 1: an iterator is there, 0: the loop goes on, -1: exception. */
static int open_iterator(py_context *context, py_request *req, py_stream *s)
{
    py_state *st = context->interp->state;
    PyObject *value = py_call_value(context, req), *object, *coro = NULL;
    stream_object *face;

    if (value == NULL) {
        return -1;
    }
    if (!is_async(value)) {
        s->iter = PyObject_GetIter(value);
        Py_DECREF(value);
        return s->iter == NULL ? -1 : 1;
    }
    if (import_streams(st) < 0) {
        Py_DECREF(value);
        return -1;
    }
    object = st->stream.type->tp_alloc(st->stream.type, 0);
    if (object != NULL) {
        face = (stream_object *)object;
        enif_keep_resource(s);
        face->stream = s;
        coro = PyObject_CallFunctionObjArgs(st->stream.pump, value, object, NULL);
        Py_DECREF(object);
    }
    Py_DECREF(value);
    if (coro == NULL) {
        return -1;
    }
    s->iter = coro; /* py_stream_rest hands it to the loop */
    return 0;
}

/* Takes one credit; false when there is none. */
static bool take_credit(py_stream *s)
{
    bool taken;

    pthread_mutex_lock(&s->lock);
    taken = s->credit != 0;
    s->credit -= s->credit > 0 ? 1 : 0;
    pthread_mutex_unlock(&s->lock);
    return taken;
}

static void give_credit(py_stream *s)
{
    pthread_mutex_lock(&s->lock);
    s->credit += s->credit >= 0 ? 1 : 0;
    pthread_mutex_unlock(&s->lock);
}

static int send_item(py_state *st, py_stream *s, ErlNifEnv *env, PyObject *item)
{
    ERL_NIF_TERM term;

    if (py_py_to_term(st, env, item, 0, &term) < 0) {
        enif_clear_env(env);
        return -1;
    }
    send_body(s, NULL, env, enif_make_tuple2(env, py_atoms.data, term));
    return 0;
}

/* Items while there are credit and time. 1: more to come, 0: the end, -1: exception. */
static int run_batch(py_state *st, py_request *req, py_stream *s)
{
    ErlNifEnv *env = enif_alloc_env();
    uint64_t end = py_now_ns() + SLICE_NS;
    int n, rc = 1;

    for (n = 0; rc > 0 && n < BATCH; n++) {
        PyObject *item;

        if (atomic_load_explicit(&req->stop, memory_order_relaxed) != PY_STOP_NONE || py_request_is_done(req) ||
            atomic_load_explicit(&s->cancelled, memory_order_relaxed) || !take_credit(s)) {
            break;
        }
        item = PyIter_Next(s->iter);
        if (item == NULL) {
            rc = PyErr_Occurred() ? -1 : 0;
            give_credit(s);
        } else {
            rc = py_request_is_done(req) || send_item(st, s, env, item) == 0 ? 1 : -1;
            Py_DECREF(item);
        }
        if (n % CLOCK_ITEMS == CLOCK_ITEMS - 1 && py_now_ns() > end) {
            break;
        }
    }
    enif_free_env(env);
    return rc;
}

ERL_NIF_TERM py_stream_step(py_context *context, py_request *req)
{
    py_state *st = context->interp->state;
    py_stream *s = req->stream;
    int rc = 1;

    if (s->iter == NULL && !atomic_load(&s->cancelled)) {
        rc = open_iterator(context, req, s);
        enif_clear_env(s->env);
        s->what[0] = s->what[1] = s->what[3] = py_atoms.undefined;
        s->what[2] = py_atoms.undefined;
        if (rc == 0) {
            return 0;
        }
    }
    if (rc > 0 && s->iter != NULL) {
        rc = run_batch(st, req, s);
    }
    if (rc > 0 && !atomic_load(&s->cancelled) && atomic_load(&req->stop) == PY_STOP_NONE && !py_request_is_done(req)) {
        return 0;
    }
    close_iterator(st, s);
    if (PyErr_Occurred() && !atomic_load(&s->cancelled)) {
        return py_call_error(st, req, req->env);
    }
    PyErr_Clear();
    if (rc == 0) {
        return py_atoms.done;
    }
    return py_request_stop_term(req->env, atomic_load(&s->cancelled) ? s->why : atomic_load(&req->stop), false);
}

void py_stream_rest(py_request *req, bool last)
{
    py_stream *s = req->stream;
    PyObject *coro = NULL;
    bool again = false;

    py_request_untrack(req); /* the next step has the same reference */
    if (last) {
        close_iterator(s->context->interp->state, s);
        PyErr_Clear();
    }
    pthread_mutex_lock(&s->lock);
    if (last) {
        s->state = STREAM_ENDED;
    } else if (s->iter != NULL && PyCoro_CheckExact(s->iter)) {
        coro = s->iter;
        s->iter = NULL;
    } else if (s->credit != 0 || atomic_load(&s->cancelled)) {
        again = true;
    } else {
        s->state = STREAM_PARKED;
    }
    pthread_mutex_unlock(&s->lock);
    if (coro != NULL || again) {
        go_on(s, NULL, coro != NULL, coro);
    }
}

/* ---- from outside ---- */

/* The stream is to end because of `why`; its state until now. One that was parked has a step that closes the iterator
 * and says so, or where the context takes none, is at its end. */
static int end(py_stream *s, ErlNifEnv *env, int why)
{
    int state;

    pthread_mutex_lock(&s->lock);
    state = s->state;
    if (!atomic_load(&s->cancelled)) {
        s->why = why;
        atomic_store(&s->cancelled, true);
    }
    if (state == STREAM_PARKED) {
        s->state = STREAM_BUSY;
    }
    pthread_mutex_unlock(&s->lock);
    if (state == STREAM_PARKED) {
        go_on(s, env, false, NULL);
    }
    return state;
}

static void cancel(py_stream *s, ErlNifEnv *env, int why)
{
    ErlNifEnv *ref_env;

    if (end(s, env, why) == STREAM_BUSY) {
        ref_env = enif_alloc_env();
        (void)py_request_cancel(env, enif_make_resource(ref_env, s), false);
        enif_free_env(ref_env);
    }
}

static void add_credit(int64_t *credit, int64_t n) { *credit = n < 0 || *credit < 0 ? -1 : *credit + n; }

/* Lock held: the loop is to be told of the credit. */
static bool wakes_pump(py_stream *s)
{
    if (s->waiter == NULL || s->wake_posted) {
        return false;
    }
    s->wake_posted = true;
    enif_keep_resource(s);
    return true;
}

PY_NIF(stream_start_nif)
{ /* (Context, Op, Target, Function, Args, Kwargs, Credit, Flags, Callers) */
    py_context *context;
    py_stream *s;
    unsigned op, flags, i;
    ErlNifSInt64 credit;
    ERL_NIF_TERM ref;

    (void)argc;
    if (!enif_get_resource(env, argv[0], py_context_rtype, (void **)&context) || !enif_get_uint(env, argv[1], &op) ||
        op >= PY_OP_EXEC || !enif_get_int64(env, argv[6], &credit) || !enif_get_uint(env, argv[7], &flags)) {
        return enif_make_badarg(env);
    }
    if ((s = stream_new(context)) == NULL) {
        return atomic_load(&context->closing) ? py_atoms.noproc : py_atoms.system_limit;
    }
    for (i = 0; i < 4; i++) {
        s->what[i] = enif_make_copy(s->env, argv[2 + i]);
    }
    s->callers = enif_make_copy(s->callers_env, argv[8]);
    s->op = (int)op;
    s->flags = flags;
    s->credit = credit < 0 ? -1 : credit;
    enif_self(env, &s->owner);
    s->state = STREAM_BUSY;
    ref = enif_make_resource(env, s);
    if (enif_monitor_process(env, s, &s->owner, &s->monitor) != 0 ||
        enif_monitor_process(env, s, &context->owner, &s->context_monitor) != 0 || !push_step(s, false, NULL)) {
        s->state = STREAM_ENDED;
        ref = 0;
    }
    enif_release_resource(s);
    return ref == 0 ? py_atoms.noproc : enif_make_tuple2(env, py_atoms.ok, ref);
}

PY_NIF(stream_ack_nif)
{ /* (Ref, Credit) */
    py_stream *s;
    ErlNifSInt64 n;
    bool step = false, wake, ended;

    (void)argc;
    if (!enif_is_ref(env, argv[0]) || !enif_get_int64(env, argv[1], &n)) {
        return enif_make_badarg(env);
    }
    if (!enif_get_resource(env, argv[0], stream_rtype, (void **)&s)) {
        return py_atoms.undefined;
    }
    pthread_mutex_lock(&s->lock);
    add_credit(&s->credit, n);
    ended = s->state == STREAM_ENDED;
    if (s->state == STREAM_PARKED && s->credit != 0) {
        s->state = STREAM_BUSY;
        step = true;
    }
    wake = wakes_pump(s);
    pthread_mutex_unlock(&s->lock);
    if (step) {
        go_on(s, env, false, NULL);
    }
    if (wake && !py_async_post(s->context, &s->wake)) {
        drop_wake(&s->wake);
    }
    return ended ? py_atoms.done : py_atoms.ok;
}

PY_NIF(stream_cancel_nif)
{ /* (Ref) */
    py_stream *s;
    ErlNifPid self;
    bool ended;

    (void)argc;
    if (!enif_is_ref(env, argv[0])) {
        return enif_make_badarg(env);
    }
    if (!enif_get_resource(env, argv[0], stream_rtype, (void **)&s)) {
        return py_atoms.undefined;
    }
    pthread_mutex_lock(&s->lock);
    ended = s->state == STREAM_ENDED;
    pthread_mutex_unlock(&s->lock);
    cancel(s, env, PY_STOP_CANCELLED);
    enif_self(env, &self);
    if (enif_compare_pids(&self, &s->owner) != 0) {
        return py_atoms.other;
    }
    return ended ? py_atoms.done : py_atoms.owner;
}

/* ---- the loop's face ---- */

static int run_wake(py_event *event, py_loop *loop)
{
    py_stream *s = (py_stream *)((char *)event - offsetof(py_stream, wake));
    py_state *st = py_loop_state(loop);
    PyObject *waiter, *done, *set = NULL;

    pthread_mutex_lock(&s->lock);
    s->wake_posted = false;
    waiter = s->waiter;
    s->waiter = NULL;
    pthread_mutex_unlock(&s->lock);
    if (waiter != NULL) {
        done = PyObject_CallMethodNoArgs(waiter, st->stream.str_done);
        if (done == Py_False) {
            set = PyObject_CallMethodOneArg(waiter, st->stream.str_set_result, Py_None);
        }
        if (done == NULL || (done == Py_False && set == NULL)) {
            (void)py_loop_report(loop, "a stream cannot go on");
        }
        Py_XDECREF(set);
        Py_XDECREF(done);
        Py_DECREF(waiter);
    }
    enif_release_resource(s);
    return 0;
}

/* send(item) -> bool: False when it is time to wait(). */
static PyObject *face_send(PyObject *self, PyObject *item)
{
    stream_object *face = (stream_object *)self;
    py_state *st = py_state_of_type(Py_TYPE(self));
    py_stream *s = face->stream;
    ErlNifEnv *env = s->env; /* the loop's, now that the call is made */
    bool more;

    if (st == NULL || send_item(st, s, env, item) < 0) {
        return NULL;
    }
    pthread_mutex_lock(&s->lock);
    s->credit -= s->credit > 0 ? 1 : 0;
    more = s->credit != 0;
    pthread_mutex_unlock(&s->lock);
    if (++face->batch >= BATCH) {
        face->batch = 0;
        more = false;
    }
    return PyBool_FromLong(more);
}

/* wait(future) -> bool: True when the future will be resolved with the next credit, False when there is some. */
static PyObject *face_wait(PyObject *self, PyObject *future)
{
    py_stream *s = ((stream_object *)self)->stream;
    PyObject *old = NULL;
    bool waits;

    pthread_mutex_lock(&s->lock);
    waits = s->credit == 0;
    if (waits) {
        old = s->waiter;
        s->waiter = Py_NewRef(future);
    }
    pthread_mutex_unlock(&s->lock);
    Py_XDECREF(old);
    return PyBool_FromLong(waits);
}

static void face_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    py_stream *s = ((stream_object *)self)->stream;

    if (s != NULL) {
        pthread_mutex_lock(&s->lock);
        s->state = STREAM_ENDED; /* its pump is gone */
        pthread_mutex_unlock(&s->lock);
        enif_release_resource(s);
    }
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef face_methods[] = {
    {"send", face_send, METH_O, NULL},
    {"wait", face_wait, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot face_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A stream's way to its owner, for erlang._streams.")},
    {Py_tp_dealloc, face_dealloc},
    {Py_tp_methods, face_methods},
    {0, NULL},
};

static PyType_Spec face_spec = {
    .name = "_erlang.Stream",
    .basicsize = sizeof(stream_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = face_slots,
};

/* ---- whole iterators ---- */

ERL_NIF_TERM py_stream_collect(py_context *context, py_request *req)
{
    py_state *st = context->interp->state;
    PyObject *value = py_call_value(context, req), *list = NULL, *coro;
    ERL_NIF_TERM term;

    if (value != NULL && is_async(value)) {
        coro = import_streams(st) < 0 ? NULL : PyObject_CallOneArg(st->stream.collect, value);
        Py_DECREF(value);
        if (coro != NULL && py_async_adopt(req, coro)) {
            return 0;
        }
        if (coro != NULL) {
            PyErr_NoMemory();
        }
        return py_call_error(st, req, req->env);
    }
    if (value != NULL) {
        list = PySequence_List(value);
        Py_DECREF(value);
    }
    if (list == NULL || py_py_to_term(st, req->env, list, 0, &term) < 0) {
        term = py_call_error(st, req, req->env);
    } else {
        term = enif_make_tuple2(req->env, py_atoms.ok, term);
    }
    Py_XDECREF(list);
    return term;
}

int py_stream_init(PyObject *module, py_state *st)
{
    st->stream.str_close = PyUnicode_InternFromString("close");
    st->stream.str_set_result = PyUnicode_InternFromString("set_result");
    st->stream.str_done = PyUnicode_InternFromString("done");
    st->stream.type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &face_spec, NULL);
    return PyErr_Occurred() ? -1 : PyModule_AddType(module, st->stream.type);
}

#define STREAM_OBJECTS(O) O(type) O(pump) O(collect) O(str_close) O(str_set_result) O(str_done)

int py_stream_traverse(py_state *st, visitproc visit, void *arg)
{
#define VISIT(field) Py_VISIT(st->stream.field);
    STREAM_OBJECTS(VISIT)
#undef VISIT
    return 0;
}

void py_stream_clear(py_state *st)
{
#define CLEAR(field) Py_CLEAR(st->stream.field);
    STREAM_OBJECTS(CLEAR)
#undef CLEAR
}
