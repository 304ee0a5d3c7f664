/* The Python face of callbacks: _erlang.call, is_registered, the call of an Erlang fun, errors. Attached. */
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

/* The chain and the caller of what this thread runs. Where no request led, a chain of its own starts. */
static ERL_NIF_TERM chain_term(py_state *st, py_callback *cb, uint64_t until_ns, ERL_NIF_TERM *caller)
{
    ErlNifEnv *env = cb->send_env;
    uint64_t chain = cb->id, deadline = until_ns == PY_FOREVER ? 0 : until_ns;
    ERL_NIF_TERM trace, callers = enif_make_list(env, 0);
    py_origin origin = {0};

    *caller = py_atoms.undefined;
    if (py_origin_find(st, &origin)) {
        chain = origin.chain;
        cb->parent = origin.parent;
        if (origin.deadline_ns != 0 && (deadline == 0 || origin.deadline_ns < deadline)) {
            deadline = origin.deadline_ns;
        }
        if (origin.callers != 0) {
            callers = enif_make_copy(env, origin.callers);
        }
        if (!origin.foreign) { /* else it is in `callers` */
            *caller = enif_make_pid(env, &origin.caller);
        }
    }
    trace = py_trace_term(st, origin.trace, env);
    py_origin_done(&origin);
    return enif_make_tuple6(env, py_atoms.py_chain, enif_make_uint64(env, chain), enif_make_uint64(env, cb->id),
                            enif_make_uint64(env, deadline), trace, callers);
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

/* A name as {Name}, whatever kind of str it is. */
static int name_target(py_state *st, ErlNifEnv *env, PyObject *name, ERL_NIF_TERM *out)
{
    PyObject *text = PyUnicode_FromObject(name);
    int rc = text == NULL ? -1 : py_py_to_term(st, env, text, 0, out);

    Py_XDECREF(text);
    *out = rc < 0 ? 0 : enif_make_tuple1(env, *out);
    return rc;
}

static int target_term(py_state *st, ErlNifEnv *env, PyObject *what, ERL_NIF_TERM *out)
{
    if (PyUnicode_Check(what)) {
        return name_target(st, env, what, out);
    }
    if (Py_IS_TYPE(what, st->types.fun) || PyTuple_CheckExact(what)) {
        return py_py_to_term(st, env, what, 0, out);
    }
    PyErr_Format(PyExc_TypeError, "a registered name or an erlang.Fun is wanted, not %s", Py_TYPE(what)->tp_name);
    return -1;
}

py_callback *py_callback_prepare(py_state *st, PyObject *target, PyObject *const *args, Py_ssize_t n,
                                 py_callback_what *what)
{
    py_callback *cb;

    if (PY_UNLIKELY(py_forked)) {
        PyErr_SetString(PyExc_RuntimeError, "a child of os.fork() has no Erlang to call");
        return NULL;
    }
    if ((cb = py_callback_new()) == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "too many calls into Erlang at once");
        return NULL;
    }
    if (target_term(st, cb->send_env, target, &what->target) < 0 ||
        args_term(st, cb->send_env, args, n, &what->args) < 0) {
        py_callback_close(cb);
        return NULL;
    }
    return cb;
}

bool py_callback_start(py_state *st, py_callback *cb, const py_callback_what *what, uint64_t until_ns)
{
    ERL_NIF_TERM caller, chain = chain_term(st, cb, until_ns, &caller);

    py_callback_open(cb);
    if (!py_callback_send(cb, what->target, what->args, caller, chain)) {
        py_callback_cancel(cb);
        raise_noproc(st);
        return false;
    }
    return true;
}

/* Calls and waits; takes over `cb`. */
static PyObject *call_and_wait(py_state *st, py_callback *cb, const py_callback_what *what, uint64_t until_ns)
{
    py_worker *w = py_worker_current();
    PyObject *result = NULL;
    ERL_NIF_TERM caller, chain = chain_term(st, cb, until_ns, &caller);
    int how;

    py_callback_enter(cb, w);
    if (!py_callback_send(cb, what->target, what->args, caller, chain)) {
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
    result = how == PY_WAIT_DONE ? py_callback_result(st, cb) : NULL;
    py_callback_close(cb);
    if (how != PY_WAIT_DONE) {
        py_callback_raise(st, how);
    }
    return result;
}

void py_callback_raise(py_state *st, int how)
{
    if (how == PY_WAIT_TIMEOUT) {
        PyErr_SetString(PyExc_TimeoutError, "the Erlang function did not answer in time");
    } else if (how == PY_WAIT_STOPPED) {
        PyErr_SetNone(st->call.interrupted);
    } /* else a signal handler raised */
}

int py_callback_until(PyObject *timeout, uint64_t *until_ns)
{
    double seconds;

    *until_ns = PY_FOREVER;
    if (timeout == NULL || timeout == Py_None) {
        return 0;
    }
    seconds = PyFloat_AsDouble(timeout);
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

/* The one keyword there is. */
static int parse_timeout(PyObject *const *values, PyObject *kwnames, uint64_t *until_ns)
{
    PyObject *value = NULL;
    Py_ssize_t i, n = kwnames == NULL ? 0 : PyTuple_GET_SIZE(kwnames);

    for (i = 0; i < n; i++) {
        if (PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(kwnames, i), "timeout") != 0) {
            PyErr_Format(PyExc_TypeError, "Erlang functions take no keyword arguments: %R",
                         PyTuple_GET_ITEM(kwnames, i));
            return -1;
        }
        value = values[i];
    }
    return py_callback_until(value, until_ns);
}

static PyObject *call(py_state *st, PyObject *target, PyObject *const *args, Py_ssize_t n, uint64_t until_ns)
{
    py_callback_what what;
    py_callback *cb = py_callback_prepare(st, target, args, n, &what);

    return cb == NULL ? NULL : call_and_wait(st, cb, &what, until_ns);
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
    return call(py_state_of_module(module), args[0], args + 1, n - 1, until_ns);
}

static PyObject *call_fun(py_state *st, PyObject *fun, PyObject *const *args, size_t nargsf, PyObject *kwnames)
{
    Py_ssize_t n = PyVectorcall_NARGS(nargsf);
    uint64_t until_ns;

    return parse_timeout(args + n, kwnames, &until_ns) < 0 ? NULL : call(st, fun, args, n, until_ns);
}

static PyObject *module_is_registered(PyObject *module, PyObject *name)
{
    Py_ssize_t size;
    const char *text = PyUnicode_AsUTF8AndSize(name, &size);

    (void)module;
    return text == NULL ? NULL : PyBool_FromLong(py_callback_registered(text, (size_t)size));
}

PyDoc_STRVAR(call_doc, "call(name, *args, timeout=None)\n--\n\n"
                       "Calls a function that Erlang registered, or an erlang.Fun, and waits for its result.\n\n"
                       "timeout: in seconds; then the function's process is killed and TimeoutError raised.");

static PyMethodDef methods[] = {
    {"call", (PyCFunction)(void (*)(void))module_call, METH_FASTCALL | METH_KEYWORDS, call_doc},
    {"is_registered", module_is_registered, METH_O, NULL},
    {NULL},
};

int py_callback_init(PyObject *module, py_state *st)
{
    st->types.call_fun = call_fun;
    return PyModule_AddFunctions(module, methods) < 0 || py_callback_pending_init(module, st) < 0 ||
                   py_callback_send_init(module) < 0
               ? -1
               : 0;
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
