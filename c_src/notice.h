/* One callback into a loop, from any thread: `callback()` runs once on the loop's thread. On an ErlangEventLoop it is
 * posted to the poller; on any other loop the janitor calls loop.call_soon_threadsafe. No locks of its own. */
#ifndef ERLANG_PYTHON_NOTICE_H
#define ERLANG_PYTHON_NOTICE_H

#include "common.h"

typedef struct py_notice py_notice;

/* Attached. NULL with an exception. */
py_notice *py_notice_new(py_state *st, PyObject *loop, PyObject *callback);

/* Exactly one of the two, once. fire: any thread, never attaches, never waits. drop: attached. */
void py_notice_fire(py_notice *notice);
void py_notice_drop(py_notice *notice);

#endif
