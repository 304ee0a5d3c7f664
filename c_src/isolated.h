/* Interpreters with a GIL of their own: how they begin and end. One is made on Python's main thread, one after the
 * other, and handed to the Erlang process that asked as a resource, which stands for its context until that is there.
 * Its end is its janitor's doing (interpreter.h): when the last context is gone Python's `atexit` runs there, and when
 * there is no user left and no thread but the janitor's, the interpreter is ended. Until then it is left behind, and
 * counted.
 *
 * Python 3.13: 3.12 has modules of its own library (datetime, ctypes, decimal) that refuse such an interpreter. */
#ifndef ERLANG_PYTHON_ISOLATED_H
#define ERLANG_PYTHON_ISOLATED_H

#include "common.h"

int py_isolated_load(ErlNifEnv *env);

/* The interpreter behind what interpreter_start gave (as long as the term lives), or NULL. Any thread. */
py_interp *py_isolated_of(ErlNifEnv *env, ERL_NIF_TERM term);

/* No context is left: ends the interpreter and gives up the janitor's reference, and the thread is attached to nothing.
 * False when it cannot be ended now; then *pause is how long to wait before the next attempt. Its janitor, attached. */
bool py_isolated_end(py_interp *interp, uint64_t *pause);

/* Its context is closed. Any thread. */
void py_isolated_closed(py_interp *interp);

/* How many there are; how many of them have no open context: not ended yet, or never; and of how many of those atexit
 * has not run. Any thread. */
extern _Atomic long py_isolated_live, py_isolated_left, py_isolated_ending;

/* interpreter_start(Ref, Label) -> ok | {error, Text}, then {Ref, {ok, Interpreter} | {error, Text}}. */
PY_NIF(interpreter_start_nif);

/* interpreter_ask(Context, Ref, Function) -> ok | noproc, then {Ref, {ok, T} | {error, E}}: what a function of
 * erlang._admin without arguments says of the context's interpreter, also while its workers are busy. */
PY_NIF(interpreter_ask_nif);

/* ref_context(PyRef) -> {ok, Context} | main | noproc: where a ref's object lives. */
PY_NIF(ref_context_nif);

#endif
