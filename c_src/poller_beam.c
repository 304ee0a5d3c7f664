/* fds and timers kept by the emulator. See poller_beam.h. */
#include "poller_beam.h"

#include "atoms.h"
#include "poller_nif.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct { /* a resource */
    pthread_mutex_t lock;
    int fd; /* the duplicate */
    uint64_t id;
    bool selected, stopped; /* under lock */
    _Atomic bool closed;
} watch;

typedef struct {
    watch *watch;         /* kept; NULL: nobody waits */
    unsigned want, armed; /* PY_POLL_*; armed: asked for and not yet come */
    bool dirty;           /* on the list */
} slot;

struct py_beam {
    py_event_port *port; /* kept; NULL while there is none */
    slot *slots;         /* by fd */
    size_t cap;
    int *dirty; /* fds to be armed before the next wait */
    size_t dirty_len, dirty_cap;
    uint64_t generation;
    uint64_t timer;   /* the number of the armed timer; 0: none */
    int64_t timer_at; /* when it comes */
    uint64_t timers_so_far;
};

static ErlNifResourceType *watch_rtype;

/* ---- watches ---- */

static void watch_close(watch *w)
{
    if (!atomic_exchange(&w->closed, true)) {
        close(w->fd);
    }
}

static void watch_dtor(ErlNifEnv *env, void *obj)
{
    watch *w = obj;

    (void)env;
    pthread_mutex_lock(&w->lock); /* after the last to use it, also for those who do not see the references counted */
    pthread_mutex_unlock(&w->lock);
    watch_close(w);
    pthread_mutex_destroy(&w->lock);
}

static void watch_stop(ErlNifEnv *env, void *obj, ErlNifEvent event, int is_direct_call)
{
    (void)env;
    (void)event;
    (void)is_direct_call;
    watch_close(obj);
}

int py_beam_load(ErlNifEnv *env)
{
    ErlNifResourceTypeInit init = {.dtor = watch_dtor, .stop = watch_stop};

    watch_rtype = enif_open_resource_type_x(env, "py_watch", &init, ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER, NULL);
    return watch_rtype == NULL ? -1 : 0;
}

