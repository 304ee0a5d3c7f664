/* Who waits for which fd: a table indexed by fd, and asyncio's _add_reader family over it. The poller is told of each
 * change at once. A loop on a selector of the caller's leaves all of this to asyncio. Attached, loop's thread. */
#include "loop_internal.h"

#include <errno.h>
#include <fcntl.h>

static inline unsigned mask_of(const py_fd *entry)
{
    return (entry->reader != NULL ? PY_POLL_READ : 0) | (entry->writer != NULL ? PY_POLL_WRITE : 0);
}

static inline PyObject **slot_of(py_fd *entry, unsigned bit)
{
    return bit == PY_POLL_READ ? &entry->reader : &entry->writer;
}

static int raise_errno(int err)
{
    errno = err;
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

/* The fd behind an int or an object with fileno(); -1 with ValueError as selectors raises it. */
static int fd_of(PyObject *obj)
{
    int fd = PyObject_AsFileDescriptor(obj);
    if (fd >= 0 || !PyErr_ExceptionMatches(PyExc_TypeError))
        return fd;
    PyErr_Clear(); /* selectors takes whatever int(obj.fileno()) makes of it */
    PyObject *fileno = PyObject_CallMethod(obj, "fileno", NULL);
    PyObject *number = fileno == NULL ? NULL : PyNumber_Long(fileno);
    Py_XDECREF(fileno);
    if (number == NULL) {
        PyErr_Format(PyExc_ValueError, "Invalid file object: %R", obj);
        return -1;
    }
    fd = PyObject_AsFileDescriptor(number);
    Py_DECREF(number);
    return fd;
}

static py_fd *find(py_loop *loop, int fd) { return (size_t)fd < loop->fds_cap ? &loop->fds[fd] : NULL; }

static py_fd *find_or_grow(py_loop *loop, int fd)
{
    if ((size_t)fd >= loop->fds_cap) {
        size_t cap = loop->fds_cap == 0 ? 64 : loop->fds_cap;
        if (fcntl(fd, F_GETFD) < 0) { /* no table of gigabytes for a number that is no fd */
            raise_errno(errno);
            return NULL;
        }
        while (cap <= (size_t)fd)
            cap *= 2;
        py_fd *fds = PyMem_Resize(loop->fds, py_fd, cap);
        if (fds == NULL) {
            PyErr_NoMemory();
            return NULL;
        }
        memset(fds + loop->fds_cap, 0, (cap - loop->fds_cap) * sizeof *fds);
        loop->fds = fds;
        loop->fds_cap = cap;
    }
    return &loop->fds[fd];
}

static int cancel(PyObject *handle)
{
    PyObject *done = PyObject_CallMethod(handle, "cancel", NULL);
    if (done == NULL)
        return -1;
    Py_DECREF(done);
    return 0;
}

/* Makes `handle` (NULL: nobody) the one that waits for `bit` of fd, and gives back who did before in *prev. */
static int set_waiter(py_loop *loop, int fd, unsigned bit, PyObject *handle, PyObject **prev)
{
    py_fd *entry = find_or_grow(loop, fd);
    *prev = NULL;
    if (entry == NULL)
        return -1;
    unsigned old = mask_of(entry);
    unsigned mask = handle != NULL ? old | bit : old & ~bit;
    if (mask != old) {
        int err = py_poller_ctl(loop->poller, fd, old, mask);
        if (err != 0 && mask != 0) {
            py_fd gone = *entry;
            *entry = (py_fd){NULL, NULL};
            loop->fds_used -= old != 0;
            raise_errno(err);
            PyObject *exc = PyErr_GetRaisedException();
            Py_XDECREF(gone.reader);
            Py_XDECREF(gone.writer);
            PyErr_SetRaisedException(exc);
            return -1;
        }
    }
    PyObject **slot = slot_of(entry, bit);
    *prev = *slot;
    *slot = Py_XNewRef(handle);
    loop->fds_used += (mask != 0) - (old != 0);
    return 0;
}

static PyObject *add(PyObject *self, PyObject *const *args, Py_ssize_t nargs, unsigned bit)
{
    py_loop *loop = (py_loop *)self;
    PyObject *prev;

    if (nargs < 2) {
        PyErr_SetString(PyExc_TypeError, "expected a file descriptor and a callback");
        return NULL;
    }
    if (!loop->native)
        return py_loop_call_super(loop, bit == PY_POLL_READ ? "_add_reader" : "_add_writer", args, nargs, NULL);
    if (py_loop_check_closed(loop) < 0)
        return NULL;
    int fd = fd_of(args[0]);
    if (fd < 0)
        return NULL;
    PyObject *handle = py_loop_make_handle(loop, args[1], args + 2, nargs - 2, NULL);
    if (handle == NULL)
        return NULL;
    if (set_waiter(loop, fd, bit, handle, &prev) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    if (prev != NULL) {
        int rc = cancel(prev);
        Py_DECREF(prev);
        if (rc < 0)
            Py_CLEAR(handle);
    }
    return handle;
}

static int remove_waiter(py_loop *loop, int fd, unsigned bit)
{
    py_fd *entry = find(loop, fd);
    PyObject *prev;
    if (entry == NULL || mask_of(entry) == 0)
        return 0;
    if (set_waiter(loop, fd, bit, NULL, &prev) < 0)
        return -1;
    if (prev == NULL)
        return 0;
    int rc = cancel(prev);
    Py_DECREF(prev);
    return rc < 0 ? -1 : 1;
}

static PyObject *discard(PyObject *self, PyObject *obj, unsigned bit)
{
    py_loop *loop = (py_loop *)self;
    if (!loop->native)
        return py_loop_call_super(loop, bit == PY_POLL_READ ? "_remove_reader" : "_remove_writer", &obj, 1, NULL);
    if (loop->closed)
        Py_RETURN_FALSE;
    int fd = fd_of(obj);
    if (fd < 0)
        return NULL;
    int rc = remove_waiter(loop, fd, bit);
    return rc < 0 ? NULL : PyBool_FromLong(rc);
}

static PyObject *add_reader(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return add(self, args, nargs, PY_POLL_READ);
}

static PyObject *add_writer(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    return add(self, args, nargs, PY_POLL_WRITE);
}

static PyObject *remove_reader(PyObject *self, PyObject *fd) { return discard(self, fd, PY_POLL_READ); }

static PyObject *remove_writer(PyObject *self, PyObject *fd) { return discard(self, fd, PY_POLL_WRITE); }

/* For the selector object: _fd_set(fd, reader, writer). */
static PyObject *fd_set_meth(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    py_loop *loop = (py_loop *)self;
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "_fd_set(fd, reader, writer)");
        return NULL;
    }
    int fd = fd_of(args[0]);
    if (fd < 0)
        return NULL;
    if (loop->poller == NULL || loop->closed) {
        PyErr_SetString(PyExc_RuntimeError, "the selector is closed");
        return NULL;
    }
    for (int i = 0; i < 2; i++) {
        PyObject *prev, *handle = Py_IsNone(args[1 + i]) ? NULL : args[1 + i];
        if (set_waiter(loop, fd, i == 0 ? PY_POLL_READ : PY_POLL_WRITE, handle, &prev) < 0)
            return NULL;
        Py_XDECREF(prev);
    }
    Py_RETURN_NONE;
}

