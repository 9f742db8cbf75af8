# Numbers at any address, in the machine's order. memcpy of a fixed size is one instruction; a cast pointer would be that
# too, but undefined where it is not aligned.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy


cdef inline uint16_t load16(const uint8_t *p) noexcept nogil:
    cdef uint16_t value
    memcpy(&value, p, sizeof(value))
    return value


cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    cdef uint32_t value
    memcpy(&value, p, sizeof(value))
    return value


cdef inline uint64_t load64(const uint8_t *p) noexcept nogil:
    cdef uint64_t value
    memcpy(&value, p, sizeof(value))
    return value


cdef inline void store32(uint8_t *p, uint32_t value) noexcept nogil:
    memcpy(p, &value, sizeof(value))


cdef inline void store64(uint8_t *p, uint64_t value) noexcept nogil:
    memcpy(p, &value, sizeof(value))
