# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""What is said beside a number in a row: a thread's name, a symbol. A hash table with open addressing."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc

from collector.decode.hash cimport scatter
from collector.decode.msg cimport Out, put_bytes
from collector.read.unfold cimport Slice


cdef class Names:
    """What is said beside a number: {number: encoded msgpack}, for look-ups without the GIL."""

    def __dealloc__(self):
        free(self.keys)
        free(self.places)
        free(self.text.data)

    def __len__(self):
        return self.n

    def set(self, number, bytes encoded not None):
        """Give a number (taken mod 2^64) its text, which replaces an earlier one."""
        cdef uint64_t key = <uint64_t> (number & 0xFFFFFFFFFFFFFFFF)
        cdef size_t at = self.text.size
        cdef uint32_t slot
        if PyBytes_GET_SIZE(encoded) >= 1 << 24:
            raise ValueError("a name of 16 MiB")
        if (self.n + 1) * 2 > self.room:
            self.grow()
        slot = self.slot_of(key)
        if self.places[slot] == 0:
            self.keys[slot] = key
            self.n += 1
        elif self.is_at(self.places[slot] - 1, encoded):
            return
        put_bytes(&self.text, <const uint8_t *> PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))
        if self.text.failed:
            raise MemoryError
        self.places[slot] = (<uint64_t> at << 24 | <uint64_t> PyBytes_GET_SIZE(encoded)) + 1

    def get(self, number):
        """The encoded text of a number, None without one."""
        cdef Slice found
        if not self.find(<uint64_t> (number & 0xFFFFFFFFFFFFFFFF), &found):
            return None
        return (<const char *> found.at)[:found.size]

    cdef int is_at(self, uint64_t place, bytes encoded):
        return (<const char *> self.text.data + (place >> 24))[:place & 0xFFFFFF] == encoded

    cdef int grow(self) except -1:
        cdef uint32_t room = self.room * 2 if self.room else 64
        cdef uint64_t *keys = self.keys
        cdef uint64_t *places = self.places
        cdef uint32_t before = self.room, i, slot
        cdef uint64_t *new_keys = <uint64_t *> malloc(room * sizeof(uint64_t))
        cdef uint64_t *new_places = <uint64_t *> calloc(room, sizeof(uint64_t))
        if new_keys == NULL or new_places == NULL:
            free(new_keys)
            free(new_places)
            raise MemoryError
        self.keys, self.places, self.room = new_keys, new_places, room
        for i in range(before):
            if places[i]:
                slot = self.slot_of(keys[i])
                self.keys[slot] = keys[i]
                self.places[slot] = places[i]
        free(keys)
        free(places)
        return 0

    cdef uint32_t slot_of(self, uint64_t key) noexcept nogil:
        """Where the key is, or where it would be."""
        cdef uint32_t mask = self.room - 1
        cdef uint32_t slot = <uint32_t> (scatter(key) >> 32) & mask
        while self.places[slot] and self.keys[slot] != key:
            slot = (slot + 1) & mask
        return slot

    cdef int find(self, uint64_t key, Slice *to) noexcept nogil:
        cdef uint32_t slot
        if self.n == 0:
            return 0
        slot = self.slot_of(key)
        if self.places[slot] == 0:
            return 0
        to.at = self.text.data + ((self.places[slot] - 1) >> 24)
        to.size = <uint32_t> ((self.places[slot] - 1) & 0xFFFFFF)
        return 1
