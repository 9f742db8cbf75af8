# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The page walk: sub-buffers of one CPU in, a batch of entries out, without the GIL.

A batch keeps the sub-buffers as they were read and an index of the entries in
them (time, common head, place). Nothing is copied: the column encoder gathers
the fields straight from the pages.

Reading is read(2), one sub-buffer a call, in a loop that never holds the GIL.
 - readv(2) takes no less CPU a page (1.0 against 1.1 us at 4 KiB, equal at
   64 KiB) and goes on past the page that the writer is on, taking crumbs at the
   price of whole pages; the loop stops at the first page that is not full.
 - The ring is not mapped. TRACE_MMAP_IOCTL_GET_READER makes the kernel walk
   every event of a page under a spinlock with interrupts off: 4.9 us a 4 KiB
   page against 1.1 for read, 76 against 7.2 at 64 KiB (Linux 6.18).
 - The destination is page-aligned: off a page the same copy costs 3 to 5 times
   as much.

Layout of a sub-buffer and of an event: kernel/trace/ring_buffer.c,
include/linux/ring_buffer.h. Little-endian hosts only.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memmove

from collector.decode.memory cimport load32, load64

import sys

from collector.errors import TracefsFormatError

cdef extern from "sys/mman.h" nogil:
    void *mmap(void *addr, size_t length, int prot, int flags, int fd, long offset)
    int munmap(void *addr, size_t length)
    int PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS
    void *MAP_FAILED

cdef extern from "unistd.h" nogil:
    ssize_t c_read "read"(int fd, void *buf, size_t count)

# type_len of events that are no data
cdef enum:
    TYPE_PADDING = 29
    TYPE_TIME_EXTEND = 30
    TYPE_TIME_STAMP = 31

# The kernel stores the flags of a page in the upper bits of its commit field.
cdef enum:
    MISSED_EVENTS = 0x80000000
    MISSED_STORED = 0x40000000
    COMMIT_MASK = 0x3FFFFFFF

# A page with less room than this left counts as full: the writer has left it,
# because its next event did not fit.
cdef enum:
    FULL_SLACK = 512

cdef enum:
    SYSTEM_PAGE = 4096

# What a walk or a fill ended with.
EMPTY = 0        # nothing more to read now
PARTIAL = 1      # the writer is on the page just taken
FULL = 2         # the batch has no room for another page
LIMIT = 3        # max_bytes were taken
UNKNOWN = 4      # an id without a plan: add it, then resume()
FAILED = 5       # read() failed: see errno_of_read
BAD_COMMIT = 16      # the commit is larger than the page
BAD_OVERRUN = 17     # an entry ends behind the commit
BAD_LENGTH = 18      # a length that cannot be
BAD_TRUNCATED = 19   # an event header with too few bytes left
BAD_READ = 20        # read() gave less than a sub-buffer

REASONS = {
    BAD_COMMIT: "commit",
    BAD_OVERRUN: "overrun_entry",
    BAD_LENGTH: "length",
    BAD_TRUNCATED: "truncated",
    BAD_READ: "short_read",
}  # {status: name of the reason in metrics and archives}

cdef enum:
    S_OK = -1
    S_EMPTY = 0
    S_PARTIAL = 1
    S_FULL = 2
    S_LIMIT = 3
    S_UNKNOWN = 4
    S_FAILED = 5
    S_BAD_COMMIT = 16
    S_BAD_OVERRUN = 17
    S_BAD_LENGTH = 18
    S_BAD_TRUNCATED = 19
    S_BAD_READ = 20
    S_NO_MEMORY = 32


