/* Two faults of enif_make_map_from_arrays shape this file:
 *
 * - erlang/otp#8208: it crashes the emulator with more than 128 keys on a thread that is no scheduler, before erts
 *   15.2.3 (OTP 27.3). There the first 128 keys are made at once and the others put one by one.
 * - erlang/otp#10975: with more than 32 keys it does not see equal ones and makes a broken map. Callers ask
 *   py_map_duplicate first, unless they know better.
 *
 * No state but the answer of load. Any thread. */
#include "map.h"

#include <stdio.h>

#define AT_ONCE 128

static bool any_size_at_once;

void py_map_load(void)
{
    ErlNifSysInfo info;
    int major = 0, minor = 0, patch = 0;

    enif_system_info(&info, sizeof info);
    if (sscanf(info.erts_version, "%d.%d.%d", &major, &minor, &patch) >= 2)
        any_size_at_once = major > 15 || (major == 15 && (minor > 2 || (minor == 2 && patch >= 3)));
}

bool py_map_is_wasteful(size_t n) { return n > AT_ONCE && !any_size_at_once; }

int py_map_make(ErlNifEnv *env, ERL_NIF_TERM *keys, ERL_NIF_TERM *values, size_t n, ERL_NIF_TERM *out)
{
    size_t at_once = py_map_is_wasteful(n) ? AT_ONCE : n;

    if (!enif_make_map_from_arrays(env, keys, values, at_once, out))
        return 0;
    for (size_t i = at_once; i < n; i++)
        if (!enif_make_map_put(env, *out, keys[i], values[i], out))
            return -1;
    return 1;
}

int py_map_duplicate(const ERL_NIF_TERM *keys, size_t n, size_t *first, size_t *second)
{
    size_t size = 64, found = 0;
    uint32_t *table;

    while (size < 2 * n)
        size *= 2;
    if (n > UINT32_MAX - 1 || (table = enif_alloc(size * sizeof *table)) == NULL)
        return -1;
    memset(table, 0, size * sizeof *table);
    for (size_t i = 0; i < n && found == 0; i++) {
        size_t at = (size_t)enif_hash(ERL_NIF_INTERNAL_HASH, keys[i], 0) & (size - 1);
        for (; table[at] != 0 && found == 0; at = (at + 1) & (size - 1))
            if (enif_is_identical(keys[table[at] - 1], keys[i])) {
                *first = table[at] - 1;
                *second = i;
                found = 1;
            }
        table[at] = (uint32_t)i + 1;
    }
    enif_free(table);
    return (int)found;
}
