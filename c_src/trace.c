/* See trace.h. Attached, but for the NIF. */
#include "trace.h"

#include "atoms.h"
#include "convert.h"
#include "state.h"

_Atomic bool py_trace_timing;

ERL_NIF_TERM py_trace_term(py_state *st, ERL_NIF_TERM brought, ErlNifEnv *env)
{
    PyObject *span = NULL;
    ERL_NIF_TERM term;

    if (st->trace.spans && PyContextVar_Get(st->trace.span, NULL, &span) == 0 && span != NULL) {
        bool is_term = span != Py_None && py_py_to_term(st, env, span, PY_CONV_NO_REFS, &term) == 0;
        Py_DECREF(span);
        if (is_term) {
            return term;
        }
    }
    PyErr_Clear();
    return brought == 0 ? py_atoms.undefined : enif_make_copy(env, brought);
}

static PyObject *trace_of_request(PyObject *module, PyObject *ignored)
{
    py_state *st = py_state_of_module(module);
    py_origin origin;
    PyObject *trace;

    (void)ignored;
    if (!py_origin_find(st, &origin)) {
        Py_RETURN_NONE;
    }
    trace = origin.trace == 0 ? Py_NewRef(Py_None) : py_term_to_py(st, origin.env, origin.trace, 0);
    py_origin_done(&origin);
    return trace;
}

static PyObject *span_started(PyObject *module, PyObject *ignored)
{
    (void)ignored;
    py_state_of_module(module)->trace.spans = true;
    Py_RETURN_NONE;
}

static PyObject *timing(PyObject *module, PyObject *ignored)
{
    (void)module;
    (void)ignored;
    return PyBool_FromLong(atomic_load_explicit(&py_trace_timing, memory_order_relaxed));
}

static PyMethodDef methods[] = {
    {"trace_of_request", trace_of_request, METH_NOARGS, "The trace that the running request brought along, or None."},
    {"span_started", span_started, METH_NOARGS, "From now on the variable `span` is looked at."},
    {"timing", timing, METH_NOARGS, "Whether Erlang listens to what is measured."},
    {NULL},
};

int py_trace_init(PyObject *module, py_state *st)
{
    st->trace.span = PyContextVar_New("erlang.span", Py_None);
    if (st->trace.span == NULL || PyModule_AddObjectRef(module, "span", st->trace.span) < 0) {
        return -1;
    }
    return PyModule_AddFunctions(module, methods);
}

int py_trace_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->trace.span);
    return 0;
}

void py_trace_clear(py_state *st) { Py_CLEAR(st->trace.span); }

PY_NIF(timing_nif)
{ /* (Bool) */
    (void)argc;
    if (!enif_is_atom(env, argv[0])) {
        return enif_make_badarg(env);
    }
    atomic_store(&py_trace_timing, enif_is_identical(argv[0], py_atoms.true_));
    return py_atoms.ok;
}
