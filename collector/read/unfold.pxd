# The columns of a block, read natively; the grammar is in collector/archive/columns.py and docs/segment-format.md.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from collector.decode.msg cimport Cursor

# How the values of a column are given.
cdef enum:
    SAME = 0          # one for all
    INDEXED = 1       # a dictionary, and an index for each
    EACH = 2          # one for each


cdef struct Slice:
    const uint8_t *at
    uint32_t size


cdef struct Numbers:
    int how
    uint32_t k                # SAME: 1; INDEXED: of the dictionary; EACH: n
    uint64_t *values          # k of them, extended by their sign
    const uint8_t *index      # INDEXED: n, all below k


cdef struct Strings:
    int how
    uint32_t k
    Slice *values             # SAME, INDEXED: k of them; EACH: n
    const uint8_t *index


cdef struct Chunk:
    uint8_t *data
    size_t size, used
    Chunk *before


cdef class Arena:
    cdef Chunk *chunk
    cdef size_t taken, most   # bytes
    cdef int failed           # no memory, or more was asked for than `most`

    cdef void clear(self) noexcept nogil
    cdef void *take(self, size_t size) noexcept nogil
    cdef Numbers numbers(self, Cursor *c, uint32_t n, uint32_t size, int is_signed) noexcept nogil
    cdef Strings fixed(self, Cursor *c, uint32_t n, uint32_t size) noexcept nogil
    cdef Strings variable(self, Cursor *c, uint32_t n) noexcept nogil
    cdef uint64_t *spread(self, Numbers *of, uint32_t n) noexcept nogil

    cdef void free_chunks(self) noexcept nogil
    cdef int add_chunk(self, size_t size) noexcept nogil
    cdef void planes(self, Cursor *c, Numbers *out, uint32_t n, uint32_t size) noexcept nogil
    cdef void add_up(self, Numbers *out, uint32_t n) noexcept nogil
    cdef void cut(self, Cursor *c, Strings *out, int how, const uint8_t *p, uint32_t k, uint32_t size) noexcept nogil
    cdef const uint8_t *join_planes(self, Cursor *c, uint32_t n, uint32_t size, uint32_t *k) noexcept nogil
    cdef const uint8_t *add_up_bytes(self, const uint8_t *steps, uint32_t k, uint32_t n, uint32_t size) noexcept nogil


cdef inline uint64_t little(const uint8_t *p, uint32_t size) noexcept nogil:
    """A little-endian number of 1 to 8 bytes."""
    cdef uint64_t value = 0
    cdef uint32_t i
    for i in range(size):
        value |= <uint64_t> p[i] << (8 * i)
    return value


cdef inline uint64_t extended(uint64_t value, uint32_t size, int is_signed) noexcept nogil:
    """A number of 1 to 8 bytes, cut to these, and with its sign as one of 8."""
    cdef uint32_t shift = 64 - 8 * size
    if is_signed:
        return <uint64_t> (<long long> (value << shift) >> shift)
    return value << shift >> shift