cdef class Plan:
    """What the walk knows of the page layout and of each event.

    Args:
      layout: a PageLayout.
      head: a CommonHead.
    Raises:
      TracefsFormatError: a layout that this decoder cannot walk.
    """

    def __cinit__(self, layout, head):
        if sys.byteorder != "little":
            raise TracefsFormatError("big-endian ring buffers are not supported", where="events/header_page")
        if layout.timestamp_size != 8 or layout.commit_size not in (4, 8):
            raise TracefsFormatError(
                "unusable page header", where="events/header_page",
                expected="timestamp of 8 bytes, commit of 4 or 8",
                got=f"{layout.timestamp_size} and {layout.commit_size}",
            )
        if max(layout.subbuf_size, layout.data_offset, layout.timestamp_offset, layout.commit_offset, head.size) > 1 << 24:
            raise TracefsFormatError("a page or a record of impossible size", where="events/header_page",
                                     expected="at most 16 MiB", got=f"{layout!r}, {head!r}")
        self.layout = <Layout *> calloc(1, sizeof(Layout))
        if self.layout == NULL:
            raise MemoryError
        cdef Layout *own = self.layout
        own.subbuf_size = layout.subbuf_size
        own.data_offset = layout.data_offset
        own.data_size = layout.subbuf_size - layout.data_offset
        own.ts_offset = layout.timestamp_offset
        own.commit_offset = layout.commit_offset
        own.long_size = layout.commit_size
        if not (own.ts_offset + 8 <= own.data_offset and own.commit_offset + 4 <= own.data_offset
                and own.data_offset < own.subbuf_size):
            raise TracefsFormatError("fields outside the page header", where="events/header_page", got=repr(layout))
        own.type_offset = head.type_offset
        own.flags_offset = head.flags_offset
        own.preempt_offset = head.preempt_offset
        own.pid_offset = head.pid_offset
        own.head_size = head.size
        own.head_is_usual = (head.type_offset, head.flags_offset, head.preempt_offset, head.pid_offset) == (0, 2, 3, 4)
        # An event header of one word and the smallest record each.
        own.entries_per_page = own.data_size // (4 + own.head_size) + 1
        self.events = {}

    @property
    def subbuf_size(self):
        """Bytes of a sub-buffer."""
        return self.layout.subbuf_size

    @property
    def entries_per_page(self):
        """The most entries that a sub-buffer can hold."""
        return self.layout.entries_per_page

    def __dealloc__(self):
        cdef uint32_t i
        if self.layout != NULL:
            for i in range(65536):
                free_spec(self.layout.specs[i])
            free(self.layout)

    def add(self, event):
        """Make an event known: an EventPlan. An id that is known already keeps its plan."""
        cdef EventSpec *spec
        cdef uint32_t i = 0, locs = 0
        if event.event_id in self.events:
            return
        if not 0 <= event.event_id < 65536:
            raise TracefsFormatError("event id out of range", where=f"{event.system}:{event.name}",
                                     expected="0 to 65535", got=str(event.event_id))
        spec = <EventSpec *> calloc(1, sizeof(EventSpec))
        if spec == NULL:
            raise MemoryError
        spec.columns = <ColumnSpec *> calloc(len(event.columns) + 1, sizeof(ColumnSpec))
        spec.locs = <uint32_t *> calloc(len(event.columns) + 1, sizeof(uint32_t))
        if spec.columns == NULL or spec.locs == NULL:
            free_spec(spec)
            raise MemoryError
        spec.event_id = event.event_id
        spec.is_known = event.is_known
        spec.fixed_size = max(event.fixed_size, self.layout.head_size)
        for column in event.columns:
            spec.columns[i].cls = column.number
            spec.columns[i].offset = column.offset
            spec.columns[i].size = column.size
            spec.columns[i].count = column.count
            spec.columns[i].is_address = column.is_address
            if spec.columns[i].cls == CLASS_DATA_LOC or spec.columns[i].cls == CLASS_REL_LOC:
                spec.locs[locs] = i
                locs += 1
            i += 1
        spec.n_columns = i
        spec.n_locs = locs
        self.events[event.event_id] = event
        # Last, and one pointer: a walk in another thread sees all of it or none.
        self.layout.specs[<uint32_t> event.event_id] = spec


cdef void free_spec(EventSpec *spec) noexcept:
    if spec != NULL:
        free(spec.columns)
        free(spec.locs)
        free(spec)


