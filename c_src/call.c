/* Calls, evals and execs. See call.h. */
#include "call.h"

#include "atoms.h"
#include "compat.h"
#include "context.h"
#include "convert.h"
#include "interpreter.h"
#include "request.h"
#include "source.h"
#include "state.h"
#include "worker.h"

#define SMALL_ARGS 8

/* ---- names ---- */

/* The calling worker's request is told to stop again. */
static void interrupt_again(py_state *st)
{
    py_worker *w = py_worker_current();

    if (w != NULL) {
        pthread_mutex_lock(&w->context->take_lock);
        if (w->current != NULL && atomic_load(&w->current->stop) != PY_STOP_NONE) {
            w->stop_pending = true;
            PyThreadState_SetAsyncExc(w->thread_id, st->call.interrupted);
        }
        pthread_mutex_unlock(&w->context->take_lock);
    }
}

/* sys.unraisablehook. An Interrupted is meant for the request and not for the finalizer that it fell into; in C, so
 * that it does not fall into the hook next. */
static PyObject *unraisablehook(PyObject *module, PyObject *args)
{
    PyObject *type = PyObject_GetAttrString(args, "exc_type"), *logging, *hook, *done;

    Py_XDECREF(type);
    if (type == NULL) {
        return NULL;
    }
    if (type == py_state_of_module(module)->call.interrupted) {
        interrupt_again(py_state_of_module(module));
        Py_RETURN_NONE;
    }
    logging = PyImport_ImportModule("erlang._logging");
    if (logging == NULL && (hook = PySys_GetObject("__unraisablehook__")) != NULL) { /* the interpreter ends */
        PyErr_Clear();
        return PyObject_CallOneArg(hook, args);
    }
    done = logging == NULL ? NULL : PyObject_CallMethod(logging, "_unraisable", "(O)", args);
    Py_XDECREF(logging);
    return done;
}

