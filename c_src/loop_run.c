/* One step of a loop, and the run until stop(): asyncio's _run_once in C. On the thread that runs the loop, attached;
 * the poller detaches while it waits.
 *
 * A step: drop cancelled timers, wait for what comes first (nothing to wait for when handles are ready), queue what is
 * there (posted events, fds, due timers) and run the handles that are queued by then, not those they queue. */
#include "loop_internal.h"

#include <math.h>
#include <sys/prctl.h>

#define MAX_TIMEOUT (24 * 3600.0) /* asyncio's MAXIMUM_SELECT_TIMEOUT */
#define TIMER_SLACK_NS 1000UL

double py_loop_time(void) { return (double)py_poller_now() / 1e9; }

int py_loop_now(py_loop *loop, double *now)
{
    if (PY_LIKELY(loop->own_time)) {
        *now = py_loop_time();
        return 0;
    }
    PyObject *time = PyObject_CallMethodNoArgs(PY_LOOP_OBJ(loop), loop->st->loop.str_time);
    if (time == NULL)
        return -1;
    *now = PyFloat_AsDouble(time);
    Py_DECREF(time);
    return *now == -1.0 && PyErr_Occurred() ? -1 : 0;
}

/* Seconds until the loop has to go on; negative: whenever something comes. */
static int wait_time(py_loop *loop, double *seconds)
{
    double now;
    *seconds = -1;
    if (py_ready_len(loop->ready) > 0 || loop->stopping || loop->events != NULL) {
        *seconds = 0;
        return 0;
    }
    if (loop->timers_len == 0)
        return 0;
    if (py_loop_now(loop, &now) < 0)
        return -1;
    double left = loop->timers[0].when - now;
    *seconds = left < 0 ? 0 : left > MAX_TIMEOUT ? MAX_TIMEOUT : left;
    return 0;
}

static int run_events(py_loop *loop)
{
    while (loop->events != NULL) {
        py_event *event = loop->events;
        loop->events = event->next;
        if (event->run(event, loop) < 0)
            return -1;
    }
    return 0;
}

static int poll_native(py_loop *loop, double seconds)
{
    py_poll_result result;
    int64_t timeout_ns = seconds < 0 ? -1 : (int64_t)ceil(seconds * 1e9);

    loop->waiting = true;
    py_poller_poll(loop->poller, timeout_ns, &result);
    loop->waiting = false;
    loop->steps++;
    if (loop->events == NULL) {
        loop->events = result.events;
    } else if (result.events != NULL) {
        py_event *last = loop->events;
        while (last->next != NULL)
            last = last->next;
        last->next = result.events;
    }
    for (int i = 0; i < result.nfds; i++) {
        if (py_loop_fd_ready(loop, result.fds[i].fd, result.fds[i].mask) < 0)
            return -1;
    }
    if (timeout_ns != 0 && PyErr_CheckSignals() < 0)
        return -1;
    return run_events(loop);
}

