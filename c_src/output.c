/* See output.h. Attached. */
#include "output.h"

#include "request.h"
#include "state.h"

static PyObject *output_pending(PyObject *module, PyObject *pending)
{
    py_worker *w = py_worker_current();
    py_request *req = w == NULL ? py_callback_request() : NULL;

    (void)module;
    if (w != NULL) {
        w->output_pending = pending == Py_True;
    } else if (req != NULL) {
        req->open_line = true;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"output_pending", output_pending, METH_O, "The running request has left a line open."},
    {NULL},
};

int py_output_init(PyObject *module, py_state *st)
{
    (void)st;
    return PyModule_AddFunctions(module, methods);
}

int py_output_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->output.flush);
    return 0;
}

void py_output_clear(py_state *st) { Py_CLEAR(st->output.flush); }

void py_output_flush(py_state *st)
{
    PyObject *exc = PyErr_GetRaisedException(), *module, *done = NULL;

    if (st->output.flush == NULL) {
        module = PyImport_ImportModule("erlang._io");
        st->output.flush = module == NULL ? NULL : PyObject_GetAttrString(module, "flush_request");
        Py_XDECREF(module);
    }
    if (st->output.flush != NULL) {
        done = PyObject_CallNoArgs(st->output.flush);
    }
    if (done == NULL) {
        PyErr_WriteUnraisable(st->output.flush);
    }
    Py_XDECREF(done);
    PyErr_SetRaisedException(exc);
}
