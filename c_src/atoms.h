/* Atoms that C code compares with or sends, made once at load. Add a line here and it exists as py_atoms.NAME.
 * A(c_name, "text"). Read-only after load: any thread. */
#ifndef ERLANG_PYTHON_ATOMS_H
#define ERLANG_PYTHON_ATOMS_H

#include "common.h"

#define PY_ATOMS(A)                                                                                                    \
    A(ok, "ok")                                                                                                        \
    A(error, "error")                                                                                                  \
    A(true_, "true")                                                                                                   \
    A(false_, "false")                                                                                                 \
    A(none, "none")                                                                                                    \
    A(nil, "nil")                                                                                                      \
    A(undefined, "undefined")                                                                                          \
    A(nan, "nan")                                                                                                      \
    A(infinity, "infinity")                                                                                            \
    A(neg_infinity, "neg_infinity")                                                                                    \
    A(bytes, "bytes")                                                                                                  \
    A(py_ref, "py_ref")                                                                                                \
    A(py_far, "py_far")                                                                                                \
    A(message, "message")                                                                                              \
    A(class_, "class")                                                                                                 \
    A(module, "module")                                                                                                \
    A(traceback, "traceback")                                                                                          \
    A(file, "file")                                                                                                    \
    A(line, "line")                                                                                                    \
    A(function, "function")                                                                                            \
    A(text, "text")                                                                                                    \
    A(notes, "notes")                                                                                                  \
    A(cause, "cause")                                                                                                  \
    A(context, "context")                                                                                              \
    A(exceptions, "exceptions")                                                                                        \
    A(timeout, "timeout")                                                                                              \
    A(abandoned, "abandoned")                                                                                          \
    A(cancelled, "cancelled")                                                                                          \
    A(interrupted, "interrupted")                                                                                      \
    A(overloaded, "overloaded")                                                                                        \
    A(noproc, "noproc")                                                                                                \
    A(open, "open")                                                                                                    \
    A(sending, "sending")                                                                                              \
    A(stopped, "stopped")                                                                                              \
    A(main, "__main__")                                                                                                \
    A(main_, "main")                                                                                                   \
    A(thread, "thread")                                                                                                \
    A(interpreter, "interpreter")                                                                                      \
    A(buffer, "buffer")                                                                                                \
    A(Exception, "Exception")                                                                                          \
    A(qualname, "qualname")                                                                                            \
    A(omitted, "omitted")                                                                                              \
    A(offset, "offset")                                                                                                \
    A(syntax, "syntax")                                                                                                \
    A(py_datetime, "py_datetime")                                                                                      \
    A(py_date, "py_date")                                                                                              \
    A(py_time, "py_time")                                                                                              \
    A(py_timedelta, "py_timedelta")                                                                                    \
    A(py_decimal, "py_decimal")                                                                                        \
    A(py_uuid, "py_uuid")                                                                                              \
    A(py_complex, "py_complex")                                                                                        \
    A(py_fraction, "py_fraction")                                                                                      \
    A(py_enum, "py_enum")                                                                                              \
    A(py_path, "py_path")                                                                                              \
    A(posix, "posix")                                                                                                  \
    A(zone, "zone")                                                                                                    \
    A(windows, "windows")                                                                                              \
    A(call, "call")                                                                                                    \
    A(py_call, "py_call")                                                                                              \
    A(py_send, "py_send")                                                                                              \
    A(py_kill, "py_kill")                                                                                              \
    A(py_channel, "py_channel")                                                                                        \
    A(closed, "closed")                                                                                                \
    A(wait, "wait")                                                                                                    \
    A(again, "again")                                                                                                  \
    A(deadlock, "deadlock")                                                                                            \
    A(py_chain, "py_chain")                                                                                            \
    A(apply, "apply")                                                                                                  \
    A(exit_, "exit")                                                                                                   \
    A(reason, "reason")                                                                                                \
    A(erlang, "erlang")                                                                                                \
    A(stacktrace, "stacktrace")                                                                                        \
    A(internal, "internal")                                                                                            \
    A(not_started, "not_started")                                                                                      \
    A(system_limit, "system_limit")                                                                                    \
    A(stop, "stop")                                                                                                    \
    A(gather_failed, "gather_failed")                                                                                  \
    A(py_stream, "py_stream")                                                                                          \
    A(data, "data")                                                                                                    \
    A(owner, "owner")                                                                                                  \
    A(other, "other")                                                                                                  \
    A(start, "start")                                                                                                  \
    A(py_fd, "py_fd")                                                                                                  \
    A(py_arm, "py_arm")                                                                                                \
    A(py_timer, "py_timer")                                                                                            \
    A(done, "done")

typedef struct {
#define PY_ATOM_FIELD(name, text) ERL_NIF_TERM name;
    PY_ATOMS(PY_ATOM_FIELD)
#undef PY_ATOM_FIELD
} py_atom_table;

extern py_atom_table py_atoms;

void py_atoms_init(ErlNifEnv *env);

/* The atom for `text` if it exists already, else an atom made under the operator's quota (default 10,000 over the
 * life of the VM). Returns false when the quota is spent. Any thread. */
bool py_atoms_make(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out);
void py_atoms_set_quota(uint64_t quota);
uint64_t py_atoms_made(void);

/* Only an atom that exists; false when there is none. */
bool py_atoms_existing(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out);

/* An atom for an exception's class: at most 1024 distinct new ones over the life of the VM, then false. */
bool py_atoms_make_class(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out);

#endif
