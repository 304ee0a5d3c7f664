/* Messages from Python to processes: _erlang.send, self, whereis. Attached. The env of the messages is the thread's own
 * and goes with it. */
#include "atoms.h"
#include "callback.h"
#include "convert.h"
#include "request.h"
#include "state.h"
#include "worker.h"

static _Thread_local ErlNifEnv *thread_env;
static pthread_key_t thread_key;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void free_env(void *env) { enif_free_env(env); }

static void make_key(void) { pthread_key_create(&thread_key, free_env); }

/* Taken by a sender, so that one that runs inside another's conversion makes its own. */
static ErlNifEnv *take_env(void)
{
    ErlNifEnv *env = thread_env;

    thread_env = NULL;
    return env != NULL ? env : enif_alloc_env();
}

static void give_env(ErlNifEnv *env)
{
    enif_clear_env(env);
    if (thread_env != NULL) {
        enif_free_env(env);
        return;
    }
    thread_env = env;
    pthread_once(&once, make_key);
    pthread_setspecific(thread_key, env);
}

/* An atom that exists, of a str. */
static bool name_term(ErlNifEnv *env, PyObject *name, ERL_NIF_TERM *out)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(name, &size);

    if (text == NULL) {
        PyErr_Clear();
        return false;
    }
    return py_atoms_existing(env, text, (size_t)size, out);
}

static bool find_registered(ErlNifEnv *env, PyObject *name, ErlNifPid *pid)
{
    ERL_NIF_TERM atom;

    return name_term(env, name, &atom) && enif_whereis_pid(NULL, atom, pid);
}

/* Somewhere else: a server passes it on. The order of messages to one receiver is kept. */
static int send_through(py_state *st, ErlNifEnv *env, PyObject *to, ERL_NIF_TERM message)
{
    ErlNifPid server;
    ERL_NIF_TERM target, pair[2];

    if (PyTuple_CheckExact(to)) {
        if (PyTuple_GET_SIZE(to) != 2 || !PyUnicode_Check(PyTuple_GET_ITEM(to, 0)) ||
            !PyUnicode_Check(PyTuple_GET_ITEM(to, 1))) {
            PyErr_SetString(PyExc_TypeError, "a process elsewhere is (name, node)");
            return -1;
        }
        if (py_py_to_term(st, env, PyTuple_GET_ITEM(to, 0), 0, &pair[0]) < 0 ||
            py_py_to_term(st, env, PyTuple_GET_ITEM(to, 1), 0, &pair[1]) < 0) {
            return -1;
        }
        target = enif_make_tuple2(env, pair[0], pair[1]);
    } else if (py_py_to_term(st, env, to, 0, &target) < 0) {
        return -1;
    }
    if (py_callback_server(0, &server)) {
        enif_send(NULL, &server, env, enif_make_tuple3(env, py_atoms.py_send, target, message));
    }
    return 0;
}

static int send_to(py_state *st, ErlNifEnv *env, PyObject *to, ERL_NIF_TERM message)
{
    ErlNifPid pid;

    if (Py_IS_TYPE(to, st->types.pid)) {
        py_handle *handle = (py_handle *)to;
        if (handle->env == NULL) { /* of this node */
            pid.pid = handle->term;
            enif_send(NULL, &pid, env, message);
            return 0;
        }
        return send_through(st, env, to, message);
    }
    if (PyUnicode_Check(to)) {
        if (!find_registered(env, to, &pid)) {
            PyErr_Format(PyExc_LookupError, "no process is registered as %R", to);
            return -1;
        }
        enif_send(NULL, &pid, env, message);
        return 0;
    }
    if (PyTuple_CheckExact(to)) {
        return send_through(st, env, to, message);
    }
    PyErr_Format(PyExc_TypeError, "cannot send to %s: an erlang.Pid, a name or (name, node) is wanted",
                 Py_TYPE(to)->tp_name);
    return -1;
}

static PyObject *module_send(PyObject *module, PyObject *const *args, Py_ssize_t n)
{ /* send(to, message) */
    py_state *st = py_state_of_module(module);
    ErlNifEnv *env;
    ERL_NIF_TERM message;
    int rc;

    if (n != 2) {
        PyErr_SetString(PyExc_TypeError, "send() takes a receiver and a message");
        return NULL;
    }
    if (PY_UNLIKELY(py_forked)) {
        PyErr_SetString(PyExc_RuntimeError, "a child of os.fork() has no Erlang to send to");
        return NULL;
    }
    env = take_env();
    rc = py_py_to_term(st, env, args[1], 0, &message);
    if (rc == 0) {
        rc = send_to(st, env, args[0], message);
    }
    give_env(env);
    if (rc < 0) {
        return NULL;
    }
    Py_RETURN_NONE;
}

/* A process of another node. */
static PyObject *foreign_caller(py_state *st, const py_origin *origin)
{
    ERL_NIF_TERM head, tail;

    if (origin->callers == 0 || !enif_get_list_cell(origin->env, origin->callers, &head, &tail)) {
        Py_RETURN_NONE;
    }
    return py_term_to_py(st, origin->env, head, 0);
}

static PyObject *pid_object(py_state *st, const ErlNifPid *pid)
{
    return py_types_handle_new(st->types.pid, NULL, pid->pid);
}

static PyObject *module_self(PyObject *module, PyObject *unused)
{
    py_state *st = py_state_of_module(module);
    py_origin origin;
    PyObject *self;

    (void)unused;
    if (!py_origin_find(st, &origin)) {
        PyErr_SetString(PyExc_RuntimeError, "this thread runs nothing for an Erlang process");
        return NULL;
    }
    if (PY_UNLIKELY(origin.foreign)) {
        self = foreign_caller(st, &origin);
    } else {
        self = pid_object(st, &origin.caller);
    }
    py_origin_done(&origin);
    return self;
}

static PyObject *module_whereis(PyObject *module, PyObject *name)
{
    ErlNifEnv *env;
    ErlNifPid pid;
    bool found;

    if (!PyUnicode_Check(name)) {
        PyErr_SetString(PyExc_TypeError, "a name is a str");
        return NULL;
    }
    env = take_env();
    found = find_registered(env, name, &pid);
    give_env(env);
    if (found) {
        return pid_object(py_state_of_module(module), &pid);
    }
    Py_RETURN_NONE;
}

PyDoc_STRVAR(send_doc, "send(to, message)\n--\n\n"
                       "Sends a message to a process: an erlang.Pid, a registered name, or (name, node).");
PyDoc_STRVAR(self_doc, "self()\n--\n\n"
                       "The process for which this thread runs: the caller of the request.");
PyDoc_STRVAR(whereis_doc, "whereis(name)\n--\n\n"
                          "The process of that name on this node, or None.");

static PyMethodDef functions[] = {
    {"send", (PyCFunction)(void (*)(void))module_send, METH_FASTCALL, send_doc},
    {"self", module_self, METH_NOARGS, self_doc},
    {"whereis", module_whereis, METH_O, whereis_doc},
    {NULL},
};

int py_callback_send_init(PyObject *module) { return PyModule_AddFunctions(module, functions); }
