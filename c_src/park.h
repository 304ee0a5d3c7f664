/* One thread sleeps, any thread wakes it: a futex on Linux, a mutex and condition elsewhere.
 *
 * The sleeper:  py_parker_prepare(p);  if (nothing to do) py_parker_sleep(p, ns) else py_parker_cancel(p);
 * The waker:    publish the work;  py_parker_wake(p);
 *
 * prepare stores "sleeping" and wake loads it, both sequentially consistent, so one of the two sees the other: a wake
 * is never lost, and it costs a system call only when the sleeper really sleeps. Rank: leaf. Any thread. */
#ifndef ERLANG_PYTHON_PARK_H
#define ERLANG_PYTHON_PARK_H

#include "common.h"

#define PY_FOREVER UINT64_MAX

typedef struct {
    _Atomic uint32_t sleeping;
#ifndef __linux__
    pthread_mutex_t lock;
    pthread_cond_t cond;
#endif
} py_parker;

void py_parker_init(py_parker *p);
void py_parker_destroy(py_parker *p);

static inline void py_parker_prepare(py_parker *p) { atomic_store(&p->sleeping, 1); }
static inline void py_parker_cancel(py_parker *p) { atomic_store(&p->sleeping, 0); }
static inline bool py_parker_is_sleeping(py_parker *p) { return atomic_load(&p->sleeping) != 0; }

/* Detached. True when woken, false when `ns` went by. */
bool py_parker_sleep(py_parker *p, uint64_t ns);

void py_parker_wake_slow(py_parker *p);

static inline void py_parker_wake(py_parker *p)
{
    if (py_parker_is_sleeping(p)) {
        py_parker_wake_slow(p);
    }
}

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t py_now_ns(void);

static inline void py_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

#endif
