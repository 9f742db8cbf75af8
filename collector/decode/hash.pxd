# Hashing for tables in memory: fast, and of no use against somebody who wants collisions.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from collector.decode.memory cimport load32, load64


cdef inline uint64_t scatter(uint64_t value) noexcept nogil:
    """A number spread over the upper bits: by 2^64 over the golden ratio, Knuth's multiplicative hashing."""
    return value * <uint64_t> 0x9E3779B97F4A7C15


cdef inline uint64_t stir(uint64_t h, uint64_t word) noexcept nogil:
    h = scatter(h ^ word)
    return h ^ h >> 29


cdef inline uint64_t hash_bytes(const uint8_t *p, uint32_t size, uint64_t seed) noexcept nogil:
    """The hash of some bytes; its upper bits are the good ones.

    Two lanes of 8 bytes, for a multiplication has to wait for the one before; the last words overlap.
    """
    cdef uint64_t a = scatter(seed << 32 ^ size), b = a, last = 0
    cdef uint32_t at = 0
    while at + 16 <= size:
        a = stir(a, load64(p + at))
        b = stir(b, load64(p + at + 8))
        at += 16
    if size >= 16:
        if at < size:
            a = stir(a, load64(p + size - 16))
            b = stir(b, load64(p + size - 8))
        return scatter(stir(a, scatter(b)))
    if size >= 8:
        return scatter(stir(stir(a, load64(p)), load64(p + size - 8)))
    if size >= 4:
        return scatter(stir(a, <uint64_t> load32(p) << 32 | load32(p + size - 4)))
    while at < size:
        last = last << 8 | p[at]
        at += 1
    return scatter(stir(a, last))
