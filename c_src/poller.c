/* The poller: posted events, epoll set, wake-up. See poller.h for who may call what.
 *
 * No wake-up is lost and few are made. A poster first makes its news visible (list, then `pending`), then looks at
 * `sleeping`; the consumer first sets `sleeping`, then looks at `pending` and the list once more, then sleeps. All four
 * are sequentially consistent, so at least one of the two sees the other. Whoever turns `sleeping` from 1 to 0 makes
 * the one write to the eventfd; it counts itself in `wakers` before, so that close() can wait until the fd is no longer
 * in use. The eventfd is edge-triggered in the epoll set and never read: each write is an edge of its own.
 *
 * Waiting costs 15 to 25 us on virtual machines, so the consumer first looks for up to spin_ns, detached, but only
 * while that has lately paid (spin_credit): by events that came while it spun, or by sleeps that were over so soon that
 * spinning would have caught them. */
#include "poller.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_EVENTS = 256,
    MAX_CREDIT = 8,
    /* A loop that never runs dry looks at its fds at each step until so many looks in a row found nothing, then only
     * every BUSY_LOOK_NS: a look is a system call, the step itself often less than that. */
    BUSY_LOOKS = 16,
    BUSY_LOOK_NS = 5000,
    DEFAULT_SPIN_US = 20,
};

struct py_poller {
    _Atomic long refcount;
    /* producers */
    pthread_mutex_t lock;
    py_event *head, *tail; /* under lock */
    bool closed;           /* under lock */
    _Atomic size_t posted; /* length of the list */
    _Atomic bool pending;  /* somebody called wake since the last poll */
    _Atomic bool sleeping;
    _Atomic int wakers;
    /* consumer */
    const py_poller_ops *ops;
    void *ops_arg;
    int epfd, wakefd;
    int watched; /* fds in the epoll set, without wakefd */
    int64_t spin_ns;
    int spin_credit;
    int dry_looks;
    int64_t last_look;
    bool no_pwait2;
    pid_t pid;
    py_poll_fd ready[MAX_EVENTS];
    struct epoll_event events[MAX_EVENTS];
};

int64_t py_poller_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static int default_spin_us(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) < 2)
        return 0;
    return DEFAULT_SPIN_US;
}

