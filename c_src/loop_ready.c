/* The ready queue: a ring of handles that grows, never shrinks while in use. As a Python object it is what loop._ready
 * shows: enough of a deque for debuggers and for code that looks into loops. Any attached thread: call_soon_threadsafe
 * pushes from others while the loop pops; without a GIL the object's own lock guards the ring. */
#include "compat.h"
#include "loop_internal.h"

py_ready *py_ready_new(py_state *st)
{
    py_ready *ready = PyObject_GC_New(py_ready, st->loop.ready_type);
    if (ready == NULL)
        return NULL;
    ready->items = NULL;
    ready->head = ready->len = ready->cap = 0;
    PyObject_GC_Track(ready);
    return ready;
}

static int grow(py_ready *ready)
{
    size_t cap = ready->cap == 0 ? 64 : 2 * ready->cap;
    PyObject **items = PyMem_New(PyObject *, cap);
    if (items == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t i = 0; i < ready->len; i++)
        items[i] = ready->items[(ready->head + i) & (ready->cap - 1)];
    PyMem_Free(ready->items);
    ready->items = items;
    ready->head = 0;
    ready->cap = cap;
    return 0;
}

int py_ready_push(py_ready *ready, PyObject *handle)
{
    int rc = 0;
    Py_BEGIN_CRITICAL_SECTION(ready);
    if (PY_UNLIKELY(ready->len == ready->cap))
        rc = grow(ready);
    if (PY_LIKELY(rc == 0)) {
        ready->items[(ready->head + ready->len) & (ready->cap - 1)] = Py_NewRef(handle);
        ready->len++;
    }
    Py_END_CRITICAL_SECTION();
    return rc;
}

size_t py_ready_len(py_ready *ready)
{
    size_t len;
    Py_BEGIN_CRITICAL_SECTION(ready);
    len = ready->len;
    Py_END_CRITICAL_SECTION();
    return len;
}

PyObject *py_ready_pop(py_ready *ready)
{
    PyObject *handle = NULL;
    Py_BEGIN_CRITICAL_SECTION(ready);
    if (ready->len > 0) {
        handle = ready->items[ready->head];
        ready->head = (ready->head + 1) & (ready->cap - 1);
        ready->len--;
    }
    Py_END_CRITICAL_SECTION();
    return handle;
}

/* Empties the queue; a burst's memory goes back. What the handles hold may run code that pushes again. */
void py_ready_drop(py_ready *ready)
{
    PyObject **items;
    size_t head, len, cap;
    Py_BEGIN_CRITICAL_SECTION(ready);
    items = ready->items;
    head = ready->head;
    len = ready->len;
    cap = ready->cap;
    ready->items = NULL;
    ready->head = ready->len = ready->cap = 0;
    Py_END_CRITICAL_SECTION();
    for (size_t i = 0; i < len; i++)
        Py_DECREF(items[(head + i) & (cap - 1)]);
    PyMem_Free(items);
}

static int ready_traverse(PyObject *self, visitproc visit, void *arg)
{
    py_ready *ready = (py_ready *)self;
    Py_VISIT(Py_TYPE(self));
    for (size_t i = 0; i < ready->len; i++)
        Py_VISIT(ready->items[(ready->head + i) & (ready->cap - 1)]);
    return 0;
}

static int ready_clear(PyObject *self)
{
    py_ready_drop((py_ready *)self);
    return 0;
}

static void ready_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    py_ready_drop((py_ready *)self);
    type->tp_free(self);
    Py_DECREF(type);
}

static Py_ssize_t ready_length(PyObject *self) { return (Py_ssize_t)py_ready_len((py_ready *)self); }

static PyObject *ready_item(PyObject *self, Py_ssize_t i)
{
    py_ready *ready = (py_ready *)self;
    PyObject *handle = NULL;
    Py_BEGIN_CRITICAL_SECTION(ready);
    if (i >= 0 && (size_t)i < ready->len)
        handle = Py_NewRef(ready->items[(ready->head + (size_t)i) & (ready->cap - 1)]);
    Py_END_CRITICAL_SECTION();
    if (handle == NULL)
        PyErr_SetString(PyExc_IndexError, "ready queue index out of range");
    return handle;
}

static PyObject *ready_append(PyObject *self, PyObject *handle)
{
    return py_ready_push((py_ready *)self, handle) < 0 ? NULL : Py_NewRef(Py_None);
}

static PyObject *ready_popleft(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *handle = py_ready_pop((py_ready *)self);
    if (handle == NULL)
        PyErr_SetString(PyExc_IndexError, "pop from an empty ready queue");
    return handle;
}

static PyObject *ready_clear_meth(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    py_ready_drop((py_ready *)self);
    Py_RETURN_NONE;
}

static PyObject *ready_repr(PyObject *self)
{
    PyObject *list = PySequence_List(self);
    if (list == NULL)
        return NULL;
    PyObject *repr = PyUnicode_FromFormat("ready(%R)", list);
    Py_DECREF(list);
    return repr;
}

static PyMethodDef ready_methods[] = {
    {"append", ready_append, METH_O, PyDoc_STR("Queue a handle.")},
    {"popleft", ready_popleft, METH_NOARGS, PyDoc_STR("Take the oldest handle.")},
    {"clear", ready_clear_meth, METH_NOARGS, PyDoc_STR("Forget all handles.")},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot ready_slots[] = {
    {Py_tp_doc, (void *)PyDoc_STR("The handles an event loop will run next, oldest first.")},
    {Py_tp_dealloc, ready_dealloc},
    {Py_tp_traverse, ready_traverse},
    {Py_tp_clear, ready_clear},
    {Py_tp_repr, ready_repr},
    {Py_tp_methods, ready_methods},
    {Py_sq_length, ready_length},
    {Py_sq_item, ready_item},
    {0, NULL},
};

static PyType_Spec ready_spec = {
    .name = "_erlang.ReadyQueue",
    .basicsize = sizeof(py_ready),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_SEQUENCE |
             Py_TPFLAGS_IMMUTABLETYPE,
    .slots = ready_slots,
};

int py_ready_init(PyObject *module, py_state *st)
{
    st->loop.ready_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &ready_spec, NULL);
    return st->loop.ready_type == NULL ? -1 : 0;
}
