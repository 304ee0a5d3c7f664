/* The Python face of callbacks: _erlang.call, apply, is_registered, the call of an Erlang fun. Attached. */
#include "atoms.h"
#include "context.h"
#include "convert.h"
#include "interpreter.h"
#include "request.h"
#include "state.h"
#include "worker.h"

#define CAPSULE "erlang.error"

/* ---- errors ---- */

typedef struct {
    ErlNifEnv *env;
    ERL_NIF_TERM term; /* {Class, Reason, Stack} */
} kept_error;

static void kept_error_free(PyObject *capsule)
{
    kept_error *kept = PyCapsule_GetPointer(capsule, CAPSULE);

    if (py_forked) {
        return;
    }
    enif_free_env(kept->env);
    enif_free(kept);
}

/* The term as it was, for when the error crosses back. */
static int keep_term(PyObject *exc, const ERL_NIF_TERM *error)
{
    kept_error *kept = enif_alloc(sizeof *kept);
    PyObject *capsule;
    int rc;

    if (kept == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    kept->env = enif_alloc_env();
    kept->term = enif_make_tuple3(kept->env, enif_make_copy(kept->env, error[1]), enif_make_copy(kept->env, error[2]),
                                  enif_make_copy(kept->env, error[3]));
    capsule = PyCapsule_New(kept, CAPSULE, kept_error_free);
    if (capsule == NULL) {
        enif_free_env(kept->env);
        enif_free(kept);
        return -1;
    }
    rc = PyObject_SetAttrString(exc, "_term", capsule);
    Py_DECREF(capsule);
    return rc;
}

static PyObject *error_type(py_state *st)
{
    PyObject *module, *type;

    if (st->callback.error_type == NULL) {
        if ((module = PyImport_ImportModule("erlang._calls")) == NULL) {
            return NULL;
        }
        type = PyObject_GetAttrString(module, "ErlangError");
        Py_DECREF(module);
        st->callback.error_type = type;
    }
    return st->callback.error_type;
}

bool py_callback_error_term(py_state *st, PyObject *exc, ErlNifEnv *env, ERL_NIF_TERM *out)
{
    PyObject *capsule;
    kept_error *kept;

    if (st->callback.error_type == NULL || !PyObject_TypeCheck(exc, (PyTypeObject *)st->callback.error_type)) {
        return false;
    }
    capsule = PyObject_GetAttrString(exc, "_term");
    kept = capsule == NULL ? NULL : PyCapsule_GetPointer(capsule, CAPSULE);
    if (kept != NULL) {
        *out = enif_make_copy(env, kept->term);
    }
    Py_XDECREF(capsule);
    PyErr_Clear();
    return kept != NULL;
}

/* Raises what {error, Class, Reason, Stack, Shown} says. A reason that has no Python value is given as text. */
static void raise_error(py_state *st, ErlNifEnv *env, const ERL_NIF_TERM *error)
{
    PyObject *type = error_type(st), *class = NULL, *reason = NULL, *shown = NULL, *exc = NULL;

    if (type == NULL || (class = py_term_to_py(st, env, error[1], 0)) == NULL) {
        goto done;
    }
    if ((reason = py_term_to_py(st, env, error[2], 0)) == NULL) {
        char shown[1024];
        PyErr_Clear();
        enif_snprintf(shown, sizeof shown, "%T", error[2]);
        if ((reason = PyUnicode_DecodeUTF8(shown, (Py_ssize_t)strlen(shown), "replace")) == NULL) {
            goto done;
        }
    }
    if ((shown = py_term_to_py(st, env, error[4], 0)) == NULL) {
        goto done;
    }
    exc = PyObject_CallFunctionObjArgs(type, class, reason, shown, NULL);
    if (exc != NULL && keep_term(exc, error) == 0) {
        PyErr_SetObject((PyObject *)Py_TYPE(exc), exc);
    }
done:
    Py_XDECREF(class);
    Py_XDECREF(reason);
    Py_XDECREF(shown);
    Py_XDECREF(exc);
}

PyObject *py_callback_result(py_state *st, py_callback *cb)
{
    const ERL_NIF_TERM *items;
    int arity;

    if (!enif_get_tuple(cb->env, cb->result, &arity, &items) || (arity != 2 && arity != 5)) {
        PyErr_SetString(PyExc_SystemError, "an answer of a shape that is not known");
        return NULL;
    }
    if (arity == 2) {
        return py_term_to_py(st, cb->env, items[1], items[0] == py_atoms.bytes ? (unsigned)PY_CONV_BYTES : 0u);
    }
    raise_error(st, cb->env, items);
    return NULL;
}

/* ---- calls ---- */

/* The arguments as a list in `env`. */
static int args_term(py_state *st, ErlNifEnv *env, PyObject *const *args, Py_ssize_t n, ERL_NIF_TERM *out)
{
    ERL_NIF_TERM small[8], *terms = n <= 8 ? small : PyMem_Malloc((size_t)n * sizeof *terms);
    Py_ssize_t i;
    int rc = 0;

    if (terms == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (i = 0; i < n && rc == 0; i++) {
        rc = py_py_to_term(st, env, args[i], 0, &terms[i]);
    }
    if (rc == 0) {
        *out = enif_make_list_from_array(env, terms, (unsigned)n);
    }
    if (terms != small) {
        PyMem_Free(terms);
    }
    return rc;
}

/* The chain and the caller of what this thread runs. A thread without a request starts a chain of its own. */
static ERL_NIF_TERM chain_term(py_callback *cb, py_request *req, uint64_t until_ns, ERL_NIF_TERM *caller)
{
    ErlNifEnv *env = cb->send_env;
    uint64_t chain = cb->id, deadline = until_ns == PY_FOREVER ? 0 : until_ns;
    ERL_NIF_TERM trace = py_atoms.undefined;

    *caller = py_atoms.undefined;
    if (req != NULL) {
        chain = req->chain != 0 ? req->chain : req->serial;
        cb->parent = req->parent;
        if (req->deadline_ns != 0 && (deadline == 0 || req->deadline_ns < deadline)) {
            deadline = req->deadline_ns;
        }
        if (req->trace != 0) {
            trace = enif_make_copy(env, req->trace);
        }
        *caller = enif_make_pid(env, &req->caller);
    }
    return enif_make_tuple5(env, py_atoms.py_chain, enif_make_uint64(env, chain), enif_make_uint64(env, cb->id),
                            enif_make_uint64(env, deadline), trace);
}

static py_callback *new_callback(void)
{
    py_callback *cb;

    if (PY_UNLIKELY(py_forked)) {
        PyErr_SetString(PyExc_RuntimeError, "a child of os.fork() has no Erlang to call");
        return NULL;
    }
    if ((cb = py_callback_new()) == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "too many calls into Erlang at once");
    }
    return cb;
}

static void raise_noproc(py_state *st)
{
    PyObject *type = error_type(st), *exc;

    exc = type == NULL ? NULL : PyObject_CallFunction(type, "ss", "exit", "noproc");
    if (exc != NULL) {
        PyErr_SetObject(type, exc);
        Py_DECREF(exc);
    }
}

/* Calls and waits; takes over `cb`, in whose send_env target and args are. */
static PyObject *call_and_wait(py_state *st, py_callback *cb, ERL_NIF_TERM target, ERL_NIF_TERM args, uint64_t until_ns)
{
    py_worker *w = py_worker_current();
    py_request *req = w == NULL ? NULL : w->current;
    PyObject *result = NULL;
    ERL_NIF_TERM chain, caller;
    int how;

    if (req != NULL && atomic_load(&req->stop) != PY_STOP_NONE) {
        PyErr_SetNone(st->call.interrupted);
        py_callback_close(cb);
        return NULL;
    }
    chain = chain_term(cb, req, until_ns, &caller);
    py_callback_enter(cb, w);
    if (!py_callback_send(cb, target, args, caller, chain)) {
        py_callback_cancel(cb);
        py_callback_leave(cb, w);
        py_callback_close(cb);
        raise_noproc(st);
        return NULL;
    }
    how = py_callback_wait(cb, w, until_ns);
    if (how != PY_WAIT_DONE && !py_callback_cancel(cb) && how == PY_WAIT_TIMEOUT) {
        how = PY_WAIT_DONE; /* it came after all */
    }
    py_callback_leave(cb, w);
    switch (how) {
    case PY_WAIT_DONE:
        result = py_callback_result(st, cb);
        break;
    case PY_WAIT_TIMEOUT:
        PyErr_SetString(PyExc_TimeoutError, "the Erlang function did not answer in time and was killed");
        break;
    case PY_WAIT_STOPPED:
        PyErr_SetNone(st->call.interrupted);
        break;
    default: /* a signal handler's exception is set */
        break;
    }
    py_callback_close(cb);
    return result;
}

/* timeout=: seconds, or None. 0, or -1 with an exception. */
static int parse_timeout(PyObject *const *values, PyObject *kwnames, uint64_t *until_ns)
{
    PyObject *value = NULL;
    Py_ssize_t i, n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);
    double seconds;

    *until_ns = PY_FOREVER;
    for (i = 0; i < n; i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "timeout") != 0) {
            PyErr_Format(PyExc_TypeError, "Erlang functions take no keyword arguments: %R",
                         PyTuple_GET_ITEM(kwnames, i));
            return -1;
        }
        value = values[i];
    }
    if (value == NULL || value == Py_None) {
        return 0;
    }
    seconds = PyFloat_AsDouble(value);
    if (seconds == -1.0 && PyErr_Occurred()) {
        return -1;
    }
    if (!(seconds >= 0)) {
        PyErr_SetString(PyExc_ValueError, "timeout must not be negative");
        return -1;
    }
    if (seconds < 1e9) {
        *until_ns = py_now_ns() + (uint64_t)(seconds * 1e9);
    }
    return 0;
}

