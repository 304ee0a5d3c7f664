/* Evals and execs. See source.h. */
#include "source.h"

#include "call.h"
#include "context.h"
#include "convert.h"
#include "interpreter.h"
#include "request.h"
#include "state.h"

/* Adds the pairs of the request's map of names to `globals`. */
static int add_names(py_context *context, py_request *req, PyObject *globals)
{
    py_state *st = context->interp->state;
    unsigned flags = py_call_conv_flags(context, req);
    ErlNifMapIterator it;
    ERL_NIF_TERM key, value;
    int rc = 0;

    if (!enif_map_iterator_create(req->arg_env, req->args, &it, ERL_NIF_MAP_ITERATOR_FIRST)) {
        PyErr_NoMemory();
        return -1;
    }
    for (; rc == 0 && enif_map_iterator_get_pair(req->arg_env, &it, &key, &value);
         enif_map_iterator_next(req->arg_env, &it)) {
        PyObject *name = py_call_name_of(st, req->arg_env, key, "a name of eval");
        PyObject *object = name == NULL ? NULL : py_term_to_py(st, req->arg_env, value, flags);
        rc = object == NULL ? -1 : PyDict_SetItem(globals, name, object);
        Py_XDECREF(object);
        Py_XDECREF(name);
    }
    enif_map_iterator_destroy(req->arg_env, &it);
    return rc;
}

/* The mode and the text of the request's source, as bytes. */
static PyObject *read_source(py_request *req)
{
    ErlNifBinary source;
    PyObject *bytes;

    if (!enif_inspect_iolist_as_binary(req->arg_env, req->target, &source)) {
        PyErr_SetString(PyExc_TypeError, "source must be a binary or a string");
        return NULL;
    }
    if (memchr(source.data, 0, source.size) != NULL) {
        PyErr_SetString(PyExc_SyntaxError, "source code cannot contain null bytes");
        return NULL;
    }
    bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)source.size + 1);
    if (bytes != NULL) {
        PyBytes_AS_STRING(bytes)[0] = req->op == PY_OP_EVAL ? 'e' : 'x';
        memcpy(PyBytes_AS_STRING(bytes) + 1, source.data, source.size);
    }
    return bytes;
}

static PyObject *compile(PyObject *bytes)
{
    const char *text = PyBytes_AS_STRING(bytes) + 1;

    if (text[-1] == 'x') {
        return Py_CompileString(text, "<exec>", Py_file_input);
    }
    while (*text == ' ' || *text == '\t') { /* as Python's own eval does */
        text++;
    }
    return Py_CompileString(text, "<eval>", Py_eval_input);
}

static PyObject *code_of(py_state *st, PyObject *bytes)
{
    PyObject *codes = st->source.codes, *code;

    if (PyBytes_GET_SIZE(bytes) > PY_SOURCE_CACHED) {
        return compile(bytes);
    }
    if (PyDict_GetItemRef(codes, bytes, &code) != 0) {
        return code;
    }
    if ((code = compile(bytes)) != NULL) {
        if (PyDict_GET_SIZE(codes) >= PY_SOURCE_CODES) {
            PyDict_Clear(codes);
        }
        if (PyDict_SetItem(codes, bytes, code) < 0) {
            Py_CLEAR(code);
        }
    }
    return code;
}

PyObject *py_source_run(py_context *context, py_request *req)
{
    PyObject *globals = Py_NewRef(PyModule_GetDict(context->main)), *code = NULL, *result = NULL, *source;

    if ((source = read_source(req)) == NULL) {
        goto done;
    }
    if (enif_is_map(req->arg_env, req->args)) { /* names for this expression only: every scope in it sees them */
        Py_SETREF(globals, PyDict_Copy(globals));
        if (globals == NULL || add_names(context, req, globals) < 0) {
            goto done;
        }
    }
    code = code_of(context->interp->state, source);
    py_request_drop_bulk(req);
    if (code != NULL) {
        result = PyEval_EvalCode(code, globals, globals);
    }
done:
    Py_XDECREF(source);
    Py_XDECREF(code);
    Py_XDECREF(globals);
    return result;
}

int py_source_init(PyObject *module, py_state *st)
{
    (void)module;
    st->source.codes = PyDict_New();
    return st->source.codes == NULL ? -1 : 0;
}

int py_source_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->source.codes);
    return 0;
}

void py_source_clear(py_state *st) { Py_CLEAR(st->source.codes); }
