/* Parkers and the clock. Rank: leaf. Any thread. */
#include "park.h"

#include <errno.h>
#include <time.h>

uint64_t py_now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

#ifdef __linux__

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

void py_parker_init(py_parker *p) { atomic_init(&p->sleeping, 0); }

void py_parker_destroy(py_parker *p) { (void)p; }

bool py_parker_sleep(py_parker *p, uint64_t ns)
{
    struct timespec until, *timeout = NULL;
    long rc;

    if (ns != PY_FOREVER) {
        uint64_t end = py_now_ns() + ns;
        until.tv_sec = (time_t)(end / 1000000000u);
        until.tv_nsec = (long)(end % 1000000000u);
        timeout = &until;
    }
    while (atomic_load(&p->sleeping) == 1) {
        rc = syscall(SYS_futex, &p->sleeping, FUTEX_WAIT_BITSET_PRIVATE, 1, timeout, NULL, FUTEX_BITSET_MATCH_ANY);
        if (rc == -1 && errno == ETIMEDOUT) {
            return atomic_exchange(&p->sleeping, 0) == 0;
        }
    }
    return true;
}

void py_parker_wake_slow(py_parker *p)
{
    if (atomic_exchange(&p->sleeping, 0) == 1) {
        syscall(SYS_futex, &p->sleeping, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    }
}

#else

void py_parker_init(py_parker *p)
{
    atomic_init(&p->sleeping, 0);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->cond, NULL);
}

void py_parker_destroy(py_parker *p)
{
    pthread_cond_destroy(&p->cond);
    pthread_mutex_destroy(&p->lock);
}

bool py_parker_sleep(py_parker *p, uint64_t ns)
{
    struct timespec until;
    bool woken = true;

    if (ns != PY_FOREVER) {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += (time_t)(ns / 1000000000u);
        until.tv_nsec += (long)(ns % 1000000000u);
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->sleeping) == 1) {
        if (ns == PY_FOREVER) {
            pthread_cond_wait(&p->cond, &p->lock);
        } else if (pthread_cond_timedwait(&p->cond, &p->lock, &until) == ETIMEDOUT) {
            woken = atomic_exchange(&p->sleeping, 0) == 0;
            break;
        }
    }
    pthread_mutex_unlock(&p->lock);
    return woken;
}

void py_parker_wake_slow(py_parker *p)
{
    pthread_mutex_lock(&p->lock);
    if (atomic_exchange(&p->sleeping, 0) == 1) {
        pthread_cond_signal(&p->cond);
    }
    pthread_mutex_unlock(&p->lock);
}

#endif