/* What is called: a name as {Name}, a fun as itself. */
static int target_term(py_state *st, ErlNifEnv *env, PyObject *what, ERL_NIF_TERM *out)
{
    if (Py_IS_TYPE(what, st->types.fun)) {
        *out = py_types_handle_term(what, env);
        return 0;
    }
    if (!PyUnicode_Check(what)) {
        PyErr_Format(PyExc_TypeError, "a registered name or an erlang.Fun is wanted, not %s", Py_TYPE(what)->tp_name);
        return -1;
    }
    if (PyUnicode_CheckExact(what)) {
        if (py_py_to_term(st, env, what, 0, out) < 0) {
            return -1;
        }
    } else { /* an Atom names the same function as its text */
        PyObject *text = PyUnicode_FromObject(what);
        int rc = text == NULL ? -1 : py_py_to_term(st, env, text, 0, out);
        Py_XDECREF(text);
        if (rc < 0) {
            return -1;
        }
    }
    *out = enif_make_tuple1(env, *out);
    return 0;
}

static PyObject *call_target(py_state *st, PyObject *what, PyObject *const *args, Py_ssize_t n, uint64_t until_ns)
{
    py_callback *cb = new_callback();
    ERL_NIF_TERM target, list;

    if (cb == NULL) {
        return NULL;
    }
    if (target_term(st, cb->send_env, what, &target) < 0 || args_term(st, cb->send_env, args, n, &list) < 0) {
        py_callback_close(cb);
        return NULL;
    }
    return call_and_wait(st, cb, target, list, until_ns);
}

