# Steps over bytes, inlined where they are used. The caller sees to it that what follows the text stops each step.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp

from collector.decode.memory cimport load32, load64


cdef inline int is_digit(uint8_t c) noexcept nogil:
    return <uint8_t> (c - c'0') < 10


cdef inline const uint8_t *behind_blanks(const uint8_t *p) noexcept nogil:
    while p[0] == c' ':
        p += 1
    return p


cdef inline const uint8_t *behind_number(const uint8_t *p, uint64_t *value) noexcept nogil:
    """Behind a decimal number; p itself where there is none."""
    cdef uint64_t v = 0
    while is_digit(p[0]):
        v = v * 10 + (p[0] - c'0')
        p += 1
    value[0] = v
    return p


cdef inline uint64_t number_at(const uint8_t *p) noexcept nogil:
    cdef uint64_t value
    behind_number(p, &value)
    return value


cdef inline const uint8_t *behind_line(const uint8_t *p, const uint8_t *stop, int is_final) noexcept nogil:
    """The start of the next line; NULL where the line does not end here, but may."""
    cdef const uint8_t *end = <const uint8_t *> memchr(p, c'\n', stop - p) if stop > p else NULL
    if end != NULL:
        return end + 1
    return stop if is_final else NULL


cdef inline const uint8_t *find_bytes(const uint8_t *p, const uint8_t *stop, const char *wanted, size_t size) noexcept nogil:
    """The first place of some bytes before stop; NULL when there is none."""
    while stop - p >= <ssize_t> size:
        p = <const uint8_t *> memchr(p, wanted[0], stop - p - size + 1)
        if p == NULL:
            return NULL
        if memcmp(p, wanted, size) == 0:
            return p
        p += 1
    return NULL


cdef inline int are_equal(const uint8_t *a, const uint8_t *b, uint32_t size) noexcept nogil:
    """Whether so many bytes are alike; for some tens of them, where the call of memcmp() costs more than its work."""
    cdef uint32_t at = 0
    if size >= 8:
        while at + 8 <= size:
            if load64(a + at) != load64(b + at):
                return 0
            at += 8
        return load64(a + size - 8) == load64(b + size - 8)
    if size >= 4:
        return load32(a) == load32(b) and load32(a + size - 4) == load32(b + size - 4)
    while at < size:
        if a[at] != b[at]:
            return 0
        at += 1
    return 1
