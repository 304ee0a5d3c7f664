/* Events from Erlang. See poller_nif.h. */
#include "poller_nif.h"

#include "atoms.h"
#include "convert.h"
#include "loop.h"
#include "poller_beam.h"
#include "state.h"

typedef struct {
    PyObject_HEAD py_event_port *port; /* kept */
    PyObject *handlers;                /* id -> Future or callable(type, data) */
    PyObject *owner;                   /* erlang._events.Events: early(), failed(), down() */
} port_object;

struct py_event_port {
    py_poller *poller; /* kept */
    port_object *face; /* borrowed, NULL once it is gone; the loop thread's */
    pthread_mutex_t lock;
    bool attached, closed; /* under lock */
    ErlNifPid pid;         /* under lock */
    ErlNifMonitor monitor;
    ErlNifMonitor manager; /* under lock: of py_event_loops, until an event process is there */
    ErlNifEnv *early;      /* under lock: owns what was sent before there was an event process */
    ERL_NIF_TERM early_list;
    py_beam *beam; /* the poller's, while it is open; the loop thread's */
};

typedef struct {
    py_event event;
    py_event_port *port; /* kept */
    ErlNifEnv *env;
    ERL_NIF_TERM list; /* undefined: the event process is dead */
} batch;

static ErlNifResourceType *port_rtype;

/* ---- batches ---- */

static void batch_free(batch *b)
{
    enif_release_resource(b->port);
    enif_free_env(b->env);
    enif_free(b);
}

static void batch_drop(py_event *event) { batch_free((batch *)event); }

