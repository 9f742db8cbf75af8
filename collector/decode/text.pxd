# The batch of a text pipe.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from collector.decode.ring cimport Batch
from collector.decode.text_forms cimport Head, Seen
from collector.decode.text_plan cimport Name, TextPlan

cdef enum:
    FOLLOWS = 1024            # a power of two
    EXAMPLE_BYTES = 160


cdef class TextBatch(Batch):
    cdef TextPlan text_plan
    cdef uint8_t *text        # the last TEXT_BYTES of pages: what was read and not parsed yet
    cdef uint32_t at, end     # of it
    cdef Seen seen
    cdef Head ahead           # of the line at ahead_at
    cdef int ahead_kind
    cdef uint32_t ahead_at    # NOT_AHEAD: no line was looked at
    cdef uint32_t recent      # ids of the last few names, each over the one before
    cdef Name *follows[FOLLOWS]   # {recent, less its upper bits: the name that came then}
    cdef uint64_t last_time   # of a line that had one: for those that have none
    # What the last parse stopped at, for UNKNOWN: an id without a plan, or a name without an id.
    cdef uint32_t miss_id, miss_key, miss_size
    cdef const uint8_t *miss_name
    cdef readonly uint64_t total_unparsed   # entries that are lines kept as they are
    cdef uint8_t example[EXAMPLE_BYTES]     # the beginning of the last of them
    cdef uint32_t example_size
    cdef readonly uint64_t total_folded     # entries of the ring that share a line with the one before
    cdef int fill_text(self, int fd, size_t max_bytes, int *fault) noexcept nogil
    cdef int parse(self, int is_final) noexcept nogil
    cdef int look(self, uint32_t at) noexcept nogil
    cdef int take_event(self, int is_final) noexcept nogil
    cdef const uint8_t *behind_more(self, const uint8_t *p, const uint8_t *stop, int kind, int is_final) noexcept nogil
    cdef int add_gap_of(self, const uint8_t *p) noexcept nogil
    cdef int put_context(self, const Head *head, const uint8_t **end) noexcept nogil
    cdef int put_named(self, const Name *name, const Head *head, const uint8_t *text, const uint8_t **end) noexcept nogil
    cdef int put_graph(self, const uint8_t *start, const uint8_t *stop) noexcept nogil
    cdef int put_unparsed(self, const uint8_t *start, const uint8_t *stop) noexcept nogil
    cdef int put(self, const Name *name, const Head *head, const uint8_t *p, const uint8_t *stop) noexcept nogil
