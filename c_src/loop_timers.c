/* The timer heap of a loop: 4-ary, ordered by (when, order of arming). Cancelled timers stay in it until they come to
 * the head or are more than half of it, as in asyncio. Attached. */
#include "loop_internal.h"

enum { MIN_PURGE = 100 }; /* asyncio's _MIN_SCHEDULED_TIMER_HANDLES; its fraction is one half */

static inline bool before(const py_timer *a, const py_timer *b)
{
    return a->when < b->when || (a->when == b->when && a->seq < b->seq);
}

static void sift_up(py_timer *heap, size_t i)
{
    py_timer timer = heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / 4;
        if (!before(&timer, &heap[parent]))
            break;
        heap[i] = heap[parent];
        i = parent;
    }
    heap[i] = timer;
}

static void sift_down(py_timer *heap, size_t len, size_t i)
{
    py_timer timer = heap[i];
    for (;;) {
        size_t first = 4 * i + 1;
        if (first >= len)
            break;
        size_t least = first;
        size_t end = first + 4 < len ? first + 4 : len;
        for (size_t child = first + 1; child < end; child++) {
            if (before(&heap[child], &heap[least]))
                least = child;
        }
        if (!before(&heap[least], &timer))
            break;
        heap[i] = heap[least];
        i = least;
    }
    heap[i] = timer;
}

static int set_scheduled(py_loop *loop, PyObject *handle, bool scheduled)
{
    if (Py_IS_TYPE(handle, loop->st->loop.timer_handle_type)) {
        ((py_loop_handle *)handle)->scheduled = scheduled;
        return 0;
    }
    return PyObject_SetAttr(handle, loop->st->loop.str_scheduled, scheduled ? Py_True : Py_False);
}

int py_timers_push(py_loop *loop, double when, PyObject *handle)
{
    if (set_scheduled(loop, handle, true) < 0)
        return -1;
    if (loop->timers_len == loop->timers_cap) {
        size_t cap = loop->timers_cap == 0 ? 64 : 2 * loop->timers_cap;
        py_timer *timers = PyMem_Resize(loop->timers, py_timer, cap);
        if (timers == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        loop->timers = timers;
        loop->timers_cap = cap;
    }
    loop->timers[loop->timers_len] = (py_timer){.when = when, .seq = loop->timer_seq++, .handle = Py_NewRef(handle)};
    sift_up(loop->timers, loop->timers_len++);
    return 0;
}

PyObject *py_timers_pop(py_loop *loop)
{
    if (loop->timers_len == 0)
        return NULL;
    PyObject *handle = loop->timers[0].handle;
    if (--loop->timers_len > 0) {
        loop->timers[0] = loop->timers[loop->timers_len];
        sift_down(loop->timers, loop->timers_len, 0);
    }
    return handle;
}

static int purge_all(py_loop *loop)
{
    py_timer *timers = loop->timers;
    size_t len = loop->timers_len, kept = 0;
    PyObject *gone = PyList_New(0); /* freed after the heap is whole again: a destructor may arm timers */
    if (gone == NULL)
        return -1;
    for (size_t i = 0; i < len; i++) {
        int cancelled = py_loop_handle_is_cancelled(loop, timers[i].handle);
        if (cancelled > 0)
            cancelled = PyList_Append(gone, timers[i].handle) < 0 ? -1 : 1;
        if (cancelled <= 0) {
            PyErr_Clear(); /* kept; its turn will tell */
            timers[kept++] = timers[i];
        } else {
            Py_DECREF(timers[i].handle);
        }
    }
    loop->timers_len = kept;
    for (size_t i = kept / 4 + 1; i-- > 0;) {
        if (i < kept)
            sift_down(timers, kept, i);
    }
    loop->timers_cancelled = 0;
    int rc = 0;
    for (Py_ssize_t i = 0; rc == 0 && i < PyList_GET_SIZE(gone); i++)
        rc = set_scheduled(loop, PyList_GET_ITEM(gone, i), false);
    Py_DECREF(gone);
    return rc;
}

int py_timers_purge(py_loop *loop)
{
    if (loop->timers_cancelled > 0 && loop->timers_len > MIN_PURGE &&
        2 * (size_t)loop->timers_cancelled > loop->timers_len)
        return purge_all(loop);
    while (loop->timers_len > 0) {
        int cancelled = py_loop_handle_is_cancelled(loop, loop->timers[0].handle);
        if (cancelled <= 0)
            return cancelled;
        loop->timers_cancelled--;
        PyObject *handle = py_timers_pop(loop);
        int rc = set_scheduled(loop, handle, false);
        Py_DECREF(handle);
        if (rc < 0)
            return -1;
    }
    return 0;
}

int py_timers_due(py_loop *loop, double end)
{
    while (loop->timers_len > 0 && loop->timers[0].when < end) {
        PyObject *handle = py_timers_pop(loop);
        int rc = set_scheduled(loop, handle, false);
        if (rc == 0)
            rc = py_ready_push(loop->ready, handle);
        Py_DECREF(handle);
        if (rc < 0)
            return -1;
    }
    return 0;
}

void py_timers_drop(py_loop *loop)
{
    py_timer *timers = loop->timers;
    size_t len = loop->timers_len;
    loop->timers = NULL;
    loop->timers_len = loop->timers_cap = 0;
    loop->timers_cancelled = 0;
    for (size_t i = 0; i < len; i++)
        Py_DECREF(timers[i].handle);
    PyMem_Free(timers);
}

PyObject *py_timers_list(py_loop *loop)
{
    PyObject *list = PyList_New((Py_ssize_t)loop->timers_len);
    for (size_t i = 0; list != NULL && i < loop->timers_len; i++)
        PyList_SET_ITEM(list, (Py_ssize_t)i, Py_NewRef(loop->timers[i].handle));
    return list;
}