static PyMethodDef methods[] = {
    {"_unraisablehook", unraisablehook, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

int py_call_init(PyObject *module, py_state *st)
{
    st->call.interrupted = PyErr_NewExceptionWithDoc(
        "erlang.Interrupted",
        "Raised where a request is to stop: its deadline is over, or it was cancelled or interrupted.\n\n"
        "A BaseException, so that `except Exception` lets it through.",
        PyExc_BaseException, NULL);
    if (st->call.interrupted == NULL || PyModule_AddObjectRef(module, "Interrupted", st->call.interrupted) < 0 ||
        PyModule_AddFunctions(module, methods) < 0) {
        return -1;
    }
    st->call.names = PyMem_Calloc(PY_CALL_NAMES, sizeof *st->call.names);
    if (st->call.names == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    return 0;
}

int py_call_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->call.interrupted); /* the rest is strings */
    return 0;
}

void py_call_clear(py_state *st)
{
    size_t i;

    for (i = 0; st->call.names != NULL && i < PY_CALL_NAMES; i++) {
        Py_XDECREF(st->call.names[i].module_name);
        Py_XDECREF(st->call.names[i].function_name);
    }
    Py_CLEAR(st->call.interrupted);
    PyMem_Free(st->call.names);
    st->call.names = NULL;
}

PyObject *py_call_name_of(py_state *st, ErlNifEnv *env, ERL_NIF_TERM term, const char *what)
{
    char latin1[256];
    int len;
    ErlNifBinary bin;
    PyObject *name = NULL;

    if (enif_is_atom(env, term)) {
        len = enif_get_atom(env, term, latin1, sizeof latin1, ERL_NIF_LATIN1);
        if (len > 0) {
            name = PyUnicode_DecodeLatin1(latin1, len - 1, NULL);
        } else {
            PyObject *atom = py_term_to_py(st, env, term, 0);
            name = atom == NULL ? NULL : PyObject_Str(atom);
            Py_XDECREF(atom);
        }
    } else if (enif_inspect_binary(env, term, &bin)) {
        name = PyUnicode_DecodeUTF8((const char *)bin.data, (Py_ssize_t)bin.size, NULL);
    } else {
        PyErr_Format(PyExc_TypeError, "%s must be an atom or a binary", what);
    }
    if (name != NULL && enif_is_atom(env, term)) {
        PyUnicode_InternInPlace(&name);
    }
    return name;
}

/* Two names: new references in out[0] and out[1]; whether the second has dots. -1 with an exception. */
static int call_names(py_state *st, py_request *req, PyObject *out[2])
{
    py_call_name *slot = NULL;
    bool atoms = enif_is_atom(req->arg_env, req->target) && enif_is_atom(req->arg_env, req->function), hit;
    int dotted = 0;

    if (atoms) {
        size_t hash = (size_t)(((req->target >> 6) * 31) ^ (req->function >> 6));
        slot = &st->call.names[hash & (PY_CALL_NAMES - 1)];
        PY_FT_LOCK(&st->call.lock);
        hit = slot->target == req->target && slot->function == req->function;
        if (hit) {
            out[0] = Py_NewRef(slot->module_name);
            out[1] = Py_NewRef(slot->function_name);
            dotted = slot->dotted;
        }
        PY_FT_UNLOCK(&st->call.lock);
        if (hit) {
            return dotted;
        }
    }
    if ((out[0] = py_call_name_of(st, req->arg_env, req->target, "module")) == NULL) {
        return -1;
    }
    if ((out[1] = py_call_name_of(st, req->arg_env, req->function, "function")) == NULL) {
        Py_CLEAR(out[0]);
        return -1;
    }
    dotted = PyUnicode_FindChar(out[1], '.', 0, PyUnicode_GET_LENGTH(out[1]), 1) >= 0;
    if (atoms) {
        PyObject *old[2];
        PY_FT_LOCK(&st->call.lock);
        old[0] = slot->module_name;
        old[1] = slot->function_name;
        slot->module_name = Py_NewRef(out[0]);
        slot->function_name = Py_NewRef(out[1]);
        slot->target = req->target;
        slot->function = req->function;
        slot->dotted = dotted != 0;
        PY_FT_UNLOCK(&st->call.lock);
        Py_XDECREF(old[0]);
        Py_XDECREF(old[1]);
    }
    return dotted;
}

/* ---- targets ---- */

/* Whether the exception is that the module `full` itself is missing, and not one that it needs. */
static bool is_missing(PyObject *full)
{
    PyObject *error, *name = NULL;
    bool missing = false;

    if (full == NULL || !PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
        return false;
    }
    error = PyErr_GetRaisedException();
    if (PyObject_GetOptionalAttrString(error, "name", &name) > 0) {
        missing = PyUnicode_Check(name) && PyUnicode_Compare(name, full) == 0;
    }
    PyErr_Clear();
    Py_XDECREF(name);
    PyErr_SetRaisedException(error);
    return missing;
}

/* The submodule `name` of `object`, imported; NULL without an exception when `object` is no package or has none. */
static PyObject *submodule(PyObject *object, PyObject *name)
{
    PyObject *path = NULL, *base = NULL, *full = NULL, *imported = NULL, *value = NULL;

    if (PyObject_GetOptionalAttrString(object, "__path__", &path) > 0 &&
        (base = PyModule_GetNameObject(object)) != NULL && (full = PyUnicode_FromFormat("%U.%U", base, name)) != NULL &&
        (imported = PyImport_Import(full)) != NULL) {
        value = PyObject_GetAttr(object, name);
    }
    if (value == NULL && PyErr_Occurred() != NULL &&
        (is_missing(full) || PyErr_ExceptionMatches(PyExc_AttributeError))) {
        PyErr_Clear();
    }
    Py_XDECREF(imported);
    Py_XDECREF(full);
    Py_XDECREF(base);
    Py_XDECREF(path);
    return value;
}

/* An attribute, or where a package has none of that name the submodule, imported. */
static PyObject *attribute(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name), *error;

    if (value != NULL || !PyModule_Check(object) || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
        return value;
    }
    error = PyErr_GetRaisedException();
    value = submodule(object, name);
    if (value == NULL && !PyErr_Occurred()) {
        PyErr_SetRaisedException(error);
        return NULL;
    }
    Py_DECREF(error);
    return value;
}

static PyObject *dotted_attribute(PyObject *object, PyObject *path)
{
    PyObject *sep = PyUnicode_FromString("."), *parts = sep == NULL ? NULL : PyUnicode_Split(path, sep, -1);
    PyObject *at = parts == NULL ? NULL : Py_NewRef(object);
    Py_ssize_t i;

    for (i = 0; at != NULL && i < PyList_GET_SIZE(parts); i++) {
        Py_SETREF(at, attribute(at, PyList_GET_ITEM(parts, i)));
    }
    Py_XDECREF(parts);
    Py_XDECREF(sep);
    return at;
}

