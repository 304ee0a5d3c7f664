/* One thread per VM that looks at the contexts while requests run, and sleeps otherwise. It makes another worker active
 * when a queue stands still, enforces deadlines, drops requests of dead callers and writes off workers that do not
 * stop. It never attaches (a C extension that holds the GIL must not stop the clock): interrupts are the janitor's. */
#ifndef ERLANG_PYTHON_WATCHDOG_H
#define ERLANG_PYTHON_WATCHDOG_H

#include "common.h"

/* How long what was asked to stop may take to end before it is abandoned. */
extern _Atomic uint64_t py_watchdog_grace_ns;

bool py_watchdog_start(void);

/* How it sleeps: not at all, between looks, or until woken. */
enum { PY_WATCH_TICKING, PY_WATCH_RELAXED, PY_WATCH_IDLE };
extern _Atomic int py_watchdog_mode;

void py_watchdog_wake(void);

/* A worker has a request in hand. */
static inline void py_watchdog_running(void)
{
    if (atomic_load_explicit(&py_watchdog_mode, memory_order_acquire) == PY_WATCH_IDLE) {
        py_watchdog_wake();
    }
}

/* A request was put where nobody was asleep to take it, or one was asked to stop. */
static inline void py_watchdog_waiting(void)
{
    if (atomic_load_explicit(&py_watchdog_mode, memory_order_acquire) != PY_WATCH_TICKING) {
        py_watchdog_wake();
    }
}

/* The time of its last look, for checks that need no better. */
extern _Atomic uint64_t py_watchdog_now;

#endif
