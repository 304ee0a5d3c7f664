/* See port.h. It waits for nothing but poll(), except that what it has for the emulator it writes at once: the emulator
 * always reads. What the emulator has for the program it takes at once, too, so that a consumed output is heard of
 * while the program does not read; how much that can be is up to the emulator, which hears what was written. */
#include "port.h"

#include "find.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif
#include <sys/wait.h>
#include <unistd.h>

#define HEAD 5
#define CHUNK 65536
#define WINDOW (4 * CHUNK) /* output that the emulator has not consumed */

static pid_t child;
static bool exited;
static int sigchld[2];
static struct {
    int fd; /* -1: closed */
    uint32_t unread;
} outputs[2];
static int input = -1;
static bool input_ends;
static char *pending; /* for the input */
static size_t pending_len, pending_cap;
static unsigned char command[HEAD + CHUNK];
static size_t command_len;

static void make_pipe(int fds[2])
{
    if (pipe(fds) < 0 || fcntl(fds[0], F_SETFD, FD_CLOEXEC) < 0 || fcntl(fds[1], F_SETFD, FD_CLOEXEC) < 0) {
        erlpy_fail("cannot make a pipe: %s", strerror(errno));
    }
}

static void put32(unsigned char *to, uint32_t n)
{
    to[0] = (unsigned char)(n >> 24);
    to[1] = (unsigned char)(n >> 16);
    to[2] = (unsigned char)(n >> 8);
    to[3] = (unsigned char)n;
}

static uint32_t get32(const unsigned char *from)
{
    return (uint32_t)from[0] << 24 | (uint32_t)from[1] << 16 | (uint32_t)from[2] << 8 | from[3];
}

static void leave(void)
{
    if (child > 0 && !exited) {
        kill(child, SIGKILL);
    }
    _exit(0);
}

/* `packet` has room for the head before its `size` bytes. */
static void send_packet(unsigned char *packet, unsigned tag, size_t size)
{
    size_t sent = 0;

    put32(packet, (uint32_t)size + 1);
    packet[4] = (unsigned char)tag;
    while (sent < HEAD + size) {
        ssize_t n = write(1, packet + sent, HEAD + size - sent);

        if (n > 0) {
            sent += (size_t)n;
        } else if (errno != EINTR) {
            leave();
        }
    }
}

static void send_number(unsigned tag, uint32_t number)
{
    unsigned char packet[HEAD + 4];

    put32(packet + HEAD, number);
    send_packet(packet, tag, 4);
}

static void on_sigchld(int sig)
{
    int before = errno;
    ssize_t n = write(sigchld[1], "", 1);

    (void)sig;
    (void)n;
    errno = before;
}

/* Its errno goes through `report`. */
static void run_program(const char *dir, char **argv, int report, int stdin_fd, int stdout_fd, int stderr_fd)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* should somebody kill us */
#endif
    signal(SIGPIPE, SIG_DFL);
    signal(SIGCHLD, SIG_DFL);
    if ((*dir == '\0' || chdir(dir) == 0) && dup2(stdin_fd, 0) >= 0 && dup2(stdout_fd, 1) >= 0 &&
        dup2(stderr_fd, 2) >= 0) {
        execvp(argv[0], argv);
    }
    ssize_t n = write(report, &errno, sizeof errno);
    (void)n;
    _exit(127);
}

static void start(const char *dir, char **argv, bool merge)
{
    int in[2], out[2], err[2] = {-1, -1}, report[2], why = 0;

    make_pipe(in);
    make_pipe(out);
    make_pipe(report);
    if (!merge) {
        make_pipe(err);
    }
    child = fork();
    if (child == 0) {
        run_program(dir, argv, report[1], in[0], out[1], merge ? out[1] : err[1]);
    }
    why = child < 0 ? errno : 0;
    close(in[0]);
    close(out[1]);
    close(err[1]);
    close(report[1]);
    if (why == 0) {
        while (read(report[0], &why, sizeof why) < 0 && errno == EINTR) {
        }
    }
    close(report[0]);
    if (why != 0) {
        send_number(ERLPY_PORT_FAILED, (uint32_t)why);
        _exit(0);
    }
    fcntl(in[1], F_SETFL, O_NONBLOCK);
    input = in[1];
    outputs[0].fd = out[0];
    outputs[1].fd = err[0];
    send_number(ERLPY_PORT_STARTED, (uint32_t)child);
}

/* ---- to the program ---- */

static void close_input(void)
{
    close(input);
    input = -1;
    pending_len = 0;
}

static void write_input(void)
{
    ssize_t n = pending_len == 0 ? 0 : write(input, pending, pending_len);

    if (n > 0) {
        pending_len -= (size_t)n;
        memmove(pending, pending + n, pending_len);
        send_number(ERLPY_PORT_WRITTEN, (uint32_t)n);
    }
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        send_number(ERLPY_PORT_WRITTEN, 0);
        close_input();
    } else if (pending_len == 0 && input_ends) {
        close_input();
    }
}

