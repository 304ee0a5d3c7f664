/* A Python program as the purpose of this OS process: priv/erlpy (c_src/erlpy) started the emulator for it.
 *
 * Python's main thread is then the process's initial thread, which the emulator leaves asleep: it is the one that the
 * kernel prefers for signals, the only one of the emulator's that does not block them, and what os.fork() leaves in the
 * child. CPython does all the rest (Py_RunMain): options, sys.path[0], the end, the exit code. */
#ifndef ERLANG_PYTHON_PROGRAM_H
#define ERLANG_PYTHON_PROGRAM_H

#include "common.h"

#include <signal.h>

/* What threads that run Python start with: in a program the signals that the launcher was started with, since all
 * threads of the emulator block them; else NULL, what their starter has. */
const sigset_t *py_program_signal_mask(void);

/* For a thread that never runs the program's code: it takes no signals. */
void py_program_block_signals(void);

/* Has the initial thread of the process run main(NULL) in place of its sleep. False where it cannot. Once. */
bool py_program_take_initial_thread(void *(*main)(void *));

/* Py_InitializeFromConfig as `python` does it with the launcher's arguments, options and environment. `executable` is
 * the Python whose prefix is used. For options that end the run at once (--version) and for wrong ones it does not
 * return. */
PyStatus py_program_initialize(const char *executable);

/* After it: sys.executable, and the package `erlang` found behind everything else. Attached; -1 with an exception. */
int py_program_boot(const char *python_path);

/* When the NIF is loaded, before any child is the program's: waits for the end of the emulator's own one, which lives
 * for moments (c_src/erlpy). In a node it does nothing. */
void py_program_wait_for_setup(void);

/* program_run() -> ok: the main thread runs the program; the process ends with it. */
PY_NIF(program_run_nif);

#endif
