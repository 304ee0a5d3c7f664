/* Integers of more than 64 bits: SMALL_BIG_EXT and LARGE_BIG_EXT hold sign and magnitude, little endian, which is what
 * int.to_bytes gives. No state; attached. */
#include "bigint.h"

enum { ETF_VERSION = 131, ETF_SMALL_BIG = 110, ETF_LARGE_BIG = 111 };

PyObject *py_bigint_from_term(ErlNifEnv *env, ERL_NIF_TERM term)
{
    ErlNifBinary etf;
    const unsigned char *digits;
    size_t n;
    int sign;

    if (!enif_term_to_binary(env, term, &etf))
        return PyErr_NoMemory();
    if (etf.size > 4 && etf.data[1] == ETF_SMALL_BIG) {
        n = etf.data[2];
        sign = etf.data[3];
        digits = etf.data + 4;
    } else {
        n = (size_t)etf.data[2] << 24 | (size_t)etf.data[3] << 16 | (size_t)etf.data[4] << 8 | etf.data[5];
        sign = etf.data[6];
        digits = etf.data + 7;
    }
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *result = PyLong_FromUnsignedNativeBytes(digits, n, Py_ASNATIVEBYTES_LITTLE_ENDIAN);
#else
    PyObject *result = _PyLong_FromByteArray(digits, n, 1, 0);
#endif
    enif_release_binary(&etf);
    if (sign && result != NULL)
        Py_SETREF(result, PyNumber_Negative(result));
    return result;
}

/* The bytes that the magnitude needs, or -1. `magnitude` is not negative. */
static Py_ssize_t magnitude_size(PyObject *magnitude)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_AsNativeBytes(magnitude, NULL, 0, Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER);
#else
    size_t bits = _PyLong_NumBits(magnitude);
    return bits == (size_t)-1 && PyErr_Occurred() ? -1 : (Py_ssize_t)(bits / 8 + 1);
#endif
}

static int write_magnitude(PyObject *magnitude, unsigned char *digits, Py_ssize_t n)
{
#if PY_VERSION_HEX >= 0x030D0000
    return PyLong_AsNativeBytes(magnitude, digits, n,
                                Py_ASNATIVEBYTES_LITTLE_ENDIAN | Py_ASNATIVEBYTES_UNSIGNED_BUFFER) < 0
               ? -1
               : 0;
#else
    return _PyLong_AsByteArray((PyLongObject *)magnitude, digits, (size_t)n, 1, 0);
#endif
}

int py_bigint_to_term(ErlNifEnv *env, PyObject *obj, ERL_NIF_TERM *out)
{
    PyObject *magnitude = PyLong_Type.tp_as_number->nb_absolute(obj);
    unsigned char small[4 + 255], *etf = small;
    size_t head = 4;
    Py_ssize_t n;
    int result = -1;

    if (magnitude == NULL || (n = magnitude_size(magnitude)) < 0)
        goto done;
    if (n > UINT32_MAX / 2) {
        PyErr_SetString(PyExc_OverflowError, "int too large for an Erlang integer");
        goto done;
    }
    if (n > 255) {
        head = 7;
        if ((etf = enif_alloc(head + (size_t)n)) == NULL) {
            PyErr_NoMemory();
            goto done;
        }
    }
    if (write_magnitude(magnitude, etf + head, n) < 0)
        goto done;
    etf[0] = ETF_VERSION;
    if (head == 4) {
        etf[1] = ETF_SMALL_BIG;
        etf[2] = (unsigned char)n;
    } else {
        etf[1] = ETF_LARGE_BIG;
        for (int i = 0; i < 4; i++)
            etf[2 + i] = (unsigned char)(n >> (24 - 8 * i));
    }
#if PY_VERSION_HEX >= 0x030E0000
    etf[head - 1] = (unsigned char)PyLong_IsNegative(obj);
#else
    etf[head - 1] = _PyLong_Sign(obj) < 0;
#endif
    if (enif_binary_to_term(env, etf, head + (size_t)n, out, 0) == 0)
        PyErr_SetString(PyExc_OverflowError, "int too large for an Erlang integer");
    else
        result = 0;
done:
    if (etf != NULL && etf != small)
        enif_free(etf);
    Py_XDECREF(magnitude);
    return result;
}