static PyObject *find_in_module(py_context *context, PyObject *names[2], int dotted)
{
    PyObject *module, *found;
    bool main = PyUnicode_CompareWithASCIIString(names[0], "__main__") == 0, imported = main;

    module = main ? Py_NewRef(context->main) : PyImport_GetModule(names[0]);
    for (;;) {
        if (module == NULL) {
            if (PyErr_Occurred() || (module = PyImport_Import(names[0])) == NULL) {
                return NULL;
            }
            /* PyImport_Import gives the module that the dotted name ends in, having run to the end. */
            imported = true;
        }
        found = dotted ? dotted_attribute(module, names[1]) : attribute(module, names[1]);
        if (found != NULL || imported || !PyErr_ExceptionMatches(PyExc_AttributeError)) {
            break;
        }
        /* It may be half imported, on another thread: import waits for that. */
        PyErr_Clear();
        Py_CLEAR(module);
    }
    Py_DECREF(module);
    return found;
}

PyObject *py_call_target(py_context *context, py_request *req)
{
    py_state *st = context->interp->state;
    PyObject *names[2], *object, *name, *found = NULL;
    int dotted;

    if (py_ref_interp(req->arg_env, req->target) != NULL) { /* a method of an object that stays in Python */
        object = py_term_to_py(st, req->arg_env, req->target, 0);
        if (object == NULL) {
            return NULL;
        }
        name = py_call_name_of(st, req->arg_env, req->function, "method");
        if (name != NULL) {
            found = dotted_attribute(object, name);
            Py_DECREF(name);
        }
        Py_DECREF(object);
        return found;
    }
    dotted = call_names(st, req, names);
    if (dotted < 0) {
        return NULL;
    }
    found = find_in_module(context, names, dotted);
    Py_DECREF(names[0]);
    Py_DECREF(names[1]);
    return found;
}

/* ---- arguments ---- */

unsigned py_call_conv_flags(py_context *context, py_request *req)
{
    return context->conv_flags | (req->flags & PY_REQ_BYTES ? (unsigned)PY_CONV_BYTES : 0u);
}

/* 0, or -1 with a TypeError when two of the names are one. */
static int refuse_same_names(PyObject *names)
{
    PyObject *seen = PySet_New(NULL);
    Py_ssize_t i;
    int rc = seen == NULL ? -1 : 0;

    for (i = 0; rc == 0 && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        rc = PySet_Contains(seen, name) != 0 ? -1 : PySet_Add(seen, name);
        if (rc < 0 && !PyErr_Occurred()) {
            PyErr_Format(PyExc_TypeError, "keyword %R is given twice, as an atom and as a binary", name);
        }
    }
    Py_XDECREF(seen);
    return rc;
}

/* Fills args[0..n) from a list and args[n..n+k) with the values of a map whose keys become *kwnames. */
static int convert_args(py_context *context, py_request *req, PyObject **args, unsigned n, PyObject **kwnames)
{
    py_state *st = context->interp->state;
    unsigned flags = py_call_conv_flags(context, req), i = 0;
    ERL_NIF_TERM head, key, tail = req->args;
    ErlNifMapIterator it;
    size_t size = 0, atoms = 0;
    PyObject *name;
    int rc = 0;

    while (i < n && enif_get_list_cell(req->arg_env, tail, &head, &tail)) {
        if ((args[i] = py_term_to_py(st, req->arg_env, head, flags)) == NULL) {
            goto err;
        }
        i++;
    }
    if (kwnames == NULL) {
        return 0;
    }
    enif_get_map_size(req->arg_env, req->kwargs, &size);
    if ((*kwnames = PyTuple_New((Py_ssize_t)size)) == NULL) {
        goto err;
    }
    enif_map_iterator_create(req->arg_env, req->kwargs, &it, ERL_NIF_MAP_ITERATOR_FIRST);
    for (; enif_map_iterator_get_pair(req->arg_env, &it, &key, &head); enif_map_iterator_next(req->arg_env, &it)) {
        name = py_call_name_of(st, req->arg_env, key, "keyword");
        if (name == NULL) {
            rc = -1;
            break;
        }
        PyTuple_SET_ITEM(*kwnames, (Py_ssize_t)(i - n), name);
        if (!PyUnicode_IsIdentifier(name)) {
            PyErr_Format(PyExc_TypeError, "keyword %R is not an identifier", name);
            rc = -1;
            break;
        }
        atoms += enif_is_atom(req->arg_env, key);
        if ((args[i] = py_term_to_py(st, req->arg_env, head, flags)) == NULL) {
            rc = -1;
            break;
        }
        i++;
    }
    enif_map_iterator_destroy(req->arg_env, &it);
    /* Only an atom and a binary can be the same name. */
    if (rc == 0 && (atoms == 0 || atoms == size || refuse_same_names(*kwnames) == 0)) {
        return 0;
    }
err:
    while (i > 0) {
        Py_DECREF(args[--i]);
    }
    if (kwnames != NULL) {
        Py_CLEAR(*kwnames);
    }
    return -1;
}

