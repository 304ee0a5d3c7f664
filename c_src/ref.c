/* Refs to Python objects, and the pins under binaries that share memory with one. Both are resources that own one
 * reference to an object and one count of its interpreter. Destructors run on any scheduler: they never attach. */
#include "state.h"

#include "atoms.h"
#include "far.h"
#include "interpreter.h"

typedef struct {
    py_interp *interp; /* NULL until the resource is complete */
    PyObject *obj;
    _Atomic long *counter;
} hold;

static ErlNifResourceType *ref_rtype, *pin_rtype;
static _Atomic long live_refs, live_pins;

static void hold_dtor(ErlNifEnv *env, void *resource)
{
    hold *held = resource;
    if (held->interp == NULL)
        return;
    py_interp_drop_later(held->interp, held->obj);
    py_interp_unuse(held->interp);
    atomic_fetch_sub(held->counter, 1);
}

int py_ref_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = hold_dtor};
    ErlNifResourceFlags flags = ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER;

    ref_rtype = enif_open_resource_type_x(env, "py_ref", &init, flags, NULL);
    pin_rtype = enif_open_resource_type_x(env, "py_pin", &init, flags, NULL);
    return ref_rtype != NULL && pin_rtype != NULL ? 0 : -1;
}

long py_ref_count(void) { return atomic_load(&live_refs); }
long py_ref_pin_count(void) { return atomic_load(&live_pins); }

int py_ref_init(PyObject *module, py_state *st)
{
    st->ref.module_name = PyUnicode_InternFromString("__module__");
    st->ref.main_name = PyUnicode_InternFromString("__main__");
    st->ref.builtins_name = PyUnicode_InternFromString("builtins");
    return st->ref.module_name != NULL && st->ref.main_name != NULL && st->ref.builtins_name != NULL ? 0 : -1;
}

int py_ref_traverse(py_state *st, visitproc visit, void *arg) { return 0; }

void py_ref_clear(py_state *st)
{
    Py_CLEAR(st->ref.module_name);
    Py_CLEAR(st->ref.main_name);
    Py_CLEAR(st->ref.builtins_name);
}

static hold *hold_new(py_state *st, ErlNifResourceType *rtype, PyObject *obj, _Atomic long *counter)
{
    hold *held = enif_alloc_resource(rtype, sizeof *held);
    py_interp_use(st->interp);
    held->interp = st->interp;
    held->obj = Py_NewRef(obj);
    held->counter = counter;
    atomic_fetch_add(counter, 1);
    return held;
}

/* "module.Name" of the object's type, bare for builtins and __main__. A type that hides its names is "object". */
static PyObject *type_name(py_state *st, PyTypeObject *type)
{
    PyObject *name = PyType_GetQualName(type), *module = NULL, *full = NULL;

    if (name != NULL && PyObject_GetOptionalAttr((PyObject *)type, st->ref.module_name, &module) > 0 &&
        PyUnicode_Check(module) && PyUnicode_Compare(module, st->ref.builtins_name) != 0 &&
        PyUnicode_Compare(module, st->ref.main_name) != 0)
        full = PyUnicode_FromFormat("%U.%U", module, name);
    else
        full = Py_XNewRef(name);
    Py_XDECREF(name);
    Py_XDECREF(module);
    PyErr_Clear();
    return full;
}

int py_ref_make(py_state *st, ErlNifEnv *env, PyObject *obj, ERL_NIF_TERM *out)
{
    Py_ssize_t size = 6;
    const char *text;
    ERL_NIF_TERM binary, resource;

    if (PY_UNLIKELY(st->interp == NULL)) {
        PyErr_Format(PyExc_RuntimeError, "no reference to a %.100s: this interpreter was not started from Erlang",
                     Py_TYPE(obj)->tp_name);
        return -1;
    }
    PyObject *name = type_name(st, Py_TYPE(obj));
    text = name == NULL ? NULL : PyUnicode_AsUTF8AndSize(name, &size);

    if (text == NULL) {
        PyErr_Clear();
        text = "object";
        size = 6;
    }
    memcpy(enif_make_new_binary(env, (size_t)size, &binary), text, (size_t)size);
    Py_XDECREF(name);
    hold *held = hold_new(st, ref_rtype, obj, &live_refs);
    resource = enif_make_resource(env, held);
    enif_release_resource(held);
    *out = enif_make_tuple3(env, py_atoms.py_ref, binary, resource);
    return 0;
}

py_interp *py_ref_interp(ErlNifEnv *env, ERL_NIF_TERM term)
{
    const ERL_NIF_TERM *elements;
    int arity;
    void *held;

    if (!enif_get_tuple(env, term, &arity, &elements) || arity != 3 || elements[0] != py_atoms.py_ref ||
        !enif_get_resource(env, elements[2], ref_rtype, &held))
        return NULL;
    return ((hold *)held)->interp;
}

PyObject *py_ref_object(py_state *st, ErlNifEnv *env, ERL_NIF_TERM resource)
{
    void *found;

    if (!enif_get_resource(env, resource, ref_rtype, &found)) {
        if (py_far_is(env, resource))
            PyErr_SetString(PyExc_ValueError, "this reference belongs to a context on another node");
        return NULL;
    }
    hold *held = found;
    if (PY_LIKELY(held->interp == st->interp))
        return Py_NewRef(held->obj);
    if (st->interp == NULL) {
        PyErr_SetString(PyExc_ValueError, "this reference belongs to an interpreter that Erlang started");
        return NULL;
    }
    PyErr_Format(PyExc_ValueError,
                 "this reference belongs to Python interpreter %llu (%s)%s and cannot be used in interpreter %llu (%s)",
                 (unsigned long long)held->interp->id, held->interp->label,
                 atomic_load(&held->interp->alive) ? "" : ", which has ended,", (unsigned long long)st->interp->id,
                 st->interp->label);
    return NULL;
}

ERL_NIF_TERM py_ref_binary(py_state *st, ErlNifEnv *env, PyObject *owner, const void *data, size_t size)
{
    ERL_NIF_TERM binary;

    if (PY_UNLIKELY(st->interp == NULL)) {
        memcpy(enif_make_new_binary(env, size, &binary), data, size);
        return binary;
    }
    hold *held = hold_new(st, pin_rtype, owner, &live_pins);
    binary = enif_make_resource_binary(env, held, data, size);
    enif_release_resource(held);
    return binary;
}