/* NULL with errno set. */
static watch *watch_new(py_beam *beam, int fd)
{
    struct stat st;
    watch *w;
    int copy;

    if (fstat(fd, &st) < 0) {
        return NULL;
    }
    if (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) { /* as epoll says of them */
        errno = EPERM;
        return NULL;
    }
    if ((copy = fcntl(fd, F_DUPFD_CLOEXEC, 0)) < 0) {
        return NULL;
    }
    w = enif_alloc_resource(watch_rtype, sizeof *w);
    memset(w, 0, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_lock(&w->lock); /* before the event process, which learns of it by a message */
    w->fd = copy;
    w->id = PY_BEAM_EVENT | (++beam->generation & 0x7fffffff) << 32 | (uint32_t)fd;
    pthread_mutex_unlock(&w->lock);
    return w;
}

static void watch_end(watch *w)
{
    ErlNifEnv *env = enif_alloc_env();

    pthread_mutex_lock(&w->lock);
    w->stopped = true;
    if (!w->selected || py_forked || enif_select(env, w->fd, ERL_NIF_SELECT_STOP, w, NULL, py_atoms.undefined) < 0) {
        watch_close(w);
    }
    pthread_mutex_unlock(&w->lock);
    enif_free_env(env);
    enif_release_resource(w);
}

static void arm(ErlNifEnv *env, watch *w, unsigned mask)
{
    static const struct {
        unsigned bit, type;
        enum ErlNifSelectFlags flag;
    } modes[] = {{PY_POLL_READ, PY_EVENT_READ, ERL_NIF_SELECT_READ},
                 {PY_POLL_WRITE, PY_EVENT_WRITE, ERL_NIF_SELECT_WRITE}};
    size_t i;

    pthread_mutex_lock(&w->lock);
    for (i = 0; i < 2 && !w->stopped; i++) {
        if (mask & modes[i].bit) {
            ERL_NIF_TERM message =
                enif_make_tuple3(env, py_atoms.py_fd, enif_make_uint(env, modes[i].type), enif_make_uint64(env, w->id));

            if (enif_select_x(env, w->fd, modes[i].flag | ERL_NIF_SELECT_CUSTOM_MSG, w, NULL, message, NULL) >= 0) {
                w->selected = true;
            }
        }
    }
    pthread_mutex_unlock(&w->lock);
}

PY_NIF(beam_arm_nif)
{ /* ([{Watch, Mask}]) */
    ERL_NIF_TERM head, tail = argv[0];
    const ERL_NIF_TERM *pair;
    unsigned mask;
    int arity;
    watch *w;

    (void)argc;
    while (enif_get_list_cell(env, tail, &head, &tail)) {
        if (!enif_get_tuple(env, head, &arity, &pair) || arity != 2 ||
            !enif_get_resource(env, pair[0], watch_rtype, (void **)&w) || !enif_get_uint(env, pair[1], &mask)) {
            return enif_make_badarg(env);
        }
        arm(env, w, mask);
    }
    return py_atoms.ok;
}

/* ---- the loop's side ---- */

py_beam *py_beam_new(void) { return calloc(1, sizeof(py_beam)); }

static slot *slot_of(py_beam *beam, int fd)
{
    if ((size_t)fd >= beam->cap) {
        size_t cap = beam->cap == 0 ? 64 : beam->cap;

        while (cap <= (size_t)fd) {
            cap *= 2;
        }
        slot *slots = realloc(beam->slots, cap * sizeof *slots);
        if (slots == NULL) {
            return NULL;
        }
        memset(slots + beam->cap, 0, (cap - beam->cap) * sizeof *slots);
        beam->slots = slots;
        beam->cap = cap;
    }
    return &beam->slots[fd];
}

static int mark_dirty(py_beam *beam, int fd)
{
    if (beam->slots[fd].dirty) {
        return 0;
    }
    if (beam->dirty_len == beam->dirty_cap) {
        size_t cap = beam->dirty_cap == 0 ? 64 : 2 * beam->dirty_cap;
        int *grown = realloc(beam->dirty, cap * sizeof *grown);

        if (grown == NULL) {
            return ENOMEM;
        }
        beam->dirty = grown;
        beam->dirty_cap = cap;
    }
    beam->slots[fd].dirty = true;
    beam->dirty[beam->dirty_len++] = fd;
    return 0;
}

static int beam_ctl(void *arg, int fd, unsigned old, unsigned mask)
{
    py_beam *beam = arg;
    slot *s = slot_of(beam, fd);

    if (s == NULL) {
        return ENOMEM;
    }
    if (s->watch != NULL && (mask == 0 || old == 0)) { /* old 0: the fd is another one than that of the watch */
        watch_end(s->watch);
        s->watch = NULL;
        s->armed = 0;
    }
    s->want = mask;
    if (mask == 0) {
        return 0;
    }
    if (s->watch == NULL && (s->watch = watch_new(beam, fd)) == NULL) {
        s->want = 0;
        return errno;
    }
    return mask & ~s->armed ? mark_dirty(beam, fd) : 0;
}

static void send_armings(py_beam *beam)
{
    ErlNifEnv *env = enif_alloc_env();
    ERL_NIF_TERM list = enif_make_list(env, 0);
    size_t i;

    for (i = 0; i < beam->dirty_len; i++) {
        slot *s = &beam->slots[beam->dirty[i]];
        unsigned mask = s->want & ~s->armed;

        s->dirty = false;
        if (s->watch != NULL && mask != 0) {
            s->armed |= mask;
            list = enif_make_list_cell(
                env, enif_make_tuple2(env, enif_make_resource(env, s->watch), enif_make_uint(env, mask)), list);
        }
    }
    beam->dirty_len = 0;
    if (!enif_is_empty_list(env, list)) {
        py_event_port_send(beam->port, env, enif_make_tuple2(env, py_atoms.py_arm, list));
    }
    enif_free_env(env);
}

static void send_timer(py_beam *beam, int64_t timeout_ns)
{
    int64_t at = py_poller_now() + timeout_ns;
    ErlNifEnv *env;

    if (beam->timer != 0 && beam->timer_at <= at) {
        return; /* one comes before; then this is looked at again */
    }
    beam->timer = ++beam->timers_so_far;
    beam->timer_at = at;
    env = enif_alloc_env();
    py_event_port_send(beam->port, env,
                       enif_make_tuple3(env, py_atoms.py_timer, enif_make_int64(env, (timeout_ns + 999999) / 1000000),
                                        enif_make_uint64(env, PY_BEAM_EVENT | beam->timer)));
    enif_free_env(env);
}

static int64_t beam_prepare(void *arg, int64_t timeout_ns)
{
    py_beam *beam = arg;

    if (beam->port == NULL) {
        return timeout_ns;
    }
    if (beam->dirty_len > 0) {
        send_armings(beam);
    }
    if (timeout_ns > 0) {
        send_timer(beam, timeout_ns);
        return -1;
    }
    return timeout_ns;
}

static void beam_close(void *arg)
{
    py_beam *beam = arg;
    size_t fd;

    for (fd = 0; fd < beam->cap; fd++) {
        if (beam->slots[fd].watch != NULL) {
            watch_end(beam->slots[fd].watch);
        }
    }
    if (beam->port != NULL) {
        py_event_port_release(beam->port);
    }
    free(beam->slots);
    free(beam->dirty);
    free(beam);
}

const py_poller_ops py_beam_ops = {.ctl = beam_ctl, .prepare = beam_prepare, .close = beam_close};

void py_beam_use(py_beam *beam, py_event_port *port)
{
    size_t fd;

    if (beam->port != NULL) {
        py_event_port_release(beam->port);
    }
    if (port != NULL) {
        py_event_port_keep(port);
    }
    beam->port = port;
    beam->timer = 0;
    for (fd = 0; fd < beam->cap; fd++) { /* a process that died took what was armed with it */
        beam->slots[fd].armed = 0;
        if (beam->slots[fd].watch != NULL) {
            (void)mark_dirty(beam, (int)fd);
        }
    }
}

int py_beam_event(py_beam *beam, py_loop *loop, unsigned type, uint64_t id)
{
    unsigned bit = type == PY_EVENT_READ ? PY_POLL_READ : PY_POLL_WRITE;
    size_t fd = (uint32_t)id;
    slot *s;

    if (type == PY_EVENT_TIMER) {
        beam->timer = (id & ~PY_BEAM_EVENT) == beam->timer ? 0 : beam->timer;
        return 0;
    }
    if (fd >= beam->cap || (s = &beam->slots[fd])->watch == NULL || s->watch->id != id) {
        return 0;
    }
    s->armed &= ~bit;
    if (mark_dirty(beam, (int)fd) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    return s->want & bit ? py_loop_fd_ready(loop, (int)fd, bit) : 0;
}
