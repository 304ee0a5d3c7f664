/* `_erlang`, the C half of the Python package `erlang`: built into every interpreter we start (PyImport_AppendInittab).
 */
#ifndef ERLANG_PYTHON_MODULE_H
#define ERLANG_PYTHON_MODULE_H

#include "common.h"

PyMODINIT_FUNC PyInit__erlang(void);

#endif