/* For the selector object: {fd: (reader, writer)}. */
static PyObject *fd_map_meth(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_loop *loop = (py_loop *)self;
    PyObject *map = PyDict_New();
    for (size_t fd = 0; map != NULL && fd < loop->fds_cap; fd++) {
        py_fd *entry = &loop->fds[fd];
        if (mask_of(entry) == 0)
            continue;
        PyObject *key = PyLong_FromSize_t(fd);
        PyObject *pair = PyTuple_Pack(2, entry->reader != NULL ? entry->reader : Py_None,
                                      entry->writer != NULL ? entry->writer : Py_None);
        if (key == NULL || pair == NULL || PyDict_SetItem(map, key, pair) < 0)
            Py_CLEAR(map);
        Py_XDECREF(key);
        Py_XDECREF(pair);
    }
    return map;
}

static int queue(py_loop *loop, int fd, unsigned bit)
{
    PyObject *handle = *slot_of(&loop->fds[fd], bit);
    if (handle == NULL)
        return 0;
    int cancelled = py_loop_handle_is_cancelled(loop, handle);
    if (cancelled < 0)
        return -1;
    return cancelled ? remove_waiter(loop, fd, bit) : py_ready_push(loop->ready, handle);
}

int py_loop_fd_ready(py_loop *loop, int fd, unsigned mask)
{
    if (find(loop, fd) == NULL)
        return 0;
    if ((mask & PY_POLL_READ) && queue(loop, fd, PY_POLL_READ) < 0)
        return -1;
    if ((mask & PY_POLL_WRITE) && queue(loop, fd, PY_POLL_WRITE) < 0)
        return -1;
    return 0;
}

void py_fds_drop(py_loop *loop)
{
    py_fd *fds = loop->fds;
    size_t cap = loop->fds_cap;
    loop->fds = NULL;
    loop->fds_cap = loop->fds_used = 0;
    for (size_t i = 0; i < cap; i++) {
        Py_XDECREF(fds[i].reader);
        Py_XDECREF(fds[i].writer);
    }
    PyMem_Free(fds);
}

int py_fds_traverse(py_loop *loop, visitproc visit, void *arg)
{
    for (size_t i = 0; i < loop->fds_cap; i++) {
        Py_VISIT(loop->fds[i].reader);
        Py_VISIT(loop->fds[i].writer);
    }
    return 0;
}

PyMethodDef py_loop_fd_methods[] = {
    {"_add_reader", _PyCFunction_CAST(add_reader), METH_FASTCALL, NULL},
    {"_add_writer", _PyCFunction_CAST(add_writer), METH_FASTCALL, NULL},
    {"_remove_reader", remove_reader, METH_O, NULL},
    {"_remove_writer", remove_writer, METH_O, NULL},
    {"_fd_set", _PyCFunction_CAST(fd_set_meth), METH_FASTCALL, NULL},
    {"_fd_map", fd_map_meth, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};