/* 0, or -1 with an exception. */
static int deliver(py_state *st, port_object *face, unsigned type, PyObject *handler, PyObject *id, PyObject *data)
{
    py_poller_nif_part *part = &st->poller_nif;
    PyObject *done, *result = NULL;

    if (!Py_IS_TYPE(handler, (PyTypeObject *)part->future)) {
        PyObject *number = PyLong_FromUnsignedLong(type), *args[] = {NULL, number, data};

        if (number != NULL) {
            result = PyObject_Vectorcall(handler, args + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, NULL);
            Py_DECREF(number);
        }
    } else {
        done = PyObject_CallMethodNoArgs(handler, part->str_done);
        if (done == Py_True) {
            result = Py_NewRef(Py_None);
        } else if (done != NULL && (type == PY_EVENT_CALL_ERROR || type == PY_EVENT_ASYNC_ERROR)) {
            result = PyObject_CallMethodObjArgs(face->owner, part->str_failed, handler, data, NULL);
        } else if (done != NULL) {
            result = PyObject_CallMethodOneArg(handler, part->str_set_result, data);
        }
        Py_XDECREF(done);
        if (result != NULL && PyDict_DelItem(face->handlers, id) < 0) {
            PyErr_Clear();
        }
    }
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int dispatch(py_state *st, py_loop *loop, port_object *face, ErlNifEnv *env, const ERL_NIF_TERM item[3])
{
    unsigned type;
    ErlNifUInt64 number;
    PyObject *id, *data, *handler = NULL, *result;
    int rc = -1;

    if (!enif_get_uint(env, item[0], &type) || !enif_get_uint64(env, item[1], &number)) {
        PyErr_SetString(PyExc_TypeError, "expected {Type, Id, Data}");
        return -1;
    }
    if (number & PY_BEAM_EVENT) {
        return py_poller_closed(face->port->poller) || face->port->beam == NULL
                   ? 0
                   : py_beam_event(face->port->beam, loop, type, number);
    }
    id = PyLong_FromUnsignedLongLong(number);
    data = id == NULL ? NULL : py_term_to_py(st, env, item[2], type >= PY_EVENT_SUBPROCESS_EXIT ? PY_CONV_BYTES : 0u);
    if (data != NULL && (rc = PyDict_GetItemRef(face->handlers, id, &handler)) > 0) {
        rc = deliver(st, face, type, handler, id, data);
        Py_DECREF(handler);
    } else if (rc == 0) { /* before it was registered, or after it was unregistered */
        result = PyObject_CallMethod(face->owner, "early", "IOO", type, id, data);
        rc = result == NULL ? -1 : 0;
        Py_XDECREF(result);
    }
    Py_XDECREF(data);
    Py_XDECREF(id);
    return rc;
}

static int batch_run(py_event *event, py_loop *loop)
{
    batch *b = (batch *)event;
    py_state *st = py_loop_state(loop);
    port_object *face = b->port->face;
    ERL_NIF_TERM head, tail = b->list;
    const ERL_NIF_TERM *item;
    PyObject *done;
    int arity, rc = 0;

    if (face != NULL) {
        Py_INCREF(face);
        if (enif_is_identical(b->list, py_atoms.undefined)) {
            done = PyObject_CallMethodNoArgs(face->owner, st->poller_nif.str_down);
            rc = done == NULL ? py_loop_report(loop, "the end of an event process was not handled") : 0;
            Py_XDECREF(done);
        }
        while (rc == 0 && enif_get_list_cell(b->env, tail, &head, &tail)) {
            if (!enif_get_tuple(b->env, head, &arity, &item) || arity != 3) {
                continue;
            }
            if (PY_UNLIKELY(dispatch(st, loop, face, b->env, item) < 0)) {
                rc = py_loop_report(loop, "an event from Erlang was not handled");
            }
        }
        Py_DECREF(face);
    }
    batch_free(b);
    return rc;
}

static bool post(py_event_port *p, ErlNifEnv *env, ERL_NIF_TERM list)
{
    batch *b = enif_alloc(sizeof *b);

    if (b == NULL) {
        return false;
    }
    *b = (batch){.event = {.run = batch_run, .drop = batch_drop, .type = PY_EVENT_REQUEST}, .port = p};
    b->env = enif_alloc_env();
    b->list = env == NULL ? list : enif_make_copy(b->env, list);
    enif_keep_resource(p);
    if (py_poller_post(p->poller, &b->event, &b->event, 1)) {
        return true;
    }
    batch_free(b);
    return false;
}

/* ---- the resource ---- */

static void port_dtor(ErlNifEnv *env, void *obj)
{
    py_event_port *p = obj;

    (void)env;
    pthread_mutex_lock(&p->lock); /* after the last to use it, also for those who do not see the references counted */
    pthread_mutex_unlock(&p->lock);
    if (p->early != NULL) {
        enif_free_env(p->early);
    }
    if (p->poller != NULL) {
        py_poller_release(p->poller);
    }
    pthread_mutex_destroy(&p->lock);
}

/* The event process is dead, or who should have started it. */
static void port_down(ErlNifEnv *env, void *obj, ErlNifPid *pid, ErlNifMonitor *monitor)
{
    (void)env;
    (void)pid;
    (void)monitor;
    (void)post(obj, NULL, py_atoms.undefined);
}

int py_poller_nif_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = port_dtor, .down = port_down};

    port_rtype = enif_open_resource_type_x(env, "py_event_port", &init, ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER, NULL);
    return port_rtype == NULL ? -1 : 0;
}

static void send_all(ErlNifEnv *env, const ErlNifPid *to, ErlNifEnv *from, ERL_NIF_TERM reversed)
{
    ErlNifEnv *msg_env = enif_alloc_env();
    ERL_NIF_TERM head, tail;

    enif_make_reverse_list(from, reversed, &tail);
    while (enif_get_list_cell(from, tail, &head, &tail)) {
        enif_send(env, to, msg_env, enif_make_copy(msg_env, head));
        enif_clear_env(msg_env);
    }
    enif_free_env(msg_env);
}

PY_NIF(events_attach_nif)
{ /* (Port) */
    py_event_port *p;
    ErlNifMonitor manager;
    ErlNifEnv *early;
    ErlNifPid self;
    ERL_NIF_TERM tail;
    bool closed;

    (void)argc;
    if (!enif_get_resource(env, argv[0], port_rtype, (void **)&p)) {
        return enif_make_badarg(env);
    }
    enif_self(env, &self);
    do {
        pthread_mutex_lock(&p->lock);
        closed = p->closed || p->attached;
        early = p->early;
        tail = p->early_list;
        p->early = NULL;
        manager = p->manager;
        if (!closed && early == NULL) {
            p->pid = self;
            p->attached = true;
        }
        pthread_mutex_unlock(&p->lock);
        if (early != NULL) { /* the newest is the first */
            send_all(env, &self, early, tail);
            enif_free_env(early);
        }
    } while (early != NULL);
    if (closed) {
        return py_atoms.closed;
    }
    (void)enif_monitor_process(env, p, &self, &p->monitor);
    (void)enif_demonitor_process(env, p, &manager);
    return py_atoms.ok;
}

