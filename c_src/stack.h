/* How much C stack the calling thread has left: threads that Python code starts may have little of it, and before 3.14
 * Python's own recursion check counts calls only. */
#ifndef ERLANG_PYTHON_STACK_H
#define ERLANG_PYTHON_STACK_H

#include "common.h"

/* Whether less than 64 KiB are left. The first call of a thread finds out its bounds. Any thread. */
bool py_stack_is_short(void);

#endif
