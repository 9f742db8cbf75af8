# Structures shared by the page walk (ring.pyx) and the column encoder (columns.pyx).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from collector.decode.memory cimport load32

# Classes of columns; the numbers are those of plan.py.
cdef enum:
    CLASS_INT = 0
    CLASS_CHARS = 1
    CLASS_DATA_LOC = 2
    CLASS_REL_LOC = 3
    CLASS_TAIL = 4

# Bits of Batch.where beside the payload's offset: buffers stay below 1 GiB.
cdef enum:
    WHERE_LONG = 0x80000000   # the length is in the word before the payload (type_len 0)
    WHERE_RAW = 0x40000000    # the record is kept as bytes
    WHERE_MASK = 0x3FFFFFFF


cdef struct ColumnSpec:
    uint32_t cls
    uint32_t offset       # bytes from the record's start
    uint32_t size         # bytes of an element; of all for CLASS_CHARS
    uint32_t count        # elements of an array
    int is_address        # holds addresses that a segment should be able to name


cdef struct EventSpec:
    uint32_t event_id
    int is_known          # 0: every record is kept raw
    uint32_t fixed_size   # bytes up to the end of the last field of fixed size
    uint32_t n_columns
    ColumnSpec *columns
    uint32_t n_locs       # columns of class DATA_LOC or REL_LOC
    uint32_t *locs        # their indices in columns


cdef struct Gap:
    uint32_t at           # index of the entry that follows
    int known             # whether lost was stored by the kernel
    uint64_t lost


cdef struct Layout:
    uint32_t subbuf_size, data_offset, data_size, ts_offset, commit_offset, long_size
    uint32_t type_offset, flags_offset, preempt_offset, pid_offset, head_size
    int head_is_usual         # type, flags, preempt count, pid in one little-endian word
    uint32_t entries_per_page # at the most
    EventSpec *specs[65536]   # by event id; NULL: not met yet


cdef class Plan:
    cdef Layout *layout
    cdef readonly dict events         # {event id: EventPlan}


cdef class Batch:
    cdef readonly Plan plan
    cdef Layout *layout               # the plan's
    cdef uint8_t *pages               # page-aligned, pages_size bytes
    cdef size_t pages_size
    cdef size_t used                  # bytes of pages that entries refer to
    cdef uint32_t capacity            # entries
    cdef uint32_t n
    cdef uint64_t *ts                 # [capacity]
    cdef uint64_t *head               # [capacity] type | flags << 16 | preempt << 24 | pid << 32
    cdef uint32_t *where              # [capacity] payload's offset in pages, and the WHERE_ bits
    cdef Gap *gaps
    cdef uint32_t n_gaps, gaps_capacity
    cdef int pending                  # the page at `used` was read but not walked
    cdef uint32_t unknown_id          # what stopped the last walk
    cdef uint64_t batch_bytes         # header and data of the pages in this batch
    cdef size_t fault_at              # the malformed page that the last fill() found, in pages
    cdef readonly uint32_t fault_offset  # bytes from that page's start to what can't be
    # Totals since the batch was made; the reader takes differences.
    cdef readonly uint64_t total_entries, total_skipped, total_pages, total_bytes
    cdef int fill_nogil(self, int fd, size_t max_bytes, size_t *taken, int *fault) noexcept nogil
    cdef int walk(self, uint8_t *page) noexcept nogil
    cdef int take_gap(self, uint8_t *page, uint32_t commit, uint32_t length) noexcept nogil
    cdef int add_gap(self, int known, uint64_t lost) noexcept nogil


cdef inline uint32_t record_size(const uint8_t *payload, uint32_t where) noexcept nogil:
    """Bytes of the record at payload, from its event header."""
    if where & WHERE_LONG:
        return load32(payload - 4) - 4
    return (load32(payload - 4) & 31) * 4