PyObject *py_call_apply(py_context *context, py_request *req, PyObject *callable)
{
    PyObject *small[SMALL_ARGS + 1], **args = small, *kwnames = NULL, *result = NULL;
    unsigned n;
    size_t kw = 0, i;

    if (!enif_get_list_length(req->arg_env, req->args, &n)) {
        PyErr_SetString(PyExc_TypeError, "arguments must be a proper list");
        return NULL;
    }
    if (enif_is_map(req->arg_env, req->kwargs)) {
        enif_get_map_size(req->arg_env, req->kwargs, &kw);
    } else if (!enif_is_empty_list(req->arg_env, req->kwargs)) {
        PyErr_SetString(PyExc_TypeError, "keyword arguments must be a map");
        return NULL;
    }
    if (n + kw > SMALL_ARGS && (args = PyMem_Malloc((n + kw + 1) * sizeof *args)) == NULL) {
        return PyErr_NoMemory();
    }
    if (convert_args(context, req, args + 1, n, kw == 0 ? NULL : &kwnames) == 0) {
        py_request_drop_bulk(req);
        result = PyObject_Vectorcall(callable, args + 1, n | PY_VECTORCALL_ARGUMENTS_OFFSET, kwnames);
        for (i = 0; i < n + kw; i++) {
            Py_DECREF(args[i + 1]);
        }
        Py_XDECREF(kwnames);
    }
    if (args != small) {
        PyMem_Free(args);
    }
    return result;
}

/* ---- requests ---- */

ERL_NIF_TERM py_call_error(py_state *st, py_request *req, ErlNifEnv *env)
{
    PyObject *exc = PyErr_GetRaisedException();
    int stop = atomic_load(&req->stop);
    ERL_NIF_TERM term;

    if (stop != PY_STOP_NONE) {
        term = py_request_stop_term(env, stop, false);
    } else {
        term = enif_make_tuple2(env, py_atoms.error, py_exception_to_term(st, env, exc));
    }
    /* The stop may have come while the exception was described, and have cut the description short. */
    if (stop == PY_STOP_NONE && (stop = atomic_load(&req->stop)) != PY_STOP_NONE) {
        term = py_request_stop_term(env, stop, false);
    }
    Py_XDECREF(exc);
    return term;
}

/* A coroutine that nobody awaits is a mistake of the caller's. */
static int refuse_coroutine(PyObject *result)
{
    PyObject *closed;

    if (PY_LIKELY(!PyCoro_CheckExact(result))) {
        return 0;
    }
    closed = PyObject_CallMethod(result, "close", NULL);
    Py_XDECREF(closed);
    if (closed != NULL) {
        PyErr_SetString(PyExc_TypeError, "the function returned a coroutine: use py:async_call");
    }
    return -1;
}

PyObject *py_call_value(py_context *context, py_request *req)
{
    PyObject *callable, *result = NULL;

    if (PY_UNLIKELY(context->main == NULL)) {
        return PyErr_NoMemory();
    }
    if (req->op != PY_OP_CALL) {
        return py_source_run(context, req);
    }
    callable = py_call_target(context, req);
    if (callable != NULL) {
        result = py_call_apply(context, req, callable);
        Py_DECREF(callable);
    }
    return result;
}

ERL_NIF_TERM py_call_run(py_context *context, py_request *req, ErlNifEnv *env, PyObject **rest)
{
    py_state *st = context->interp->state;
    PyObject *result = py_call_value(context, req);
    ERL_NIF_TERM term;
    bool failed;

    failed = result == NULL || refuse_coroutine(result) < 0;
    if (!failed && req->op == PY_OP_EXEC) {
        term = py_atoms.ok;
    } else if (!failed && py_py_to_term(st, env, result, 0, &term) == 0) {
        term = enif_make_tuple2(env, py_atoms.ok, term);
    } else {
        term = py_call_error(st, req, env);
    }
    if (!failed && (PyList_CheckExact(result) || PyDict_CheckExact(result))) {
        *rest = result;
    } else {
        Py_XDECREF(result);
    }
    return term;
}
