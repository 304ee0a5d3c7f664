/* See frames.h. Attached. */
#include "frames.h"

#ifdef Py_GIL_DISABLED

int py_frames_init(PyObject *module) /* CPython's stops the world */
{
    return PyModule_AddObjectRef(module, "current_frames", PySys_GetObject("_current_frames"));
}

#else

static PyObject *current_frames(PyObject *module, PyObject *unused)
{
    PyObject *found = PyDict_New(), *frame, *id;
    PyThreadState *ts = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    int rc = found == NULL ? -1 : 0;

    (void)module;
    (void)unused;
    /* Nothing here runs Python code, so the GIL is held all the time, and no thread state goes. */
    for (; rc == 0 && ts != NULL; ts = PyThreadState_Next(ts)) {
        frame = (PyObject *)PyThreadState_GetFrame(ts);
        if (frame != NULL) {
            id = PyLong_FromUnsignedLong(ts->thread_id);
            rc = id == NULL ? -1 : PyDict_SetItem(found, id, frame);
            Py_XDECREF(id);
            Py_DECREF(frame);
        }
    }
    if (rc < 0) {
        Py_CLEAR(found);
    }
    return found;
}

static PyMethodDef methods[] = {
    {"current_frames", current_frames, METH_NOARGS, "The innermost frame of each thread of this interpreter."},
    {NULL},
};

int py_frames_init(PyObject *module) { return PyModule_AddFunctions(module, methods); }

#endif
