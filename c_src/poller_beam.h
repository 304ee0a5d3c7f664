/* The `beam` backend of a poller: the emulator watches the fds (enif_select) and keeps the timers (erlang:send_after),
 * and the loop's event process posts both as events. For those who want no fd out of the emulator's sight; `native` is
 * faster.
 *
 * An fd is watched through a duplicate, which only the stop callback closes, so the emulator never waits on a number
 * that Python has closed and the kernel has given again. Each watch has a number of its own; an event of one that is
 * over is dropped. Arming happens in the event process, stopping on the loop's thread, and a lock of the watch keeps a
 * late arming from touching what was stopped. */
#ifndef ERLANG_PYTHON_POLLER_BEAM_H
#define ERLANG_PYTHON_POLLER_BEAM_H

#include "common.h"

#include "loop.h"
#include "poller.h"
#include "poller_nif.h"

typedef struct py_beam py_beam;

int py_beam_load(ErlNifEnv *env);

extern const py_poller_ops py_beam_ops;

/* The argument of the ops; the poller's close frees it. */
py_beam *py_beam_new(void);

/* From now on `port` (kept) leads to the event process; what is watched is armed there. NULL: there is none, the poller
 * keeps the timers and nobody looks at the fds. Loop's thread, attached. */
void py_beam_use(py_beam *beam, py_event_port *port);

/* An event with an id of ours (py_beam_is_event). Loop's thread, attached; 0 or -1 with an exception. */
int py_beam_event(py_beam *beam, py_loop *loop, unsigned type, uint64_t id);

#define PY_BEAM_EVENT (UINT64_C(1) << 63)

/* beam_arm([{Watch, Mask}]) -> ok: the caller gets {py_fd, Type, Id} for each that becomes ready. */
PY_NIF(beam_arm_nif);

#endif
