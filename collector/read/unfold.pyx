# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""Decodes the columns of a block natively; collector/archive/columns.py does the same in Python and is the oracle.

Nothing in a column is believed: a length that does not fit fails the cursor, and what a block makes of itself is
bounded by its arena.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from collector.decode.msg cimport Cursor, fail, is_bin, read_array, read_bin, read_uint

cdef enum:
    CHUNK_BYTES = 1 << 20
    DICTIONARY_MOST = 256


cdef class Arena:
    """Memory for the columns of one block, given back all at once.

    Args:
      most: bytes that it gives out between two clear().
    """

    def __cinit__(self, size_t most):
        self.most = most

    def __dealloc__(self):
        self.free_chunks()

    cdef void free_chunks(self) noexcept nogil:
        cdef Chunk *before
        while self.chunk != NULL:
            before = self.chunk.before
            free(self.chunk.data)
            free(self.chunk)
            self.chunk = before

    cdef void clear(self) noexcept nogil:
        """Take back all memory; what was given in several chunks will be one the next time."""
        cdef size_t taken = self.taken
        self.taken = 0
        self.failed = 0
        if self.chunk != NULL and self.chunk.before == NULL:
            self.chunk.used = 0
        else:
            self.free_chunks()
            if taken:
                self.add_chunk(taken)

    cdef int add_chunk(self, size_t size) noexcept nogil:
        cdef Chunk *chunk = <Chunk *> malloc(sizeof(Chunk))
        if chunk == NULL:
            return 0
        chunk.data = <uint8_t *> malloc(size)
        if chunk.data == NULL:
            free(chunk)
            return 0
        chunk.size = size
        chunk.used = 0
        chunk.before = self.chunk
        self.chunk = chunk
        return 1

    cdef void *take(self, size_t size) noexcept nogil:
        """So many bytes, aligned to 8; NULL when there are none."""
        cdef void *p
        size = (size + 15) & ~(<size_t> 7)     # never nothing, so that NULL always is a failure
        if size > self.most - self.taken:
            self.failed = 1
            return NULL
        if self.chunk == NULL or size > self.chunk.size - self.chunk.used:
            if not self.add_chunk(size if size > CHUNK_BYTES else CHUNK_BYTES):
                self.failed = 1
                return NULL
        p = self.chunk.data + self.chunk.used
        self.chunk.used += size
        self.taken += size
        return p

    # ---- integers

    cdef Numbers numbers(self, Cursor *c, uint32_t n, uint32_t size, int is_signed) noexcept nogil:
        """A column of n integers of 1 to 8 bytes; the cursor fails when it is none."""
        cdef Numbers out
        cdef uint32_t parts = read_array(c), form = <uint32_t> read_uint(c), got, i
        cdef const uint8_t *p
        memset(&out, 0, sizeof(out))
        if parts == 2 and form == 0:
            p = read_bin(c, &got)
            out.values = <uint64_t *> self.take(8)
            if got != size:
                fail(c)
            if c.failed or out.values == NULL:
                return out
            out.k = 1
            out.values[0] = extended(little(p, size), size, is_signed)
        elif parts == 3 and form == 2:
            p = read_bin(c, &got)
            out.index = read_bin(c, &i)
            if i != n or got % size or got > DICTIONARY_MOST * size or not indexes_hold(out.index, n, got // size):
                fail(c)
            out.values = <uint64_t *> self.take(8 * DICTIONARY_MOST)
            if c.failed or out.values == NULL:
                return out
            out.how = INDEXED
            out.k = got // size
            for i in range(out.k):
                out.values[i] = extended(little(p + i * size, size), size, is_signed)
        elif parts == 2 and (form == 1 or form == 3):
            self.planes(c, &out, n, size)
            if c.failed or out.values == NULL:
                return out
            if form == 3:
                self.add_up(&out, n)
                if out.values == NULL:
                    return out
            for i in range(out.k):
                out.values[i] = extended(out.values[i], size, is_signed)
        else:
            fail(c)
        return out

    cdef void planes(self, Cursor *c, Numbers *out, uint32_t n, uint32_t size) noexcept nogil:
        """The values that byte planes make: one for all when no plane varies."""
        cdef uint64_t constant = 0
        cdef uint64_t byte
        cdef uint64_t *values
        cdef const uint8_t *plane
        cdef const uint8_t *planes[8]
        cdef uint32_t at, got, i
        cdef int varies = 0
        if read_array(c) != size:
            fail(c)
        for at in range(size):
            planes[at] = NULL
            if is_bin(c):
                planes[at] = read_bin(c, &got)
                varies = 1
                if got != n:
                    fail(c)
            else:
                byte = read_uint(c)
                if byte > 0xFF:
                    fail(c)
                constant |= byte << (8 * at)
        out.how = EACH if varies else SAME
        out.k = n if varies else 1
        if c.failed:
            return
        values = out.values = <uint64_t *> self.take(8 * <size_t> out.k)
        if values == NULL:
            return
        for i in range(out.k):
            values[i] = constant
        for at in range(size):
            plane = planes[at]
            if plane != NULL:
                for i in range(n):
                    values[i] |= <uint64_t> plane[i] << (8 * at)

    cdef void add_up(self, Numbers *out, uint32_t n) noexcept nogil:
        """From differences to values, mod 2^64."""
        cdef uint64_t sum_ = 0
        cdef uint32_t i
        cdef uint64_t step
        if out.how == SAME:
            step = out.values[0]
            out.how = EACH
            out.k = n
            out.values = <uint64_t *> self.take(8 * <size_t> n)
            if out.values == NULL:
                return
            for i in range(n):
                out.values[i] = step
        for i in range(n):
            sum_ += out.values[i]
            out.values[i] = sum_

    cdef uint64_t *spread(self, Numbers *of, uint32_t n) noexcept nogil:
        """A value for each of n; NULL when there is no memory."""
        cdef uint64_t *values
        cdef uint32_t i
        if of.how == EACH or of.values == NULL:
            return of.values
        values = <uint64_t *> self.take(8 * <size_t> n)
        if values == NULL:
            return NULL
        for i in range(n):
            values[i] = of.values[0] if of.how == SAME else of.values[of.index[i]]
        return values

    # ---- bytes

    cdef Strings fixed(self, Cursor *c, uint32_t n, uint32_t size) noexcept nogil:
        """A column of n strings of `size` bytes each."""
        cdef Strings out
        cdef uint32_t parts = read_array(c), form = <uint32_t> read_uint(c), got, i
        cdef const uint8_t *p
        memset(&out, 0, sizeof(out))
        if parts == 2 and form == 0:
            p = read_bin(c, &got)
            if got != size:
                fail(c)
            self.cut(c, &out, SAME, p, 1, size)
        elif parts == 3 and form == 2:
            p = read_bin(c, &got)
            out.index = read_bin(c, &i)
            if size == 0 or i != n or got % size or got > DICTIONARY_MOST * size:
                fail(c)
                return out
            if not indexes_hold(out.index, n, got // size):
                fail(c)
            self.cut(c, &out, INDEXED, p, got // size, size)
        elif parts == 2 and (form == 1 or (form == 3 and size > 0)):
            p = self.join_planes(c, n, size, &got)
            if form == 3 and p != NULL and not c.failed:
                p = self.add_up_bytes(p, got, n, size)
                got = n
            if p != NULL and not c.failed:
                self.cut(c, &out, EACH if got == n else SAME, p, got, size)
        else:
            fail(c)
        return out

    cdef void cut(self, Cursor *c, Strings *out, int how, const uint8_t *p, uint32_t k, uint32_t size) noexcept nogil:
        """k strings of one size that stand one after the other."""
        cdef uint32_t i
        out.how = how
        out.k = k
        if c.failed:
            return
        out.values = <Slice *> self.take(k * sizeof(Slice))
        if out.values == NULL:
            return
        for i in range(k):
            out.values[i].at = p + <size_t> i * size
            out.values[i].size = size

    cdef const uint8_t *join_planes(self, Cursor *c, uint32_t n, uint32_t size, uint32_t *k) noexcept nogil:
        """n strings of `size` bytes, one after the other; or, when no plane varies, one."""
        cdef Cursor start = c[0]
        cdef uint8_t *joined
        cdef const uint8_t *plane
        cdef uint32_t at, i, got
        cdef uint64_t byte
        cdef int varies = 0
        k[0] = 0
        if read_array(c) != size:
            fail(c)
            return NULL
        for at in range(size):
            if is_bin(c):
                read_bin(c, &got)
                varies = 1
                if got != n:
                    fail(c)
            elif read_uint(c) > 0xFF:
                fail(c)
            if c.failed:
                return NULL
        k[0] = n if varies else 1
        joined = <uint8_t *> self.take(<size_t> k[0] * size)
        if joined == NULL:
            return NULL
        read_array(&start)
        for at in range(size):
            if is_bin(&start):
                plane = read_bin(&start, &got)
                for i in range(n):
                    joined[<size_t> i * size + at] = plane[i]
            else:
                byte = read_uint(&start)
                for i in range(k[0]):
                    joined[<size_t> i * size + at] = <uint8_t> byte
        return joined

    cdef const uint8_t *add_up_bytes(self, const uint8_t *steps, uint32_t k, uint32_t n, uint32_t size) noexcept nogil:
        """Running sums of n differences (all alike when k is 1), each a little-endian number of any size."""
        cdef uint8_t *sums = <uint8_t *> self.take(<size_t> n * size)
        cdef uint32_t i, at, carry
        cdef const uint8_t *step
        if sums == NULL:
            return NULL
        for i in range(n):
            step = steps + (<size_t> i * size if k == n else 0)
            carry = 0
            for at in range(size):
                carry += step[at]
                if i:
                    carry += sums[<size_t> (i - 1) * size + at]
                sums[<size_t> i * size + at] = <uint8_t> carry
                carry >>= 8
        return sums

    cdef Strings variable(self, Cursor *c, uint32_t n) noexcept nogil:
        """A column of n strings of any length."""
        cdef Strings out
        cdef Numbers lengths
        cdef uint32_t parts = read_array(c), form = <uint32_t> read_uint(c), i, got, length
        cdef size_t at
        cdef const uint8_t *p
        memset(&out, 0, sizeof(out))
        if parts == 2 and form == 0:
            p = read_bin(c, &got)
            self.cut(c, &out, SAME, p, 1, got)
        elif parts == 3 and form == 4:
            out.how = INDEXED
            out.k = read_array(c)
            if out.k > DICTIONARY_MOST:
                fail(c)
            out.values = <Slice *> self.take(DICTIONARY_MOST * sizeof(Slice))
            if c.failed or out.values == NULL:
                return out
            for i in range(out.k):
                out.values[i].at = read_bin(c, &out.values[i].size)
            out.index = read_bin(c, &got)
            if got != n or not indexes_hold(out.index, n, out.k):
                fail(c)
        elif parts == 3 and form == 5:
            lengths = self.numbers(c, n, 4, 0)
            p = read_bin(c, &got)
            if c.failed or lengths.values == NULL:
                return out
            out.how = EACH
            out.k = n
            out.values = <Slice *> self.take(n * sizeof(Slice))
            if out.values == NULL:
                return out
            at = 0
            for i in range(n):
                if lengths.how == EACH:
                    length = <uint32_t> lengths.values[i]
                else:
                    length = <uint32_t> lengths.values[0 if lengths.how == SAME else lengths.index[i]]
                if length > got - at:
                    fail(c)
                    return out
                out.values[i].at = p + at
                out.values[i].size = length
                at += length
            if at != got:
                fail(c)
        else:
            fail(c)
        return out


cdef int indexes_hold(const uint8_t *index, uint32_t n, uint32_t k) noexcept nogil:
    """Whether all of n indexes point into a dictionary of k."""
    cdef uint32_t i
    cdef uint8_t most = 0
    if n == 0 or k >= DICTIONARY_MOST:
        return 1
    for i in range(n):
        if index[i] > most:
            most = index[i]
    return most < k
