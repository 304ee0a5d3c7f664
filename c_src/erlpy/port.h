/* The helper between a port of Erlang's and a program, which gives what a port alone has not: standard error apart,
 * standard input that can be closed alone, output that is held back, the signal in the exit status.
 *
 * Called as erlpy_port FLAG DIRECTORY PROGRAM ARG...; with FLAG 1 standard error goes where standard output does, and
 * the program runs in DIRECTORY unless that is empty. Its standard input and output are the port's, {packet, 4}; the
 * first byte of a packet says what it is. When the port is closed, by whomever and be it by the emulator's death, the
 * program is killed. */
#ifndef ERLPY_PORT_H
#define ERLPY_PORT_H

#define ERLPY_PORT "erlpy_port"

/* To the helper. */
enum {
    ERLPY_PORT_WRITE,       /* data for standard input */
    ERLPY_PORT_WRITE_EOF,   /* its end */
    ERLPY_PORT_TAKEN,       /* 1 or 2, and a number of 4 bytes: so much of that output was consumed */
    ERLPY_PORT_READ_CLOSED, /* 1 or 2: nobody reads that output any more */
    ERLPY_PORT_SIGNAL,      /* its number: for the program, if that still runs */
};

/* From the helper. */
enum {
    ERLPY_PORT_STDOUT = 1, /* data; none: it is closed */
    ERLPY_PORT_STDERR,     /* the same */
    ERLPY_PORT_STARTED,    /* 4 bytes: the process id */
    ERLPY_PORT_FAILED,     /* 4 bytes: errno; the program was not started */
    ERLPY_PORT_WRITTEN,    /* 4 bytes: so much went into standard input; 0: the program has closed it */
    ERLPY_PORT_EXITED,     /* 4 bytes, signed: the status, or minus the signal */
};

/* The whole of it; ends the process. One thread. */
void erlpy_port(char **argv) __attribute__((noreturn));

#endif