static void add_input(const unsigned char *data, size_t size)
{
    if (input < 0) {
        return;
    }
    if (pending_len + size > pending_cap) {
        pending_cap = 2 * (pending_len + size);
        pending = realloc(pending, pending_cap);
        if (pending == NULL) {
            erlpy_fail("out of memory");
        }
    }
    memcpy(pending + pending_len, data, size);
    pending_len += size;
    write_input();
}

/* ---- from the emulator ---- */

static void close_output(unsigned which)
{
    if (outputs[which].fd >= 0) {
        close(outputs[which].fd);
        outputs[which].fd = -1;
    }
}

static void run_command(const unsigned char *data, size_t size)
{
    unsigned which = size > 1 ? data[1] - 1u : 2;

    switch (data[0]) {
    case ERLPY_PORT_WRITE:
        add_input(data + 1, size - 1);
        break;
    case ERLPY_PORT_WRITE_EOF:
        input_ends = true;
        if (input >= 0) {
            write_input();
        }
        break;
    case ERLPY_PORT_TAKEN:
        if (size == 6 && which < 2) {
            outputs[which].unread -= get32(data + 2);
        }
        break;
    case ERLPY_PORT_READ_CLOSED:
        if (which < 2) {
            close_output(which);
        }
        break;
    case ERLPY_PORT_SIGNAL:
        if (size == 2 && !exited) {
            kill(child, data[1]);
        }
        break;
    }
}

static void read_commands(void)
{
    ssize_t n = read(0, command + command_len, sizeof command - command_len);
    size_t at = 0;

    if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) {
        leave();
    }
    command_len += n > 0 ? (size_t)n : 0;
    while (command_len - at > 4) {
        uint32_t size = get32(command + at);

        if (size == 0 || size > CHUNK + 1) {
            leave();
        }
        if (command_len - at < 4 + (size_t)size) {
            break;
        }
        run_command(command + at + 4, size);
        at += 4 + size;
    }
    command_len -= at;
    memmove(command, command + at, command_len);
}

/* ---- from the program ---- */

static void read_output(unsigned which)
{
    static unsigned char packet[HEAD + CHUNK];
    ssize_t n = read(outputs[which].fd, packet + HEAD, CHUNK);

    if (n < 0 && errno == EINTR) {
        return;
    }
    if (n <= 0) {
        close_output(which);
        n = 0;
    }
    outputs[which].unread += (uint32_t)n;
    send_packet(packet, ERLPY_PORT_STDOUT + which, (size_t)n);
}

static void reap(void)
{
    char bytes[64];
    int status;

    while (read(sigchld[0], bytes, sizeof bytes) > 0) {
    }
    if (!exited && waitpid(child, &status, WNOHANG) == child) {
        exited = true;
        send_number(ERLPY_PORT_EXITED, (uint32_t)(WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status)));
    }
}

void erlpy_port(char **argv)
{
    struct sigaction action = {.sa_handler = on_sigchld, .sa_flags = SA_RESTART | SA_NOCLDSTOP};

    if (argv[1] == NULL || argv[2] == NULL || argv[3] == NULL) {
        erlpy_fail("a flag, a directory and a program are wanted");
    }
    make_pipe(sigchld);
    fcntl(sigchld[0], F_SETFL, O_NONBLOCK);
    fcntl(sigchld[1], F_SETFL, O_NONBLOCK);
    sigaction(SIGCHLD, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    start(argv[2], argv + 3, argv[1][0] == '1');
    for (;;) { /* until the port is closed: a command that finds us gone would end it with what is still to be read */
        struct pollfd fds[] = {
            {.fd = 0, .events = POLLIN},
            {.fd = sigchld[0], .events = POLLIN},
            {.fd = input, .events = pending_len > 0 ? POLLOUT : 0},
            {.fd = outputs[0].unread < WINDOW ? outputs[0].fd : -1, .events = POLLIN},
            {.fd = outputs[1].unread < WINDOW ? outputs[1].fd : -1, .events = POLLIN},
        };

        if (poll(fds, sizeof fds / sizeof *fds, -1) <= 0) {
            continue;
        }
        for (unsigned i = 0; i < 2; i++) {
            if (fds[3 + i].revents != 0) {
                read_output(i);
            }
        }
        if (fds[1].revents != 0) {
            reap();
        }
        if (fds[2].revents & (POLLERR | POLLHUP) && pending_len == 0) { /* the program reads no more */
            send_number(ERLPY_PORT_WRITTEN, 0);
            close_input();
        } else if (fds[2].revents != 0) {
            write_input();
        }
        if (fds[0].revents != 0) {
            read_commands();
        }
    }
}