py_poller *py_poller_new(const py_poller_ops *ops, void *arg, int spin_us)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int err;

    py_poller *poller = calloc(1, sizeof *poller);
    if (poller == NULL)
        return NULL;
    poller->refcount = 1;
    poller->pid = getpid();
    poller->ops = ops;
    poller->ops_arg = arg;
    poller->spin_ns = 1000 * (int64_t)(spin_us < 0 ? default_spin_us() : spin_us);
    poller->spin_credit = 2;
    if ((poller->epfd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        goto err_free;
    if ((poller->wakefd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0)
        goto err_epoll;
    event.data.fd = poller->wakefd;
    if (epoll_ctl(poller->epfd, EPOLL_CTL_ADD, poller->wakefd, &event) < 0)
        goto err_wake;
    if (pthread_mutex_init(&poller->lock, NULL) != 0) {
        errno = ENOMEM;
        goto err_wake;
    }
    return poller;

err_wake:
    err = errno;
    close(poller->wakefd);
    errno = err;
err_epoll:
    err = errno;
    close(poller->epfd);
    errno = err;
err_free:
    err = errno;
    free(poller);
    errno = err;
    return NULL;
}

void py_poller_keep(py_poller *poller) { atomic_fetch_add_explicit(&poller->refcount, 1, memory_order_relaxed); }

void py_poller_release(py_poller *poller)
{
    if (atomic_fetch_sub_explicit(&poller->refcount, 1, memory_order_acq_rel) != 1)
        return;
    py_poller_close(poller);
    pthread_mutex_destroy(&poller->lock);
    free(poller);
}

bool py_poller_post(py_poller *poller, py_event *first, py_event *last, size_t n)
{
    last->next = NULL;
    pthread_mutex_lock(&poller->lock);
    if (poller->closed) {
        pthread_mutex_unlock(&poller->lock);
        return false;
    }
    if (poller->head == NULL)
        poller->head = first;
    else
        poller->tail->next = first;
    poller->tail = last;
    bool was_empty = atomic_fetch_add(&poller->posted, n) == 0;
    pthread_mutex_unlock(&poller->lock);
    if (was_empty)
        py_poller_wake(poller);
    return true;
}

void py_poller_wake(py_poller *poller)
{
    atomic_store(&poller->pending, true);
    if (!atomic_load(&poller->sleeping))
        return;
    atomic_fetch_add(&poller->wakers, 1);
    if (atomic_exchange(&poller->sleeping, false)) {
        uint64_t one = 1;
        while (write(poller->wakefd, &one, sizeof one) < 0 && errno == EINTR)
            ;
    }
    atomic_fetch_sub(&poller->wakers, 1);
}

int py_poller_ctl(py_poller *poller, int fd, unsigned old, unsigned mask)
{
    if (poller->ops != NULL)
        return poller->ops->ctl(poller->ops_arg, fd, old, mask);
    struct epoll_event event = {.data.fd = fd};
    if (mask & PY_POLL_READ)
        event.events |= EPOLLIN;
    if (mask & PY_POLL_WRITE)
        event.events |= EPOLLOUT;
    poller->dry_looks = 0;
    if (mask == 0) {
        poller->watched--;
        return epoll_ctl(poller->epfd, EPOLL_CTL_DEL, fd, &event) < 0 ? errno : 0;
    }
    int rc = epoll_ctl(poller->epfd, old != 0 ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
    if (rc < 0 && errno == ENOENT && old != 0) /* closed behind our back, and the number came again */
        rc = epoll_ctl(poller->epfd, EPOLL_CTL_ADD, fd, &event);
    int err = rc < 0 ? errno : 0;
    if (err == 0 && old == 0)
        poller->watched++;
    else if (err != 0 && old != 0)
        poller->watched--; /* no longer in the set, nor in the caller's table */
    return err;
}

static bool has_news(py_poller *poller) { return atomic_load(&poller->pending) || atomic_load(&poller->posted) != 0; }

static int look(py_poller *poller)
{
    int n = epoll_wait(poller->epfd, poller->events, MAX_EVENTS, 0);
    return n < 0 ? 0 : n;
}

static int sleep_for(py_poller *poller, int64_t timeout_ns)
{
    int n;
#ifdef SYS_epoll_pwait2
    if (!poller->no_pwait2) {
        struct timespec ts = {.tv_sec = timeout_ns / 1000000000, .tv_nsec = timeout_ns % 1000000000};
        n = (int)syscall(SYS_epoll_pwait2, poller->epfd, poller->events, MAX_EVENTS, timeout_ns < 0 ? NULL : &ts, NULL,
                         0);
        if (n >= 0 || errno != ENOSYS)
            return n < 0 ? 0 : n;
        poller->no_pwait2 = true;
    }
#endif
    int64_t ms = timeout_ns < 0 ? -1 : (timeout_ns + 999999) / 1000000; /* rounded up: never early */
    n = epoll_wait(poller->epfd, poller->events, MAX_EVENTS, ms > INT32_MAX ? INT32_MAX : (int)ms);
    return n < 0 ? 0 : n;
}

static void credit(py_poller *poller, int by)
{
    int credit = poller->spin_credit + by;
    poller->spin_credit = credit < 0 ? 0 : credit > MAX_CREDIT ? MAX_CREDIT : credit;
}

/* Detached. Looks until something is there or `until` has come: the number of fd events, -1 for nothing at all. */
static int spin(py_poller *poller, int64_t until)
{
    do {
        for (int i = 0; i < 8; i++) {
            if (has_news(poller))
                return 0;
            cpu_relax();
        }
        if (poller->watched > 0) {
            int n = look(poller);
            if (n > 0)
                return n;
        }
    } while (py_poller_now() < until);
    return -1;
}

/* Detached. */
static int wait_detached(py_poller *poller, int64_t timeout_ns)
{
    int64_t start = py_poller_now();
    int64_t deadline = timeout_ns < 0 ? INT64_MAX : start + timeout_ns;
    int n;

    if (poller->spin_ns > 0 && poller->spin_credit > 0) {
        int64_t until = start + poller->spin_ns;
        n = spin(poller, until < deadline ? until : deadline);
        if (n >= 0) {
            credit(poller, 1);
            return n;
        }
        int64_t now = py_poller_now();
        if (now >= deadline)
            return 0;
        credit(poller, -1);
        start = now;
    }
    atomic_store(&poller->sleeping, true);
    if (has_news(poller)) {
        atomic_store(&poller->sleeping, false);
        return 0;
    }
    n = sleep_for(poller, timeout_ns < 0 ? -1 : deadline - start);
    atomic_store(&poller->sleeping, false);
    /* Being woken takes about as long as a spin lasts. */
    if (n > 0 && py_poller_now() - start < 2 * poller->spin_ns)
        credit(poller, 1);
    return n;
}

/* Attached, the loop has work: is it time to look at the fds? */
static int look_while_busy(py_poller *poller)
{
    if (poller->watched == 0)
        return 0;
    if (poller->dry_looks >= BUSY_LOOKS) {
        int64_t now = py_poller_now();
        if (now - poller->last_look < BUSY_LOOK_NS)
            return 0;
        poller->last_look = now;
    }
    int n = look(poller);
    poller->dry_looks = n > 0 ? 0 : poller->dry_looks + (poller->dry_looks < BUSY_LOOKS);
    return n;
}

void py_poller_poll(py_poller *poller, int64_t timeout_ns, py_poll_result *out)
{
    int n;

    if (poller->ops != NULL)
        timeout_ns = poller->ops->prepare(poller->ops_arg, has_news(poller) ? 0 : timeout_ns);
    if (timeout_ns == 0 || has_news(poller)) {
        n = look_while_busy(poller);
    } else {
        poller->dry_looks = 0;
        n = poller->watched > 0 ? look(poller) : 0;
        if (n == 0) {
            PyThreadState *tstate = PyEval_SaveThread();
            n = wait_detached(poller, timeout_ns);
            PyEval_RestoreThread(tstate);
        }
    }

    out->events = NULL;
    out->fds = poller->ready;
    out->nfds = 0;
    if (atomic_load_explicit(&poller->pending, memory_order_relaxed))
        atomic_store(&poller->pending, false);
    if (atomic_load(&poller->posted) != 0) {
        pthread_mutex_lock(&poller->lock);
        out->events = poller->head;
        poller->head = poller->tail = NULL;
        atomic_store(&poller->posted, 0);
        pthread_mutex_unlock(&poller->lock);
    }
    for (int i = 0; i < n; i++) {
        const struct epoll_event *event = &poller->events[i];
        if (event->data.fd == poller->wakefd)
            continue;
        /* Errors and hang-ups wake reader and writer, as in selectors.EpollSelector. */
        unsigned mask = (event->events & ~(unsigned)EPOLLOUT ? PY_POLL_READ : 0) |
                        (event->events & ~(unsigned)EPOLLIN ? PY_POLL_WRITE : 0);
        poller->ready[out->nfds++] = (py_poll_fd){.fd = event->data.fd, .mask = mask};
    }
}

void py_poller_close(py_poller *poller)
{
    if (poller->pid != getpid()) {
        /* A forked child inherits the loop, but neither the posters nor a lock that one of them held. */
        if (!poller->closed) {
            poller->closed = true;
            close(poller->wakefd);
            close(poller->epfd);
        }
        return;
    }
    pthread_mutex_lock(&poller->lock);
    bool was_closed = poller->closed;
    poller->closed = true;
    py_event *event = poller->head;
    poller->head = poller->tail = NULL;
    atomic_store(&poller->posted, 0);
    pthread_mutex_unlock(&poller->lock);
    if (was_closed)
        return;
    while (event != NULL) {
        py_event *next = event->next;
        event->drop(event);
        event = next;
    }
    while (atomic_load(&poller->wakers) != 0)
        sched_yield();
    close(poller->wakefd);
    close(poller->epfd);
    if (poller->ops != NULL)
        poller->ops->close(poller->ops_arg);
}

void *py_poller_ops_arg(py_poller *poller) { return poller->ops_arg; }

bool py_poller_closed(py_poller *poller)
{
    pthread_mutex_lock(&poller->lock);
    bool closed = poller->closed;
    pthread_mutex_unlock(&poller->lock);
    return closed;
}

size_t py_poller_pending(py_poller *poller) { return atomic_load(&poller->posted); }
