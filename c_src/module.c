/* The module `_erlang`: multi-phase init that hands its state to each part in turn. Attached. */
#include "module.h"

#include "frames.h"
#include "state.h"

#define PARTS(P)                                                                                                       \
    P(exception)                                                                                                       \
    P(types)                                                                                                           \
    P(ref)                                                                                                             \
    P(call)                                                                                                            \
    P(source)                                                                                                          \
    P(output)                                                                                                          \
    P(channel)                                                                                                         \
    P(origin)                                                                                                          \
    P(trace)                                                                                                           \
    P(callback)                                                                                                        \
    P(loop)                                                                                                            \
    P(driver)                                                                                                          \
    P(stream)                                                                                                          \
    P(poller_nif)

static int module_exec(PyObject *module)
{
    py_state *st = py_state_of_module(module);

    st->module = module;
#define PART_INIT(part)                                                                                                \
    if (py_##part##_init(module, st) < 0) {                                                                            \
        return -1;                                                                                                     \
    }
    PARTS(PART_INIT)
#undef PART_INIT
    return py_frames_init(module);
}

static int module_traverse(PyObject *module, visitproc visit, void *arg)
{
    py_state *st = py_state_of_module(module);
    int rc;

#define PART_TRAVERSE(part)                                                                                            \
    if ((rc = py_##part##_traverse(st, visit, arg)) != 0) {                                                            \
        return rc;                                                                                                     \
    }
    PARTS(PART_TRAVERSE)
#undef PART_TRAVERSE
    return 0;
}

static int module_clear(PyObject *module)
{
    py_state *st = py_state_of_module(module);

#define PART_CLEAR(part) py_##part##_clear(st);
    PARTS(PART_CLEAR)
#undef PART_CLEAR
    return 0;
}

static void module_free(void *module) { module_clear(module); }

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, module_exec},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#if PY_VERSION_HEX >= 0x030d0000
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

PyModuleDef py_module_def = {
    PyModuleDef_HEAD_INIT,      .m_name = "_erlang",   .m_doc = "The C half of the package erlang.",
    .m_size = sizeof(py_state), .m_slots = slots,      .m_traverse = module_traverse,
    .m_clear = module_clear,    .m_free = module_free,
};

PyMODINIT_FUNC PyInit__erlang(void) { return PyModuleDef_Init(&py_module_def); }
