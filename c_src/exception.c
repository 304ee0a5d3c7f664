/* Python exceptions as `{Class, #{...}}`. Describing runs foreign code (a __str__, a module's __getattr__), so every
 * step may fail, and a step that fails leaves its part out or short: the description itself never fails. Everything
 * is bounded: frames, length and width of the chain. Attached. */
#include "state.h"

#include "atoms.h"
#include "convert.h"

#define MAX_FRAMES 100     /* of one traceback; the first and the last half are kept */
#define MAX_CHAIN 32       /* levels of cause, context and group */
#define MAX_EXCEPTIONS 256 /* in one description */
#define MAX_NOTES 100
#define MAX_PAIRS 16

typedef struct chain { /* what is being described, so that a chain that meets itself ends */
    PyObject *exc;
    struct chain *up;
    int depth;
} chain;

typedef struct {
    py_state *st;
    ErlNifEnv *env;
    int left; /* exceptions that may still be described */
} describer;

typedef struct {
    ERL_NIF_TERM keys[MAX_PAIRS], values[MAX_PAIRS];
    size_t n;
} pairs;

static void add(pairs *map, ERL_NIF_TERM key, ERL_NIF_TERM value)
{
    map->keys[map->n] = key;
    map->values[map->n++] = value;
}

static ERL_NIF_TERM finish(ErlNifEnv *env, pairs *map)
{
    ERL_NIF_TERM term;
    return enif_make_map_from_arrays(env, map->keys, map->values, map->n, &term) ? term : enif_make_new_map(env);
}

static ERL_NIF_TERM binary(ErlNifEnv *env, const char *text, size_t size)
{
    ERL_NIF_TERM term;
    memcpy(enif_make_new_binary(env, size, &term), text, size);
    return term;
}

/* Takes over `text` (NULL or no str: the fallback) and swallows any exception. Lone surrogates are escaped. */
static ERL_NIF_TERM text_term(ErlNifEnv *env, PyObject *text, const char *fallback)
{
    PyObject *utf8 =
        text != NULL && PyUnicode_Check(text) ? PyUnicode_AsEncodedString(text, "utf-8", "backslashreplace") : NULL;
    ERL_NIF_TERM term = utf8 != NULL ? binary(env, PyBytes_AS_STRING(utf8), (size_t)PyBytes_GET_SIZE(utf8))
                                     : binary(env, fallback, strlen(fallback));
    Py_XDECREF(utf8);
    Py_XDECREF(text);
    PyErr_Clear();
    return term;
}

static PyObject *attribute(PyObject *obj, const char *name)
{
    PyObject *value = NULL;
    if (PyObject_GetOptionalAttrString(obj, name, &value) < 0)
        PyErr_Clear();
    return value;
}

/* The line of source, stripped; NULL when it is not to be had. No exception. */
static PyObject *source_line(py_state *st, PyObject *file, int line, PyFrameObject *frame)
{
    py_exception_part *part = &st->exception;

    PyObject *globals = PyFrame_GetGlobals(frame), *text = NULL;
    if (py_codec_import(st, &part->source_line, "erlang._errors", "source_line") == 0)
        text = PyObject_CallFunction(part->source_line, "OiO", file, line, globals);
    Py_DECREF(globals);
    PyErr_Clear();
    return text;
}

static ERL_NIF_TERM frame_term(describer *d, PyTracebackObject *tb)
{
    PyCodeObject *code = PyFrame_GetCode(tb->tb_frame);
    int line = tb->tb_lineno > 0 ? tb->tb_lineno : PyCode_Addr2Line(code, tb->tb_lasti);
    pairs map = {.n = 0};

    add(&map, py_atoms.file, text_term(d->env, Py_NewRef(code->co_filename), "?"));
    add(&map, py_atoms.line, enif_make_int(d->env, line < 0 ? 0 : line));
    add(&map, py_atoms.function, text_term(d->env, Py_NewRef(code->co_name), "?"));
    add(&map, py_atoms.text, text_term(d->env, source_line(d->st, code->co_filename, line, tb->tb_frame), ""));
    Py_DECREF(code);
    return finish(d->env, &map);
}

