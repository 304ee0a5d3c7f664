/* Callbacks into loops. See notice.h. */
#include "notice.h"

#include "interpreter.h"
#include "poller.h"
#include "state.h"

struct py_notice {
    py_event event; /* first: a poller's */
    py_interp_job job;
    py_interp *interp; /* used */
    py_poller *poller; /* kept; NULL: somebody else's loop */
    PyObject *loop, *callback;
};

/* Attached. */
static void notice_free(py_notice *notice)
{
    Py_DECREF(notice->loop);
    Py_DECREF(notice->callback);
    if (notice->poller != NULL) {
        py_poller_release(notice->poller);
    }
    py_interp_unuse(notice->interp);
    enif_free(notice);
}

static int event_run(py_event *event, py_loop *loop)
{
    py_notice *notice = (py_notice *)event;
    PyObject *done = PyObject_CallNoArgs(notice->callback);
    int rc = done == NULL ? py_loop_report(loop, "a callback of Erlang failed") : 0;

    Py_XDECREF(done);
    notice_free(notice);
    return rc;
}

/* Any thread. */
static void event_drop(py_event *event)
{
    py_notice *notice = (py_notice *)event;

    py_interp_drop_later(notice->interp, notice->loop);
    py_interp_drop_later(notice->interp, notice->callback);
    py_poller_release(notice->poller);
    py_interp_unuse(notice->interp);
    enif_free(notice);
}

/* Attached, the janitor. A loop that is closed wants to know nothing. */
static void job_run(py_interp_job *job)
{
    py_notice *notice = (py_notice *)((char *)job - offsetof(py_notice, job));
    PyObject *done = PyObject_CallMethod(notice->loop, "call_soon_threadsafe", "O", notice->callback);

    PyErr_Clear();
    Py_XDECREF(done);
    notice_free(notice);
}

py_notice *py_notice_new(py_state *st, PyObject *loop, PyObject *callback)
{
    py_notice *notice;

    if (st->interp == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "this interpreter was not started from Erlang");
        return NULL;
    }
    notice = enif_alloc(sizeof *notice);
    if (notice == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    memset(notice, 0, sizeof *notice);
    notice->event.run = event_run;
    notice->event.drop = event_drop;
    notice->event.type = PY_EVENT_CALL_RESULT;
    notice->job.run = job_run;
    notice->interp = st->interp;
    py_interp_use(notice->interp);
    if (PyObject_TypeCheck(loop, st->loop.loop_type)) {
        notice->poller = py_loop_poller(py_loop_of(st, loop));
    }
    if (notice->poller != NULL) {
        py_poller_keep(notice->poller);
    }
    notice->loop = Py_NewRef(loop);
    notice->callback = Py_NewRef(callback);
    return notice;
}

void py_notice_fire(py_notice *notice)
{
    if (notice->poller == NULL) {
        py_interp_run_later(notice->interp, &notice->job);
    } else if (!py_poller_post(notice->poller, &notice->event, &notice->event, 1)) {
        event_drop(&notice->event);
    }
}

void py_notice_drop(py_notice *notice) { notice_free(notice); }
