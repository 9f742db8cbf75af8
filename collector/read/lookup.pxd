# Names of numbers, to be found without the GIL.

from libc.stdint cimport uint32_t, uint64_t

from collector.decode.msg cimport Out
from collector.read.unfold cimport Slice


cdef class Names:
    cdef uint64_t *keys
    cdef uint64_t *places      # offset << 24 | size, + 1; 0: free
    cdef uint32_t room, n
    cdef Out text

    cdef int find(self, uint64_t key, Slice *to) noexcept nogil
    cdef int is_at(self, uint64_t place, bytes encoded)
    cdef int grow(self) except -1
    cdef uint32_t slot_of(self, uint64_t key) noexcept nogil