/* Stands for the frames in the middle of a long traceback. */
static ERL_NIF_TERM omitted_term(describer *d, size_t n)
{
    pairs map = {.n = 0};
    add(&map, py_atoms.omitted, enif_make_uint64(d->env, n));
    return finish(d->env, &map);
}

/* The oldest frame first, as Python prints them. */
static void add_traceback(describer *d, PyObject *exc, pairs *map)
{
    ERL_NIF_TERM frames[MAX_FRAMES + 1];
    PyObject *traceback = PyException_GetTraceback(exc);
    size_t total = 0, i = 0, n = 0;

    for (PyTracebackObject *tb = (PyTracebackObject *)traceback; tb != NULL; tb = tb->tb_next)
        total++;
    for (PyTracebackObject *tb = (PyTracebackObject *)traceback; tb != NULL && n <= MAX_FRAMES; tb = tb->tb_next, i++) {
        if (total <= MAX_FRAMES || i < MAX_FRAMES / 2 || i >= total - MAX_FRAMES / 2)
            frames[n++] = frame_term(d, tb);
        else if (i == MAX_FRAMES / 2)
            frames[n++] = omitted_term(d, total - MAX_FRAMES);
    }
    add(map, py_atoms.traceback, enif_make_list_from_array(d->env, frames, (unsigned)n));
    Py_XDECREF(traceback);
}

static void add_notes(describer *d, PyObject *exc, pairs *map)
{
    ERL_NIF_TERM list[MAX_NOTES];
    PyObject *notes = attribute(exc, "__notes__");
    size_t n = 0;

    if (notes != NULL && PyList_Check(notes)) {
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(notes) && n < MAX_NOTES; i++) {
            PyObject *note = PyList_GetItemRef(notes, i);
            PyObject *text = note == NULL ? NULL : PyObject_Str(note);
            list[n++] = text_term(d->env, text, "<note that cannot be shown>");
            Py_XDECREF(note);
        }
        if (n > 0)
            add(map, py_atoms.notes, enif_make_list_from_array(d->env, list, (unsigned)n));
    }
    Py_XDECREF(notes);
}

/* Where a SyntaxError is, which is not in its traceback. */
static void add_syntax(describer *d, PyObject *exc, pairs *map)
{
    pairs place = {.n = 0};
    PyObject *line = attribute(exc, "lineno"), *offset = attribute(exc, "offset");

    add(&place, py_atoms.file, text_term(d->env, attribute(exc, "filename"), "<unknown>"));
    add(&place, py_atoms.text, text_term(d->env, attribute(exc, "text"), ""));
    add(&place, py_atoms.line, enif_make_long(d->env, line != NULL && PyLong_Check(line) ? PyLong_AsLong(line) : 0));
    add(&place, py_atoms.offset,
        enif_make_long(d->env, offset != NULL && PyLong_Check(offset) ? PyLong_AsLong(offset) : 0));
    Py_XDECREF(line);
    Py_XDECREF(offset);
    PyErr_Clear();
    add(map, py_atoms.syntax, finish(d->env, &place));
}

static ERL_NIF_TERM describe(describer *d, PyObject *exc, chain *up);

/* Takes over `other`, which may be NULL. */
static void add_linked(describer *d, ERL_NIF_TERM key, PyObject *other, chain *here, pairs *map)
{
    bool again = false;

    for (chain *c = here; other != NULL && c != NULL; c = c->up)
        again = again || c->exc == other;
    if (other != NULL && !again && here->depth < MAX_CHAIN && d->left > 0)
        add(map, key, describe(d, other, here));
    Py_XDECREF(other);
}