PY_NIF(events_post_nif)
{ /* (Port, Events) */
    py_event_port *p;

    (void)argc;
    if (!enif_get_resource(env, argv[0], port_rtype, (void **)&p) || !enif_is_list(env, argv[1])) {
        return enif_make_badarg(env);
    }
    return post(p, env, argv[1]) ? py_atoms.ok : py_atoms.closed;
}

/* ---- the Python object ---- */

static int import_future(py_state *st)
{
    PyObject *module;

    if (st->poller_nif.future == NULL && (module = PyImport_ImportModule("asyncio")) != NULL) {
        st->poller_nif.future = PyObject_GetAttrString(module, "Future");
        Py_DECREF(module);
    }
    return st->poller_nif.future == NULL ? -1 : 0;
}

/* Asks the manager for an event process, and to be told if it dies before. False when the application is not running.
 */
static bool ask_for_process(py_event_port *p)
{
    ErlNifEnv *env = enif_alloc_env();
    ErlNifPid manager;
    ErlNifMonitor monitor;
    ERL_NIF_TERM message;
    bool sent = false;

    if (!py_forked && enif_whereis_pid(NULL, enif_make_atom(env, "py_event_loops"), &manager) &&
        enif_monitor_process(NULL, p, &manager, &monitor) == 0) {
        pthread_mutex_lock(&p->lock);
        p->manager = monitor;
        pthread_mutex_unlock(&p->lock);
        message = enif_make_tuple2(env, py_atoms.start, enif_make_resource(env, p));
        sent = enif_send(NULL, &manager, env, message);
    }
    enif_free_env(env);
    return sent;
}

/* EventPort(loop, owner) */
static PyObject *face_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    py_state *st = py_state_of_type(type);
    PyObject *loop_object, *owner;
    py_loop *loop;
    py_poller *poller;
    port_object *face;
    py_event_port *p;

    if (st == NULL || (kwargs != NULL && PyDict_GET_SIZE(kwargs) != 0) ||
        !PyArg_ParseTuple(args, "OO", &loop_object, &owner) || (loop = py_loop_of(st, loop_object)) == NULL ||
        import_future(st) < 0) {
        return NULL;
    }
    if ((poller = py_loop_poller(loop)) == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the loop is closed, or runs on a selector of its own");
        return NULL;
    }
    face = (port_object *)type->tp_alloc(type, 0);
    if (face == NULL || (face->handlers = PyDict_New()) == NULL) {
        Py_XDECREF(face);
        return NULL;
    }
    p = enif_alloc_resource(port_rtype, sizeof *p);
    memset(p, 0, sizeof *p);
    pthread_mutex_init(&p->lock, NULL);
    py_poller_keep(poller);
    pthread_mutex_lock(&p->lock);
    p->poller = poller;
    p->face = face;
    pthread_mutex_unlock(&p->lock);
    face->port = p;
    face->owner = Py_NewRef(owner);
    if (!ask_for_process(p)) {
        PyErr_SetString(PyExc_RuntimeError, "the application erlang_python is not running");
        Py_DECREF(face);
        return NULL;
    }
    return (PyObject *)face;
}

void py_event_port_keep(py_event_port *p) { enif_keep_resource(p); }
void py_event_port_release(py_event_port *p) { enif_release_resource(p); }

void py_event_port_send(py_event_port *p, ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifPid pid;
    bool attached;

    pthread_mutex_lock(&p->lock);
    attached = p->attached && !py_forked;
    pid = p->pid;
    if (!attached && !p->closed) {
        if (p->early == NULL) {
            p->early = enif_alloc_env();
            p->early_list = enif_make_list(p->early, 0);
        }
        p->early_list = enif_make_list_cell(p->early, enif_make_copy(p->early, term), p->early_list);
    }
    pthread_mutex_unlock(&p->lock);
    if (attached) {
        enif_send(NULL, &pid, env, term);
    }
}

