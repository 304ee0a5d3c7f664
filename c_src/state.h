/* Everything that belongs to one interpreter, as the state of the module `_erlang` (multi-phase init, heap types, no
 * static PyObject). Each C file owns one part, defines its struct in its own header and gives four functions:
 *
 *     int  py_<part>_init(PyObject *module, py_state *st);              -- in the module's exec slot; attached
 *     int  py_<part>_traverse(py_state *st, visitproc visit, void *arg);
 *     void py_<part>_clear(py_state *st);
 *
 * Read and written only by threads attached to that interpreter. On a free-threaded build a part that changes after
 * init guards itself. */
#ifndef ERLANG_PYTHON_STATE_H
#define ERLANG_PYTHON_STATE_H

#include "common.h"

#include "call.h"
#include "callback.h"
#include "channel.h"
#include "driver.h"
#include "exception.h"
#include "loop.h"
#include "origin.h"
#include "output.h"
#include "poller_nif.h"
#include "ref.h"
#include "source.h"
#include "stream.h"
#include "trace.h"
#include "types.h"

struct py_state {
    py_interp *interp; /* set before the first request; NULL only while the module is being executed */
    PyObject *module;  /* borrowed: the module owns this struct */
    py_types_part types;
    py_exception_part exception;
    py_ref_part ref;
    py_call_part call;
    py_source_part source;
    py_output_part output;
    py_trace_part trace;
    py_origin_part origin;
    py_callback_part callback;
    py_channel_part channel;
    py_loop_part loop;
    py_driver_part driver;
    py_stream_part stream;
    py_poller_nif_part poller_nif;
};

extern PyModuleDef py_module_def; /* module.c */

/* The state behind a module, or behind one of our heap types (or a subclass of one). Attached; no new reference. */
static inline py_state *py_state_of_module(PyObject *module) { return (py_state *)PyModule_GetState(module); }

static inline py_state *py_state_of_type(PyTypeObject *type)
{
    PyObject *module = PyType_GetModuleByDef(type, &py_module_def);
    return module == NULL ? NULL : py_state_of_module(module);
}

#endif
