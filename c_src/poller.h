/* What a loop waits on: one list of posted events, one set of file descriptors, one wake-up.
 *
 * Any thread may post and wake: both return at once, never attach, and make the wake-up syscall only when the consumer
 * sleeps. One thread at a time, the loop's, polls. The poller is counted by reference, so a poster may outlive the
 * loop: a post to a closed poller is refused and the event stays the poster's.
 *
 * Two backends: `native` keeps the fds in the poller's own epoll set and sleeps for the timeout; another one
 * (py_poller_ops) has somebody else watch fds and timers, and learns of them by posted events.
 *
 * Lock: `lock` guards the list alone (rank: after context.inbox_lock). */
#ifndef ERLANG_PYTHON_POLLER_H
#define ERLANG_PYTHON_POLLER_H

#include "common.h"

/* The numbers are part of the interface with Erlang. */
enum py_event_type {
    PY_EVENT_READ = 1,
    PY_EVENT_WRITE = 2,
    PY_EVENT_TIMER = 3,
    PY_EVENT_CALL_RESULT = 10,
    PY_EVENT_CALL_ERROR = 11,
    PY_EVENT_ASYNC_RESULT = 12,
    PY_EVENT_ASYNC_ERROR = 13,
    PY_EVENT_SUBPROCESS_EXIT = 20,
    PY_EVENT_SUBPROCESS_STDOUT = 21,
    PY_EVENT_SUBPROCESS_STDERR = 22,
    PY_EVENT_SOCKET_DATA = 30,
    PY_EVENT_SOCKET_CLOSED = 31,
    PY_EVENT_SOCKET_ERROR = 32,
    PY_EVENT_REQUEST = 40,
};

typedef struct py_loop py_loop;     /* loop.h */
typedef struct py_poller py_poller; /* below */
typedef struct py_event py_event;

/* The head of anything that can be posted; embed it first in a struct of your own. Whoever takes the event calls
 * exactly one of the two, once, and the callee owns the memory from then on. */
struct py_event {
    py_event *next;
    /* On the loop's thread, attached. 0, or -1 with an exception set that shall leave run_forever (KeyboardInterrupt,
     * SystemExit); everything else goes to the loop's exception handler before this returns. */
    int (*run)(py_event *event, py_loop *loop);
    /* The poller was closed before the event was taken. Any thread, perhaps detached; never attaches, never waits. */
    void (*drop)(py_event *event);
    uint16_t type;
    uint64_t id;
};

enum { PY_POLL_READ = 1, PY_POLL_WRITE = 2 };

typedef struct {
    int fd;
    unsigned mask;
} py_poll_fd;

typedef struct {
    py_event *events; /* posted, oldest first */
    const py_poll_fd *fds;
    int nfds;
} py_poll_result;

/* A backend that is told of changes. All on the loop's thread, attached, without lock. */
typedef struct {
    /* The interest in fd goes from `old` to `mask` (0: none). Returns 0 or an errno. */
    int (*ctl)(void *arg, int fd, unsigned old, unsigned mask);
    /* The loop is about to wait: events of level-triggered fds that were delivered must be armed again, and a wake-up
     * must come in at most timeout_ns (-1: no limit, 0: it will not sleep). Returns for how long the poller itself may
     * sleep, which is -1 where the wake-up comes as an event. */
    int64_t (*prepare)(void *arg, int64_t timeout_ns);
    void (*close)(void *arg);
} py_poller_ops;

/* New, with one reference; NULL with errno set. ops NULL: native. spin_us < 0: the default (20, or 0 on one core). */
py_poller *py_poller_new(const py_poller_ops *ops, void *arg, int spin_us);
void py_poller_keep(py_poller *poller);
void py_poller_release(py_poller *poller); /* any thread */

/* Posts the chain first..last of n events. False (nothing taken) when closed. Any thread. */
bool py_poller_post(py_poller *poller, py_event *first, py_event *last, size_t n);

/* Makes the current or the next poll return. Any thread. */
void py_poller_wake(py_poller *poller);

/* Changes the interest in fd from `old` to `mask`. 0 or an errno. Attached, loop's thread (or nobody polls). */
int py_poller_ctl(py_poller *poller, int fd, unsigned old, unsigned mask);

/* Waits up to timeout_ns (-1: without limit, 0: only looks) and says what is there; *out is good until the next poll.
 * Attached; detaches while it waits. A signal ends the wait early. */
void py_poller_poll(py_poller *poller, int64_t timeout_ns, py_poll_result *out);

/* Closes the fds and drops what was posted. Later posts are refused. Idempotent; nobody polls. */
void py_poller_close(py_poller *poller);
bool py_poller_closed(py_poller *poller);

/* Events posted and not yet taken; any thread. */
size_t py_poller_pending(py_poller *poller);

/* The argument of its ops, NULL for native ones. Loop's thread. */
void *py_poller_ops_arg(py_poller *poller);

/* CLOCK_MONOTONIC in ns, what loop.time() shows in seconds. */
int64_t py_poller_now(void);

#endif
