/* What the launcher (c_src/erlpy) tells the NIF (c_src/program.c) about the process it was started as, because the
 * emulator changes it: signal dispositions, closed standard descriptors, environment. In the environment variables
 * below, which the program does not see. */
#ifndef ERLPY_HANDOVER_H
#define ERLPY_HANDOVER_H

#include <signal.h>

/* "<closed> <ignored> <mask> <read> <write> <fd>,<fd>,...": bit n of closed: descriptor n was closed; ignored and mask:
 * bit n - 1 for signal n, in hexadecimal; a pipe through which the emulator's short-lived child says its pid; the
 * descriptors above 2 that were handed to us. */
#define ERLPY_STATE "ERLPY_STATE"
#define ERLPY_SELF "ERLPY_SELF" /* the launcher as it was called, absolute */
#define ERLPY_ERTS "ERLPY_ERTS" /* the bin directory of the emulator */
#define ERLPY_SAVED "ERLPY_SAVED_"

/* Variables that the launcher sets for the emulator. One that was set before is kept as ERLPY_SAVED_<name>. */
#define ERLPY_SET_VARIABLES                                                                                            \
    {                                                                                                                  \
        "BINDIR", "ROOTDIR", "EMU", "PROGNAME", "ERL_CRASH_DUMP_SECONDS"                                               \
    }

/* Every other signal is blocked while the emulator starts, so that its threads never take one. This one brings Python
 * to the initial thread. */
#define ERLPY_SIGNAL (SIGRTMAX - 1)

#endif