cdef class Batch:
    """Sub-buffers of one stream and the index of their entries.

    Args:
      plan: shared by all streams of an instance.
      pages_size: bytes for sub-buffers, at least one; below 1 GiB.
      capacity: entries; at least as many as one sub-buffer can hold.
    """

    def __cinit__(self, Plan plan, size_t pages_size, uint32_t capacity):
        self.plan = plan
        self.layout = plan.layout
        if pages_size < plan.subbuf_size or pages_size > WHERE_MASK:
            raise ValueError(f"pages_size {pages_size}: expected {plan.subbuf_size} to {WHERE_MASK}")
        if capacity < plan.entries_per_page:
            raise ValueError(f"capacity {capacity}: expected at least {plan.entries_per_page}")
        self.pages_size = pages_size
        self.capacity = capacity
        cdef void *p = mmap(NULL, pages_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if p == MAP_FAILED:
            raise MemoryError
        self.pages = <uint8_t *> p
        self.ts = <uint64_t *> malloc(capacity * sizeof(uint64_t))
        self.head = <uint64_t *> malloc(capacity * sizeof(uint64_t))
        self.where = <uint32_t *> malloc(capacity * sizeof(uint32_t))
        if self.ts == NULL or self.head == NULL or self.where == NULL:
            raise MemoryError

    def __dealloc__(self):
        if self.pages != NULL:
            munmap(self.pages, self.pages_size)
        free(self.ts)
        free(self.head)
        free(self.where)
        free(self.gaps)

    def __len__(self):
        return self.n

    @property
    def pages_used(self):
        """Bytes of the buffer that hold pages of this batch."""
        return self.used

    @property
    def raw_bytes(self):
        """Header and data of the sub-buffers in this batch, in bytes."""
        return self.batch_bytes

    @property
    def gap_list(self):
        """[(entry index, count or None)] of the gaps inside."""
        return [(self.gaps[i].at, self.gaps[i].lost if self.gaps[i].known else None) for i in range(self.n_gaps)]

    @property
    def first_ts(self):
        """Time of the first entry, in the clock's unit."""
        return self.ts[0] if self.n else None

    @property
    def last_ts(self):
        """Time of the last entry, in the clock's unit."""
        return self.ts[self.n - 1] if self.n else None

    def entries(self):
        """[(ts, type, flags, preempt count, pid, is raw, record bytes)]: for tests and tools."""
        cdef uint32_t i
        cdef uint8_t *p
        found = []
        for i in range(self.n):
            p = self.pages + (self.where[i] & WHERE_MASK)
            found.append((
                self.ts[i], self.head[i] & 0xFFFF, (self.head[i] >> 16) & 0xFF, (self.head[i] >> 24) & 0xFF,
                <int> <uint32_t> (self.head[i] >> 32), bool(self.where[i] & WHERE_RAW),
                p[:record_size(p, self.where[i])],
            ))
        return found

    def reset(self, bint keep_gaps=False):
        """Forget the entries; a page that waits for a plan is kept, and the gaps of a batch without entries may be."""
        if self.pending:
            memmove(self.pages, self.pages + self.used, self.layout.subbuf_size)
        self.used = 0
        self.n = 0
        self.n_gaps = self.n_gaps if keep_gaps else 0
        self.batch_bytes = 0

    def adopt(self, Plan plan):
        """Go on with another plan of the same pages; only while there is no entry."""
        if self.n or plan.subbuf_size != self.plan.subbuf_size:
            raise ValueError("only an empty batch takes another plan, and one of the same pages")
        self.plan = plan
        self.layout = plan.layout

    def keep_raw(self, uint32_t first, event_ids):
        """Keep the entries of these events as bytes, from the one with index `first` on."""
        cdef uint32_t i
        for i in range(first, self.n):
            if self.head[i] & 0xFFFF in event_ids:
                self.where[i] |= WHERE_RAW

    def fill(self, int fd, size_t max_bytes):
        """Read and walk sub-buffers until there is a reason to stop.

        Args:
          fd: a trace_pipe_raw, non-blocking, or a file of recorded sub-buffers.
          max_bytes: stop after so many bytes of sub-buffers.
        Returns: (status, detail): detail is the id for UNKNOWN, the errno for
          FAILED, the bytes read for BAD_READ, else None. After a BAD_ status
          the page is at bad_page(), its fault at fault_offset in it, and the next fill goes on behind it.
        """
        cdef int status, fault = 0
        cdef size_t taken = 0
        with nogil:
            status = self.fill_nogil(fd, max_bytes, &taken, &fault)
        if status == S_NO_MEMORY:
            raise MemoryError
        return status, fault if status in (S_UNKNOWN, S_FAILED, S_BAD_READ) else None

    cdef int fill_nogil(self, int fd, size_t max_bytes, size_t *taken, int *fault) noexcept nogil:
        cdef Layout *plan = self.layout
        cdef ssize_t got
        cdef int status
        cdef uint8_t *page
        cdef uint32_t most = plan.entries_per_page
        while True:
            page = self.pages + self.used
            if self.used + plan.subbuf_size > self.pages_size or self.n + most > self.capacity:
                return S_FULL
            if not self.pending:
                if taken[0] >= max_bytes:
                    return S_LIMIT
                got = c_read(fd, page, plan.subbuf_size)
                if got < 0:
                    if errno == EINTR:
                        continue
                    if errno == EAGAIN:
                        return S_EMPTY
                    fault[0] = errno
                    return S_FAILED
                if got == 0:   # not the end: an entry may have come between the kernel's two looks
                    return S_EMPTY
                taken[0] += got
                self.total_bytes += got
                self.total_pages += 1
                if got != plan.subbuf_size:
                    fault[0] = <int> got
                    self.fault_at = self.used
                    self.fault_offset = <uint32_t> got
                    return S_BAD_READ
                self.pending = 1
            status = self.walk(page)
            if status >= S_BAD_COMMIT:
                self.pending = 0
                return status
            if status == S_UNKNOWN:
                fault[0] = self.unknown_id
                return status
            self.pending = 0
            if status == S_PARTIAL:
                return status

    def bad_page(self):
        """The bytes of the page that the last fill() found malformed; the entries before its fault are in the batch."""
        return self.pages[self.fault_at:self.fault_at + self.layout.subbuf_size]

    cdef int add_gap(self, int known, uint64_t lost) noexcept nogil:
        cdef Gap *grown
        if self.n_gaps == self.gaps_capacity:
            grown = <Gap *> realloc(self.gaps, (self.gaps_capacity * 2 + 16) * sizeof(Gap))
            if grown == NULL:
                return S_NO_MEMORY
            self.gaps = grown
            self.gaps_capacity = self.gaps_capacity * 2 + 16
        self.gaps[self.n_gaps].at = self.n
        self.gaps[self.n_gaps].known = known
        self.gaps[self.n_gaps].lost = lost
        self.n_gaps += 1
        return S_OK

    cdef int walk(self, uint8_t *page) noexcept nogil:
        """Index the entries of one sub-buffer at pages + used; of a malformed one, those before its fault."""
        cdef Layout *plan = self.layout
        cdef uint64_t ts = load64(page + plan.ts_offset)
        cdef uint32_t commit = load32(page + plan.commit_offset)   # sign-extended or not: the low half counts
        cdef uint32_t length = commit & COMMIT_MASK
        cdef uint8_t *p = page + plan.data_offset
        cdef uint8_t *end
        cdef uint8_t *payload
        cdef uint8_t *following
        cdef uint8_t *pages = self.pages
        cdef uint64_t *out_ts = self.ts
        cdef uint64_t *out_head = self.head
        cdef uint32_t *out_where = self.where
        cdef uint32_t n = self.n, skipped = 0
        cdef uint32_t word, kind, size, event_id, mark
        cdef uint64_t delta, value, head
        cdef EventSpec *spec
        cdef size_t taken
        cdef int fault = S_OK
        end = p + length
        if length > plan.data_size:
            fault = S_BAD_COMMIT
            end = p
        while p < end:
            if end - p < 4:
                fault = S_BAD_TRUNCATED
                break
            word = load32(p)
            kind = word & 31
            delta = word >> 5
            if kind - 1 < 28:   # 1 to 28: the length in words; unsigned, so 0 is excluded too
                size = kind * 4
                payload = p + 4
                mark = 0
            else:
                if kind == TYPE_PADDING and delta == 0:
                    break   # the rest of the page is void
                if end - p < 8:
                    fault = S_BAD_TRUNCATED
                    break
                size = load32(p + 4)
                if kind == TYPE_PADDING:
                    if size > <size_t> (end - p) - 4:
                        fault = S_BAD_OVERRUN
                        break
                    p += 4 + size
                    # A discarded event's delta counts for the next one; 1 is only the mark of dead space.
                    if delta != 1:
                        ts += delta
                    continue
                if kind == TYPE_TIME_EXTEND:
                    ts += delta | <uint64_t> size << 27
                    p += 8
                    continue
                if kind == TYPE_TIME_STAMP:
                    # 59 bits; the upper 5 come from the running time, corrected when they wrapped.
                    value = delta | <uint64_t> size << 27
                    value |= ts & (<uint64_t> 0x1F << 59)
                    if value < ts:
                        value += <uint64_t> 1 << 59
                    ts = value
                    p += 8
                    continue
                if size < 4:
                    fault = S_BAD_LENGTH
                    break
                size -= 4
                payload = p + 8
                mark = WHERE_LONG
            if size > <size_t> (end - payload) or payload > end:
                fault = S_BAD_OVERRUN
                break
            p = payload + size
            ts += delta
            if size < plan.head_size:
                skipped += 1
                continue
            if plan.head_is_usual:
                head = load64(payload)
            else:
                head = (
                    (<uint64_t> payload[plan.type_offset] | <uint64_t> payload[plan.type_offset + 1] << 8)
                    | <uint64_t> payload[plan.flags_offset] << 16 | <uint64_t> payload[plan.preempt_offset] << 24
                    | <uint64_t> load32(payload + plan.pid_offset) << 32
                )
            event_id = head & 0xFFFF
            spec = plan.specs[event_id]
            if spec == NULL:
                self.unknown_id = event_id
                return S_UNKNOWN
            if size < spec.fixed_size or not spec.is_known:
                mark |= WHERE_RAW
            elif spec.n_locs:
                if not locs_are_inside(spec, payload, size):
                    mark |= WHERE_RAW
            out_ts[n] = ts
            out_head[n] = head
            out_where[n] = <uint32_t> (payload - pages) | mark
            n += 1
        if commit & MISSED_EVENTS:
            # Of a malformed page the count is not to be trusted either: it stands where the data are said to end.
            if (self.take_gap(page, commit, length) if fault == S_OK else self.add_gap(0, 0)) == S_NO_MEMORY:
                return S_NO_MEMORY
        if fault != S_OK:
            self.fault_at = self.used
            self.fault_offset = <uint32_t> (p - page) if fault != S_BAD_COMMIT else plan.commit_offset
            length = <uint32_t> (p - page) - plan.data_offset
            if n == self.n:
                self.total_skipped += skipped
                return fault
        self.total_entries += n - self.n
        self.total_skipped += skipped
        self.n = n
        self.batch_bytes += plan.data_offset + length
        # The next page may start where this one's data end: a quiet CPU fills pages with crumbs.
        # Page-aligned, and behind the stored count of lost entries.
        taken = plan.data_offset + length + 8
        taken = (taken + SYSTEM_PAGE - 1) & ~(<size_t> SYSTEM_PAGE - 1)
        self.used += taken if taken < plan.subbuf_size and fault == S_OK else plan.subbuf_size
        if fault != S_OK:
            return fault
        return S_OK if plan.data_size - length <= FULL_SLACK else S_PARTIAL

    cdef int take_gap(self, uint8_t *page, uint32_t commit, uint32_t length) noexcept nogil:
        """Note the loss that a flagged page reports; the gap is before its first entry."""
        cdef Layout *plan = self.layout
        cdef uint8_t *stored = page + plan.data_offset + length
        if commit & MISSED_STORED and plan.data_size - length >= plan.long_size:
            return self.add_gap(1, load64(stored) if plan.long_size == 8 else load32(stored))
        return self.add_gap(0, 0)


cdef int locs_are_inside(EventSpec *spec, uint8_t *payload, uint32_t size) noexcept nogil:
    """Whether every __data_loc and __rel_loc of a record points into it, and all together fit."""
    cdef uint32_t i, word, start, total = 0
    cdef ColumnSpec *column
    for i in range(spec.n_locs):
        column = &spec.columns[spec.locs[i]]
        word = load32(payload + column.offset)
        start = word & 0xFFFF
        if column.cls == CLASS_REL_LOC:
            start += column.offset + 4
        total += word >> 16
        if start + (word >> 16) > size or total > size:
            return 0
    return 1

