/* The atom table of load, and the two ways of making an atom at run time: under the operator's quota, and under the
 * bound of class names. Counters are atomic; any thread. Text goes through the external term format, which takes
 * UTF-8 on every OTP from 25 on (enif_make_new_atom_len takes Latin-1 alone before OTP 26). */
#include "atoms.h"

#define MAX_ATOM_BYTES (255 * 4)
#define MAX_CLASS_ATOMS 1024

py_atom_table py_atoms;

static _Atomic uint64_t quota = 10000;
static _Atomic uint64_t made;
static _Atomic uint64_t classes;

void py_atoms_init(ErlNifEnv *env)
{
#define PY_ATOM_MAKE(name, text) py_atoms.name = enif_make_atom(env, text);
    PY_ATOMS(PY_ATOM_MAKE)
#undef PY_ATOM_MAKE
}

void py_atoms_set_quota(uint64_t n) { atomic_store(&quota, n); }

uint64_t py_atoms_made(void) { return atomic_load(&made); }

static bool from_text(ErlNifEnv *env, const char *text, size_t bytes, unsigned options, ERL_NIF_TERM *out)
{
    unsigned char etf[4 + MAX_ATOM_BYTES] = {131};
    size_t head;

    if (bytes > MAX_ATOM_BYTES)
        return false;
    if (bytes < 256) {
        etf[1] = 119; /* SMALL_ATOM_UTF8_EXT */
        etf[2] = (unsigned char)bytes;
        head = 3;
    } else {
        etf[1] = 118; /* ATOM_UTF8_EXT */
        etf[2] = (unsigned char)(bytes >> 8);
        etf[3] = (unsigned char)bytes;
        head = 4;
    }
    memcpy(etf + head, text, bytes);
    return enif_binary_to_term(env, etf, head + bytes, out, options) != 0;
}

bool py_atoms_existing(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out)
{
    return from_text(env, text, bytes, ERL_NIF_BIN2TERM_SAFE, out);
}

static bool make_counted(ErlNifEnv *env, const char *text, size_t bytes, _Atomic uint64_t *counter, uint64_t limit,
                         ERL_NIF_TERM *out)
{
    if (py_atoms_existing(env, text, bytes, out))
        return true;
    uint64_t n = atomic_load(counter);
    do {
        if (n >= limit)
            return false;
    } while (!atomic_compare_exchange_weak(counter, &n, n + 1));
    if (from_text(env, text, bytes, 0, out))
        return true;
    atomic_fetch_sub(counter, 1);
    return false;
}

bool py_atoms_make(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out)
{
    return make_counted(env, text, bytes, &made, atomic_load(&quota), out);
}

bool py_atoms_make_class(ErlNifEnv *env, const char *text, size_t bytes, ERL_NIF_TERM *out)
{
    return make_counted(env, text, bytes, &classes, MAX_CLASS_ATOMS, out);
}