static PyObject *module_call(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    uint64_t until_ns;

    if (n < 1) {
        PyErr_SetString(PyExc_TypeError, "call() needs the name of a function");
        return NULL;
    }
    if (parse_timeout(args + n, kwnames, &until_ns) < 0) {
        return NULL;
    }
    return call_target(py_state_of_module(module), args[0], args + 1, n - 1, until_ns);
}

static PyObject *call_fun(py_state *st, PyObject *fun, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Py_ssize_t n = PyVectorcall_NARGS(nargsf);
    uint64_t until_ns;

    if (parse_timeout(args + n, kwnames, &until_ns) < 0) {
        return NULL;
    }
    return call_target(st, fun, args, n, until_ns);
}

/* apply(module, function, args, *, timeout=None) */
static PyObject *module_apply(PyObject *module, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    py_state *st = py_state_of_module(module);
    py_callback *cb;
    PyObject *sequence = NULL;
    ERL_NIF_TERM names[2], list;
    uint64_t until_ns;

    if (n != 3) {
        PyErr_SetString(PyExc_TypeError, "apply() takes a module, a function and its arguments");
        return NULL;
    }
    if (!PyUnicode_Check(args[0]) || !PyUnicode_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "module and function must be str");
        return NULL;
    }
    if (parse_timeout(args + n, kwnames, &until_ns) < 0 ||
        (sequence = PySequence_Fast(args[2], "args must be a sequence")) == NULL) {
        return NULL;
    }
    if ((cb = new_callback()) == NULL || py_py_to_term(st, cb->send_env, args[0], 0, &names[0]) < 0 ||
        py_py_to_term(st, cb->send_env, args[1], 0, &names[1]) < 0 ||
        args_term(st, cb->send_env, PySequence_Fast_ITEMS(sequence), PySequence_Fast_GET_SIZE(sequence), &list) < 0) {
        Py_DECREF(sequence);
        if (cb != NULL) {
            py_callback_close(cb);
        }
        return NULL;
    }
    Py_DECREF(sequence);
    return call_and_wait(st, cb, enif_make_tuple3(cb->send_env, py_atoms.apply, names[0], names[1]), list, until_ns);
}