/* use_beam(): this is the way for the fds and timers of a loop with that backend. */
static PyObject *face_use_beam(PyObject *self, PyObject *ignored)
{
    py_event_port *p = ((port_object *)self)->port;

    (void)ignored;
    p->beam = py_poller_ops_arg(p->poller);
    py_beam_use(p->beam, p);
    Py_RETURN_NONE;
}

/* send(term): to the event process, now or as soon as it is there. */
static PyObject *face_send(PyObject *self, PyObject *object)
{
    py_state *st = py_state_of_type(Py_TYPE(self));
    ErlNifEnv *env = enif_alloc_env();
    ERL_NIF_TERM term;

    if (st == NULL || py_py_to_term(st, env, object, 0, &term) < 0) {
        enif_free_env(env);
        return NULL;
    }
    py_event_port_send(((port_object *)self)->port, env, term);
    enif_free_env(env);
    Py_RETURN_NONE;
}

/* close(): nothing comes any more, and the event process ends. */
static PyObject *face_close(PyObject *self, PyObject *ignored)
{
    py_event_port *p = ((port_object *)self)->port;
    ErlNifEnv *env;
    ErlNifPid pid;
    bool attached;

    (void)ignored;
    p->face = NULL;
    if (p->beam != NULL && !py_poller_closed(p->poller)) {
        py_beam_use(p->beam, NULL);
    }
    p->beam = NULL;
    pthread_mutex_lock(&p->lock);
    attached = p->attached && !p->closed && !py_forked;
    p->closed = true;
    pid = p->pid;
    pthread_mutex_unlock(&p->lock);
    if (attached) {
        env = enif_alloc_env();
        enif_send(NULL, &pid, env, py_atoms.closed);
        enif_free_env(env);
    }
    Py_RETURN_NONE;
}

static int face_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(((port_object *)self)->handlers);
    Py_VISIT(((port_object *)self)->owner);
    return 0;
}

static int face_clear(PyObject *self)
{
    Py_CLEAR(((port_object *)self)->handlers);
    Py_CLEAR(((port_object *)self)->owner);
    return 0;
}

static void face_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    port_object *face = (port_object *)self;

    PyObject_GC_UnTrack(self);
    if (face->port != NULL) {
        Py_XDECREF(face_close(self, NULL));
        enif_release_resource(face->port);
    }
    (void)face_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef face_members[] = {
    {"handlers", Py_T_OBJECT_EX, offsetof(port_object, handlers), Py_READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef face_methods[] = {
    {"send", face_send, METH_O, NULL},
    {"use_beam", face_use_beam, METH_NOARGS, NULL},
    {"close", face_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot face_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("A loop's end of the way to its event process, for erlang._events.")},
    {Py_tp_new, face_new},
    {Py_tp_dealloc, face_dealloc},
    {Py_tp_traverse, face_traverse},
    {Py_tp_clear, face_clear},
    {Py_tp_members, face_members},
    {Py_tp_methods, face_methods},
    {0, NULL},
};

static PyType_Spec face_spec = {
    .name = "_erlang.EventPort",
    .basicsize = sizeof(port_object),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = face_slots,
};

#define STRINGS(S)                                                                                                     \
    S(done, "done")                                                                                                    \
    S(set_result, "set_result")                                                                                        \
    S(failed, "failed")                                                                                                \
    S(down, "down")

int py_poller_nif_init(PyObject *module, py_state *st)
{
#define INTERN(name, text)                                                                                             \
    if ((st->poller_nif.str_##name = PyUnicode_InternFromString(text)) == NULL) {                                      \
        return -1;                                                                                                     \
    }
    STRINGS(INTERN)
#undef INTERN
    st->poller_nif.type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &face_spec, NULL);
    return st->poller_nif.type == NULL ? -1 : PyModule_AddType(module, st->poller_nif.type);
}

int py_poller_nif_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->poller_nif.type);
    Py_VISIT(st->poller_nif.future);
    return 0;
}

void py_poller_nif_clear(py_state *st)
{
    Py_CLEAR(st->poller_nif.type);
    Py_CLEAR(st->poller_nif.future);
#define CLEAR(name, text) Py_CLEAR(st->poller_nif.str_##name);
    STRINGS(CLEAR)
#undef CLEAR
}
