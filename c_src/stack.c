/* The bounds of each thread's stack, asked once. Thread-local, no lock. */
#include "stack.h"

#define RESERVE (64 * 1024)

static _Thread_local uintptr_t low; /* the lowest address that may be used; 1 where it is not known */

static uintptr_t find_low(void)
{
    uintptr_t bottom = 0;

#if defined(__APPLE__)
    bottom = (uintptr_t)pthread_get_stackaddr_np(pthread_self()) - pthread_get_stacksize_np(pthread_self());
#elif defined(__linux__)
    pthread_attr_t attr;
    void *address;
    size_t size;

    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        if (pthread_attr_getstack(&attr, &address, &size) == 0)
            bottom = (uintptr_t)address;
        pthread_attr_destroy(&attr);
    }
#endif
    return bottom == 0 ? 1 : bottom + RESERVE;
}

bool py_stack_is_short(void)
{
    if (PY_UNLIKELY(low == 0))
        low = find_low();
    return (uintptr_t)__builtin_frame_address(0) < low;
}
