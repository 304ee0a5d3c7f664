/* The one CPython of this OS process: initialised once, on a thread of its own that lives as long as the VM and is
 * Python's main thread. It is never finalised. Also the list of contexts that the watchdog looks at.
 *
 * runtime.lock guards the list and the job queue; rank: first. */
#ifndef ERLANG_PYTHON_RUNTIME_H
#define ERLANG_PYTHON_RUNTIME_H

#include "common.h"

int py_runtime_load(ErlNifEnv *env);

/* The main interpreter, NULL until it runs. Any thread. */
py_interp *py_runtime_interp(void);

/* Whether this is a program of priv/erlpy (program.h). Constant once the interpreter runs. Any thread. */
bool py_runtime_is_program(void);

/* A new interpreter's first Python: the package `erlang` on sys.path, then erlang._boot.boot. 0, or -1 with an
 * exception. Attached to it. */
int py_runtime_boot(bool main);

/* The exception that is set as text, and clears it. Attached. */
void py_runtime_describe_exception(char *out, size_t size);

/* Contexts that have threads. The list keeps what is on it. */
void py_runtime_remember(py_context *context);
void py_runtime_forget(py_context *context);

/* Calls `look` for each context on the list with something to watch, without locks. The watchdog's. */
void py_runtime_each(void (*look)(py_context *context, void *arg), void *arg);

/* Has `job` run on Python's main thread, attached, after the jobs before it. Any thread; false when memory is out. */
typedef struct py_main_job {
    struct py_main_job *next;
    void (*run)(struct py_main_job *job); /* frees the job */
} py_main_job;

void py_runtime_run_on_main(py_main_job *job);

/* Whether this is Python's main thread. Any thread. */
bool py_runtime_on_main(void);

/* runtime_start(Ref, Config) -> ok, then {Ref, ok | {error, Text}}. */
PY_NIF(runtime_start_nif);

/* runtime_flush(Ref, Last) -> ok, then {Ref, ok}: atexit callbacks run, stdout and stderr are flushed. Last: the VM
 * ends, so threads that Python would wait for are waited for, a while. */
PY_NIF(runtime_flush_nif);

#endif
