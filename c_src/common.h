/* What every C file of the NIF sees: Python first (it sets feature macros), then erl_nif, then our words.
 *
 * Words: a thread is *attached* while it may touch Python objects and *detached* while it may not. A function that
 * needs the caller attached says so in its header; a function that says "any thread" never attaches and never waits.
 *
 * Lock order (take left before right, never the other way; a thread that holds any of these locks never attaches,
 * never runs Python code and never calls enif_send):
 *
 *     runtime.lock -> context.take_lock -> context.inbox_lock -> poller.lock -> parker.lock -> freelist locks
 *
 * Attaching comes before every lock: an attached thread may take a lock, a thread with a lock may not attach.
 */
#ifndef ERLANG_PYTHON_COMMON_H
#define ERLANG_PYTHON_COMMON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <erl_nif.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct py_state py_state;     /* one interpreter's Python side: state.h */
typedef struct py_interp py_interp;   /* one interpreter, seen from C: interpreter.h */
typedef struct py_context py_context; /* context.h */
typedef struct py_request py_request; /* request.h */
typedef struct py_worker py_worker;   /* worker.h */

/* True in a child of os.fork(). It has one thread and no emulator: nothing may be sent, and what belongs to the
 * emulator is not given back, since its allocators' locks may be held for ever. */
extern bool py_forked; /* runtime.c */

#define PY_NIF(name) ERL_NIF_TERM name(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])

#if defined(__GNUC__) || defined(__clang__)
#define PY_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define PY_LIKELY(x) __builtin_expect(!!(x), 1)
#else
#define PY_UNLIKELY(x) (x)
#define PY_LIKELY(x) (x)
#endif

#endif