static PyObject *module_internal(PyObject *module, PyObject *const *args, Py_ssize_t n)
{ /* _internal(operation, *args): what servers do themselves, without a process of its own */
    py_state *st = py_state_of_module(module);
    py_callback *cb;
    ERL_NIF_TERM name, list;

    if (n < 1 || (cb = new_callback()) == NULL) {
        return n < 1 ? PyErr_Format(PyExc_TypeError, "_internal() needs an operation") : NULL;
    }
    if (py_py_to_term(st, cb->send_env, args[0], 0, &name) < 0 ||
        args_term(st, cb->send_env, args + 1, n - 1, &list) < 0) {
        py_callback_close(cb);
        return NULL;
    }
    return call_and_wait(st, cb, enif_make_tuple2(cb->send_env, py_atoms.internal, name), list, PY_FOREVER);
}

static PyObject *module_is_registered(PyObject *module, PyObject *name)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(name, &size);

    (void)module;
    return text == NULL ? NULL : PyBool_FromLong(py_callback_registered(text, (size_t)size));
}

PyDoc_STRVAR(call_doc, "call(name, *args, timeout=None)\n--\n\n"
                       "Calls a function that Erlang registered, or an erlang.Fun, and waits for its result.");
PyDoc_STRVAR(apply_doc, "apply(module, function, args, *, timeout=None)\n--\n\n"
                        "Calls Module:Function of Erlang where the operator allows it.");

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))module_call, METH_FASTCALL | METH_KEYWORDS, call_doc},
    {"apply", (PyCFunction)(void (*)(void))module_apply, METH_FASTCALL | METH_KEYWORDS, apply_doc},
    {"_internal", (PyCFunction)(void (*)(void))module_internal, METH_FASTCALL, NULL},
    {"is_registered", module_is_registered, METH_O, NULL},
    {NULL},
};

int py_callback_init(PyObject *module, py_state *st)
{
    st->types.call_fun = call_fun;
    return PyModule_AddFunctions(module, methods);
}

int py_callback_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->callback.pending_type);
    Py_VISIT(st->callback.error_type);
    return 0;
}

void py_callback_clear(py_state *st)
{
    Py_CLEAR(st->callback.pending_type);
    Py_CLEAR(st->callback.error_type);
}