static int poll_selector(py_loop *loop, double seconds)
{
    py_loop_part *part = &loop->st->loop;
    PyObject *timeout = NULL, *list = NULL, *done = NULL;

    if (loop->selector == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_selector");
        return -1;
    }
    if (seconds < 0)
        timeout = Py_NewRef(Py_None);
    else
        timeout = seconds == 0 ? PyLong_FromLong(0) : PyFloat_FromDouble(seconds);
    if (timeout == NULL)
        return -1;
    list = PyObject_CallMethodOneArg(loop->selector, part->str_select, timeout);
    if (list != NULL)
        done = PyObject_CallMethodOneArg(PY_LOOP_OBJ(loop), part->str_process_events, list);
    Py_DECREF(timeout);
    Py_XDECREF(list);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static int call_run(py_loop *loop, PyObject *handle)
{
    PyObject *done = PyObject_CallMethodNoArgs(handle, loop->st->loop.str_run);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    return 0;
}

/* logger.warning('Executing %s took %.3f seconds', ...) when the callback took longer than slow_callback_duration. */
static int warn_if_slow(py_loop *loop, PyObject *handle, double seconds)
{
    PyObject *took = PyFloat_FromDouble(seconds);
    PyObject *limit = PyObject_GetAttrString(PY_LOOP_OBJ(loop), "slow_callback_duration");
    int slow = took == NULL || limit == NULL ? -1 : PyObject_RichCompareBool(took, limit, Py_GE);
    Py_XDECREF(limit);
    if (slow > 0) {
        PyObject *module = PyImport_ImportModule("asyncio.base_events");
        PyObject *text = module == NULL ? NULL : PyObject_CallMethod(module, "_format_handle", "O", handle);
        PyObject *logger = text == NULL ? NULL : PyObject_GetAttrString(module, "logger");
        PyObject *done = logger == NULL ? NULL
                                        : PyObject_CallMethod(logger, "warning", "sOO",
                                                              "Executing %s took %.3f seconds", text, took);
        slow = done == NULL ? -1 : 0;
        Py_XDECREF(module);
        Py_XDECREF(text);
        Py_XDECREF(logger);
        Py_XDECREF(done);
    }
    Py_XDECREF(took);
    return slow;
}

static int run_debug(py_loop *loop, PyObject *handle)
{
    PyObject *self = PY_LOOP_OBJ(loop);
    double before, after;

    if (PyObject_SetAttrString(self, "_current_handle", handle) < 0)
        return -1;
    int rc = py_loop_now(loop, &before);
    if (rc == 0)
        rc = call_run(loop, handle);
    if (rc == 0)
        rc = py_loop_now(loop, &after);
    if (rc == 0)
        rc = warn_if_slow(loop, handle, after - before);
    PyObject *exc = PyErr_GetRaisedException();
    if (PyObject_SetAttrString(self, "_current_handle", Py_None) < 0)
        PyErr_Clear();
    PyErr_SetRaisedException(exc);
    return rc;
}

static int run_one(py_loop *loop, PyObject *handle)
{
    if (PY_LIKELY(!loop->debug && py_loop_handle_is_own(loop, handle)))
        return ((py_loop_handle *)handle)->cancelled ? 0 : py_loop_handle_run((py_loop_handle *)handle);
    int cancelled = py_loop_handle_is_cancelled(loop, handle);
    if (cancelled != 0)
        return cancelled < 0 ? -1 : 0;
    return loop->debug ? run_debug(loop, handle) : call_run(loop, handle);
}

int py_loop_run_once(py_loop *loop)
{
    double seconds, now;

    if (loop->timers_len > 0 && py_timers_purge(loop) < 0)
        return -1;
    if (wait_time(loop, &seconds) < 0)
        return -1;
    if ((loop->native ? poll_native(loop, seconds) : poll_selector(loop, seconds)) < 0)
        return -1;
    if (loop->timers_len > 0) {
        if (py_loop_now(loop, &now) < 0 || py_timers_due(loop, now + loop->clock_resolution) < 0)
            return -1;
    }
    for (size_t n = py_ready_len(loop->ready); n > 0; n--) {
        PyObject *handle = py_ready_pop(loop->ready);
        if (handle == NULL)
            break;
        int rc = run_one(loop, handle);
        Py_DECREF(handle);
        if (rc < 0)
            return -1;
    }
    return 0;
}

/* Is self.<name> still this type's C method? */
static bool is_own(PyObject *self, PyObject *name, PyCFunction function)
{
    PyObject *method = PyObject_GetAttr(self, name);
    bool own = method != NULL && PyCFunction_Check(method) && PyCFunction_GET_FUNCTION(method) == function &&
               PyCFunction_GET_SELF(method) == self;
    Py_XDECREF(method);
    PyErr_Clear();
    return own;
}

void py_loop_look_up_overrides(py_loop *loop)
{
    loop->own_time = is_own(PY_LOOP_OBJ(loop), loop->st->loop.str_time, py_loop_time_meth);
    loop->own_call_at = is_own(PY_LOOP_OBJ(loop), loop->st->loop.str_call_at, _PyCFunction_CAST(py_loop_call_at_meth));
    loop->own_run_once = is_own(PY_LOOP_OBJ(loop), loop->st->loop.str_run_once, py_loop_run_once_meth);
}

PyObject *py_loop_time_meth(PyObject *Py_UNUSED(self), PyObject *Py_UNUSED(ignored))
{
    return PyFloat_FromDouble(py_loop_time());
}

PyObject *py_loop_run_once_meth(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    py_loop_look_up_overrides(loop);
    return py_loop_run_once(loop) < 0 ? NULL : Py_NewRef(Py_None);
}

PyObject *py_loop_run_until_stopped_meth(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    int rc;

    py_loop_look_up_overrides(loop);
    /* Timers of this thread may otherwise be 50 us late. */
    int slack = prctl(PR_GET_TIMERSLACK);
    (void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    do {
        if (PY_LIKELY(loop->own_run_once)) {
            rc = py_loop_run_once(loop);
        } else {
            PyObject *done = PyObject_CallMethodNoArgs(self, loop->st->loop.str_run_once);
            rc = done == NULL ? -1 : 0;
            Py_XDECREF(done);
        }
    } while (rc == 0 && !loop->stopping);
    if (slack > 0)
        (void)prctl(PR_SET_TIMERSLACK, (unsigned long)slack);
    return rc < 0 ? NULL : Py_NewRef(Py_None);
}
