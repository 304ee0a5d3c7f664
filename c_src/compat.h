/* What newer Pythons have and 3.12 lacks, under the newer names. No state. */
#ifndef ERLANG_PYTHON_COMPAT_H
#define ERLANG_PYTHON_COMPAT_H

#include "common.h"

#ifndef Py_BEGIN_CRITICAL_SECTION
#define Py_BEGIN_CRITICAL_SECTION(op) {
#define Py_END_CRITICAL_SECTION() }
#endif

#ifdef Py_GIL_DISABLED
typedef PyMutex py_ft_mutex; /* a lock only where there is no GIL */
#define PY_FT_LOCK(m) PyMutex_Lock(m)
#define PY_FT_UNLOCK(m) PyMutex_Unlock(m)
#else
typedef char py_ft_mutex;
#define PY_FT_LOCK(m) ((void)(m))
#define PY_FT_UNLOCK(m) ((void)(m))
#endif

#if PY_VERSION_HEX < 0x030D0000
#define Py_IsFinalizing _Py_IsFinalizing

static inline PyObject *PyList_GetItemRef(PyObject *list, Py_ssize_t i) { return Py_XNewRef(PyList_GetItem(list, i)); }

/* 1 found, 0 missing, -1 error */
static inline int PyDict_GetItemRef(PyObject *dict, PyObject *key, PyObject **out)
{
    PyObject *found = PyDict_GetItemWithError(dict, key);
    *out = Py_XNewRef(found);
    return found != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
}

static inline int PyObject_GetOptionalAttr(PyObject *obj, PyObject *name, PyObject **out)
{
    return _PyObject_LookupAttr(obj, name, out);
}

static inline int PyObject_GetOptionalAttrString(PyObject *obj, const char *name, PyObject **out)
{
    PyObject *text = PyUnicode_InternFromString(name);
    if (text == NULL) {
        *out = NULL;
        return -1;
    }
    int found = _PyObject_LookupAttr(obj, text, out);
    Py_DECREF(text);
    return found;
}
#endif

/* A dict with room for n keys. */
static inline PyObject *py_dict_presized(Py_ssize_t n)
{
#if PY_VERSION_HEX < 0x030E0000
    return _PyDict_NewPresized(n);
#else
    (void)n;
    return PyDict_New();
#endif
}

#endif
