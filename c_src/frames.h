/* The frames of an interpreter's threads. sys._current_frames() of CPython goes through the threads of all
 * interpreters, also of those whose GIL it does not hold. No locks. */
#ifndef ERLANG_PYTHON_FRAMES_H
#define ERLANG_PYTHON_FRAMES_H

#include "common.h"

/* _erlang.current_frames() -> {thread identifier: frame}. Attached. */
int py_frames_init(PyObject *module);

#endif
