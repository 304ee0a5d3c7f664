/* The inside of a py_loop, shared by the loop*.c files and nobody else. */
#ifndef ERLANG_PYTHON_LOOP_INTERNAL_H
#define ERLANG_PYTHON_LOOP_INTERNAL_H

#include "loop.h"
#include "loop_handle.h"
#include "state.h"

/* The ready queue: a ring of handles, the Python object behind loop._ready. */
typedef struct {
    PyObject_HEAD PyObject **items;
    size_t head, len, cap; /* cap is a power of two, or 0 */
} py_ready;

/* One armed timer. `seq` keeps timers of one moment in the order they were armed. */
typedef struct {
    double when;
    uint64_t seq;
    PyObject *handle;
} py_timer;

/* Who waits for an fd. */
typedef struct {
    PyObject *reader, *writer; /* handles or NULL */
} py_fd;

enum { PY_LOOP_FREE_HANDLES = 1024 };

struct py_loop {
    PyObject_HEAD py_state *st;
    py_poller *poller; /* NULL: runs on a selector of the caller's, by asyncio's own code */
    py_ready *ready;
    py_timer *timers; /* 4-ary heap */
    size_t timers_len, timers_cap;
    uint64_t timer_seq;
    Py_ssize_t timers_cancelled;
    py_fd *fds;
    size_t fds_cap, fds_used;
    py_loop_handle *free_handles[PY_LOOP_FREE_HANDLES];
    size_t nfree;
    py_event *events; /* taken from the poller and not yet run */
    PyObject *selector, *own_selector, *task_factory, *weakrefs;
    PyObject *kwargs, *eager_kwargs, *driver_kwargs; /* of asyncio's classes: loop_tasks.c */
    /* For threads that wait until a handle's callback has ended. */
    pthread_mutex_t ended_lock;
    pthread_cond_t ended;
    _Atomic int ended_waiters;
    Py_ssize_t steps; /* how often it has polled; for who watches it */
    char waiting;     /* it is in poll */
    unsigned long thread_id;
    double clock_resolution;
    bool native; /* selector is own_selector: fds and waiting are the poller's */
    bool has_thread, closed, stopping, debug;
    bool own_time, own_run_once, own_call_at; /* not overridden by a subclass */
};

#define PY_LOOP_OBJ(loop) ((PyObject *)(loop))

/* loop_ready.c */
py_ready *py_ready_new(py_state *st);
int py_ready_push(py_ready *ready, PyObject *handle); /* its own reference */
PyObject *py_ready_pop(py_ready *ready);              /* the caller's reference; NULL when empty */
size_t py_ready_len(py_ready *ready);
void py_ready_drop(py_ready *ready);
int py_ready_init(PyObject *module, py_state *st);

/* loop_timers.c: the heap. */
int py_timers_push(py_loop *loop, double when, PyObject *handle);
PyObject *py_timers_pop(py_loop *loop);       /* the caller's reference */
int py_timers_purge(py_loop *loop);           /* takes out cancelled ones: at the head; all when they are many */
int py_timers_due(py_loop *loop, double end); /* moves what is due before `end` into the ready queue */
void py_timers_drop(py_loop *loop);
PyObject *py_timers_list(py_loop *loop);

/* loop_fds.c */
extern PyMethodDef py_loop_fd_methods[];
void py_fds_drop(py_loop *loop);
int py_fds_traverse(py_loop *loop, visitproc visit, void *arg);

/* loop_tasks.c */
extern PyMethodDef py_loop_task_methods[];
void py_loop_drop_kwargs(py_loop *loop);

/* loop_calls.c: call_soon and its family. */
extern PyMethodDef py_loop_call_methods[];
PyObject *py_loop_call_at_meth(PyObject *self, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
/* A handle for a callback: ours, or in debug mode asyncio's. */
PyObject *py_loop_make_handle(py_loop *loop, PyObject *callback, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *context);
/* The method of the class behind LoopBase in the method resolution order: asyncio's own. */
PyObject *py_loop_call_super(py_loop *loop, const char *name, PyObject *const *args, Py_ssize_t nargs,
                             PyObject *kwnames);

/* loop_run.c */
double py_loop_time(void);
int py_loop_now(py_loop *loop, double *now); /* loop.time(), also when a subclass overrides it */
int py_loop_run_once(py_loop *loop);
void py_loop_look_up_overrides(py_loop *loop);
PyObject *py_loop_time_meth(PyObject *self, PyObject *ignored);
PyObject *py_loop_run_once_meth(PyObject *self, PyObject *ignored);
PyObject *py_loop_run_until_stopped_meth(PyObject *self, PyObject *ignored);

/* loop.c */
int py_loop_check_closed(py_loop *loop);

#endif