static void add_group(describer *d, PyObject *exc, chain *here, pairs *map)
{
    PyObject *members = attribute(exc, "exceptions");
    ERL_NIF_TERM list = enif_make_list(d->env, 0);

    if (members != NULL && PyTuple_Check(members) && here->depth < MAX_CHAIN) {
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(members) && d->left > 0; i++) {
            PyObject *member = PyTuple_GET_ITEM(members, i);
            if (PyExceptionInstance_Check(member))
                list = enif_make_list_cell(d->env, describe(d, member, here), list);
        }
        enif_make_reverse_list(d->env, list, &list);
    }
    Py_XDECREF(members);
    add(map, py_atoms.exceptions, list);
}

static ERL_NIF_TERM class_atom(ErlNifEnv *env, PyObject *name)
{
    Py_ssize_t size;
    const char *text = name == NULL || PyUnicode_GET_LENGTH(name) > 255 ? NULL : PyUnicode_AsUTF8AndSize(name, &size);
    ERL_NIF_TERM atom;

    if (text == NULL || !py_atoms_make_class(env, text, (size_t)size, &atom))
        atom = py_atoms.Exception;
    PyErr_Clear();
    return atom;
}

static ERL_NIF_TERM describe(describer *d, PyObject *exc, chain *up)
{
    ErlNifEnv *env = d->env;
    PyTypeObject *type = Py_TYPE(exc);
    chain here = {exc, up, up == NULL ? 0 : up->depth + 1};
    pairs map = {.n = 0};

    d->left--;
    PyObject *name = PyType_GetName(type), *qualname = PyType_GetQualName(type);
    PyErr_Clear();
    ERL_NIF_TERM class = class_atom(env, name);
    ERL_NIF_TERM class_text = text_term(env, Py_XNewRef(name), type->tp_name);
    PyObject *message = PyObject_Str(exc);

    add(&map, py_atoms.class_, class_text);
    if (name != NULL && qualname != NULL && PyUnicode_Compare(name, qualname) != 0)
        add(&map, py_atoms.qualname, text_term(env, Py_NewRef(qualname), ""));
    Py_XDECREF(name);
    Py_XDECREF(qualname);
    if (message != NULL && PyUnicode_Check(message)) {
        add(&map, py_atoms.message, text_term(env, message, ""));
    } else {
        Py_XDECREF(message);
        PyErr_Clear();
        add(&map, py_atoms.message, class_text);
    }
    add(&map, py_atoms.module, text_term(env, attribute((PyObject *)type, "__module__"), ""));
    add_traceback(d, exc, &map);
    add_notes(d, exc, &map);
    ERL_NIF_TERM erlang;
    if (py_callback_error_term(d->st, exc, env, &erlang))
        add(&map, py_atoms.erlang, erlang);
    if (PyErr_GivenExceptionMatches(exc, PyExc_SyntaxError))
        add_syntax(d, exc, &map);
    if (PyErr_GivenExceptionMatches(exc, PyExc_BaseExceptionGroup))
        add_group(d, exc, &here, &map);
    PyObject *cause = PyException_GetCause(exc);
    if (cause != NULL)
        add_linked(d, py_atoms.cause, cause, &here, &map);
    else if (!((PyBaseExceptionObject *)exc)->suppress_context)
        add_linked(d, py_atoms.context, PyException_GetContext(exc), &here, &map);
    return enif_make_tuple2(env, class, finish(env, &map));
}

ERL_NIF_TERM py_exception_to_term(py_state *st, ErlNifEnv *env, PyObject *exc)
{
    describer d = {st, env, MAX_EXCEPTIONS};
    return describe(&d, exc, NULL);
}

int py_exception_init(PyObject *module, py_state *st) { return 0; }

int py_exception_traverse(py_state *st, visitproc visit, void *arg)
{
    Py_VISIT(st->exception.source_line);
    return 0;
}

void py_exception_clear(py_state *st) { Py_CLEAR(st->exception.source_line); }
