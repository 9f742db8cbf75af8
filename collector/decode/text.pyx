# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The text pipes: lines of trace_pipe in, a batch of entries out, without the GIL.

An entry's record is made up: the common head, then what the line tells beside it, then the event's own text.

    type u16, flags u8, preempt count u8, pid s32, [preempt-lazy count u32], [comm 16 bytes], [cpu u32], [tgid s32],
    text to the end

So the column encoder takes it as it takes a record of the kernel. What a line is: text_lines.pyx and text_drawing.pyx;
which id its event has: text_plan.pyx. Text of an event can pretend to be a line of its own, and nothing in the pipe
tells; docs/text-pipes.md.

The kernel hands out whole events. So that one cut in two by somebody else's reading would still be whole, the last
event of a read is kept back until more comes or the pipe says that it is empty.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memmove, memset

from collector.decode import ring
from collector.decode.memory cimport store32, store64
from collector.decode.ring cimport Batch, Plan, WHERE_LONG
from collector.decode.scan cimport are_equal, behind_line, behind_number, is_digit, number_at
from collector.decode.text_drawing cimport behind_drawing, read_drawing
from collector.decode.text_forms cimport (
    C_HAS_COMM, C_HAS_CPU, C_HAS_LAZY, C_HAS_TGID, C_KIND_NAMED, C_KIND_SYSCALL_ENTER, C_KIND_SYSCALL_EXIT, FIXED_GRAPH,
    FIXED_UNPARSED, Form, GUARD_BYTES, Head, LINE_CONTEXT, LINE_GRAPH, LINE_GRAPH_BEFORE, LINE_LOST, LINE_MORE,
    LINE_TOO_BIG, WITH_LAZY, WITH_TGID,
)
from collector.decode.text_lines cimport find_context, fixed_of, kind_of
from collector.decode.text_plan cimport NAME_MOST, NAMES_MOST, Name, TextPlan

cdef extern from "unistd.h" nogil:
    ssize_t c_read "read"(int fd, void *buf, size_t count)

# The text lies behind the records, in the same lease of memory. A read gives at most 8 KiB with pages of 4 KiB, and
# twice the page where they are larger.
TEXT_BYTES = 1 << 17
RECORD_BYTES = (1 << 17) + 4096   # the largest entry: all of the text, and its record's head
PAGE_BYTES = TEXT_BYTES + RECORD_BYTES   # the least that a batch needs

cdef enum:
    C_TEXT_BYTES = 1 << 17
    NOT_AHEAD = 0xFFFFFFFF
    NO_KEY = 0xFFFFFFFF
    COMM_BYTES = 16
    MOST_HEAD_BYTES = 8 + 4 + 16 + 4 + 4   # of a record, before its text

cdef enum:
    S_OK = -1
    S_MORE = -2        # the event may go on in what was not read yet
    S_EMPTY = 0
    S_FULL = 2
    S_LIMIT = 3
    S_UNKNOWN = 4
    S_FAILED = 5

cdef uint8_t is_name[256]


def _fill_table():
    for code in range(256):
        is_name[code] = chr(code).isascii() and (chr(code).isalnum() or chr(code) == "_")


_fill_table()


cdef class TextBatch(Batch):
    """Entries of one text pipe.

    Args:
      plan: a TextPlan whose form was set.
      pages_size: bytes for records and, behind them, TEXT_BYTES for what was read.
      capacity: entries.
    """

    def __cinit__(self, Plan plan, size_t pages_size, uint32_t capacity):
        if not isinstance(plan, TextPlan):
            raise TypeError("a TextBatch needs a TextPlan")
        if pages_size < PAGE_BYTES:
            raise ValueError(f"pages_size {pages_size}: expected at least {PAGE_BYTES}")
        self.text_plan = <TextPlan> plan
        self.text = self.pages + pages_size - C_TEXT_BYTES
        self.ahead_at = NOT_AHEAD

    def note_time(self, uint64_t ts):
        """The trace clock now, for lines without a time that come before the next that has one."""
        self.last_time = max(self.last_time, ts)

    @property
    def unparsed_example(self):
        """What the last line that was kept as it is begins with."""
        return (<const char *> self.example)[:self.example_size]

    @property
    def held_bytes(self):
        """Bytes that were read and are in no entry yet."""
        return self.end - self.at

    def fill(self, int fd, size_t max_bytes):
        """Read and parse until there is a reason to stop; as Batch.fill, with text for sub-buffers.

        Args:
          fd: a text pipe, non-blocking, or a file of recorded text.
          max_bytes: stop after so many bytes.
        Returns: (status, detail): detail is the id for UNKNOWN, the errno for FAILED, else None.
        """
        cdef int status, fault = 0
        with nogil:
            status = self.fill_text(fd, max_bytes, &fault)
        if status == S_UNKNOWN:
            if self.miss_name != NULL:
                self.miss_id = self.text_plan.add_name(self.miss_name, self.miss_size, self.miss_key).event_id
            return ring.UNKNOWN, self.miss_id
        if status == S_FAILED:
            return ring.FAILED, fault
        if status == S_EMPTY:
            return ring.EMPTY, None
        if status == S_FULL:
            return ring.FULL, None
        if status == S_LIMIT:
            return ring.LIMIT, None
        raise MemoryError

    cdef int fill_text(self, int fd, size_t max_bytes, int *fault) noexcept nogil:
        cdef ssize_t got
        cdef size_t taken = 0
        cdef uint32_t room
        cdef int status, ending, is_cut = 0
        while True:
            status = self.parse(0)
            if status != S_OK:
                return status
            ending = S_OK
            room = C_TEXT_BYTES - GUARD_BYTES - (self.end - self.at)
            if taken >= max_bytes:
                ending = S_LIMIT
            elif room:   # else it is an event larger than anything the kernel makes: what there is of it is taken
                memmove(self.text, self.text + self.at, self.end - self.at)
                self.end -= self.at
                self.at = 0
                self.ahead_at = NOT_AHEAD
                memset(self.text + self.end, 0, GUARD_BYTES)
                got = c_read(fd, self.text + self.end, room)
                if got > 0:
                    self.end += <uint32_t> got
                    memset(self.text + self.end, 0, GUARD_BYTES)
                    taken += got
                    self.total_bytes += got
                    self.total_pages += 1
                    is_cut = <size_t> got == room
                    continue
                if got < 0 and errno == EINTR:
                    continue
                ending = S_EMPTY
                if got < 0 and errno != EAGAIN:
                    fault[0] = errno
                    ending = S_FAILED
            if ending == S_LIMIT and is_cut:
                return ending   # the rest of the last event waits in the open file
            status = self.parse(1)
            if status != S_OK or ending != S_OK:
                return status if status != S_OK else ending

    cdef int parse(self, int is_final) noexcept nogil:
        """Take the events of the text; what may go on stays."""
        cdef int status
        while self.at < self.end:
            status = self.take_event(is_final)
            if status == S_MORE:
                return S_OK
            if status != S_OK:
                return status
        return S_OK

    cdef int look(self, uint32_t at) noexcept nogil:
        """What the line at `at` is; a context is in self.ahead."""
        if self.ahead_at != at:
            self.ahead_at = at
            self.ahead_kind = kind_of(self.text + at, self.text + self.end, &self.text_plan.form, &self.seen, &self.ahead)
        return self.ahead_kind

    cdef int take_event(self, int is_final) noexcept nogil:
        """Take the event at self.at with all its lines, or nothing."""
        cdef const uint8_t *start = self.text + self.at
        cdef const uint8_t *stop = self.text + self.end
        cdef const uint8_t *p = start
        cdef int kind = self.look(self.at)
        cdef int status, is_whole = 0
        cdef Head head = self.ahead
        if kind == LINE_GRAPH_BEFORE:
            p = behind_drawing(start, stop)
            if p == stop and not is_final:
                return S_MORE
            kind = self.look(<uint32_t> (p - self.text)) if p < stop else LINE_MORE
            if kind != LINE_GRAPH:   # a drawing without its event
                kind = LINE_MORE
                is_whole = 1
        elif kind == LINE_CONTEXT:
            p = head.body   # behind a newline in the comm
        if not is_whole:
            p = behind_line(p, stop, is_final)
            if p == NULL:
                return S_MORE
        if kind == LINE_LOST:
            status = self.add_gap_of(start)
        else:
            if kind != LINE_TOO_BIG and not is_whole:
                p = self.behind_more(p, stop, kind, is_final)
                if p == NULL:
                    return S_MORE
            if kind == LINE_CONTEXT:
                status = self.put_context(&head, &p)
            elif kind == LINE_GRAPH:
                status = self.put_graph(start, p)
            else:
                status = self.put_unparsed(start, p)
        if status == S_OK:
            self.batch_bytes += p - start
            self.at = <uint32_t> (p - self.text)
        return status

    cdef const uint8_t *behind_more(
        self, const uint8_t *p, const uint8_t *stop, int kind, int is_final
    ) noexcept nogil:
        """The end of the event whose first line ends at p; NULL: more may come."""
        while p < stop:
            if kind == LINE_MORE:
                # Where no line has a head each is an event of its own, but for those of its stack.
                if stop - p < 4 and not is_final:
                    return NULL
                if memcmp(p, b" => ", 4) != 0:
                    return p
            elif self.look(<uint32_t> (p - self.text)) != LINE_MORE:
                return p
            p = behind_line(p, stop, is_final)
            if p == NULL:
                return NULL
        return p if is_final else NULL

    cdef int add_gap_of(self, const uint8_t *p) noexcept nogil:
        """Note the loss that a LOST line tells of."""
        cdef uint64_t count = 0
        p = behind_number(p + 4, &count) + 7   # CPU:N [LOST_
        return self.add_gap(is_digit(p[0]), number_at(p))

    cdef int put_context(self, const Head *head, const uint8_t **end) noexcept nogil:
        """Add the event behind a head, up to *end or to where another begins; its text begins with its name."""
        cdef const uint8_t *body = head.body
        cdef const uint8_t *stop = end[0]
        cdef const uint8_t *p = body
        cdef const uint8_t *text = body
        cdef uint32_t has = head.has | C_HAS_COMM | (C_HAS_CPU if self.text_plan.form.whole else 0)
        cdef uint32_t size, key
        cdef Name *name = self.follows[self.recent & (FOLLOWS - 1)]
        # Names come in the order in which the load makes them: most often the one that came here the last time.
        if (name != NULL and name.key == (C_KIND_NAMED | has) and are_equal(name.text, body, name.size)
                and body[name.size] == c':' and (body[name.size + 1] == c' ' or body[name.size + 1] == c'\n')):
            return self.put_named(name, head, body + name.size + (2 if body[name.size + 1] == c' ' else 1), end)
        while is_name[p[0]]:
            p += 1
        size = <uint32_t> (p - body)
        key = NO_KEY
        if 0 < size <= NAME_MOST:
            if p[0] == c':' and (p[1] == c' ' or p[1] == c'\n'):
                key = C_KIND_NAMED | has
                text = p + 2 if p[1] == c' ' else p + 1
            elif memcmp(body, b"sys_", 4) == 0:
                if p[0] == c'(':
                    key = C_KIND_SYSCALL_ENTER | has
                    text = p
                elif memcmp(p, b" -> ", 4) == 0:
                    key = C_KIND_SYSCALL_EXIT | has
                    text = p + 1
        if key != NO_KEY:
            name = self.text_plan.find(body, size, key)
            if name != NULL:
                self.follows[self.recent & (FOLLOWS - 1)] = name
                return self.put_named(name, head, text, end)
            if self.text_plan.n_names < NAMES_MOST:
                self.miss_name = body
                self.miss_size = size
                self.miss_key = key
                return S_UNKNOWN
        key = fixed_of(body, p, stop)
        return self.put(self.text_plan.fixed[key | with_parts(head.has)], head, body, stop)

    cdef int put_named(self, const Name *name, const Head *head, const uint8_t *text, const uint8_t **end) noexcept nogil:
        """Add an event with a name; its text ends at *end, or where another line begins in it."""
        cdef int status
        if name.joins and not self.text_plan.form.latency:
            end[0] = find_context(text, end[0], &self.text_plan.form, &self.seen)
        status = self.put(name, head, text, end[0])
        if status == S_OK:
            self.recent = self.recent << 3 ^ name.event_id
        return status

    cdef int put_graph(self, const uint8_t *start, const uint8_t *stop) noexcept nogil:
        """Add a line of function_graph as it is, with what was drawn before it."""
        cdef Head head
        cdef int is_leaf, status
        memset(&head, 0, sizeof(Head))
        head.ts = self.last_time
        is_leaf = read_drawing(start, stop, &self.text_plan.form, &head)
        status = self.put(self.text_plan.fixed[FIXED_GRAPH], &head, start, stop)
        if status == S_OK:
            self.total_folded += is_leaf
        return status

    cdef int put_unparsed(self, const uint8_t *start, const uint8_t *stop) noexcept nogil:
        """Keep lines as they are."""
        cdef Head head
        cdef int status
        memset(&head, 0, sizeof(Head))
        head.ts = self.last_time
        status = self.put(self.text_plan.fixed[FIXED_UNPARSED], &head, start, stop)
        if status == S_OK:
            self.total_unparsed += 1
            self.example_size = <uint32_t> min(stop - start, <ssize_t> EXAMPLE_BYTES)
            memcpy(self.example, start, self.example_size)
        return status

    cdef int put(self, const Name *name, const Head *head, const uint8_t *p, const uint8_t *stop) noexcept nogil:
        """Add an entry with the text from p to stop, but for the last newline."""
        cdef uint8_t *record = self.pages + self.used + 4   # behind the word with its length
        cdef uint32_t at = 8, size
        if stop > p and (stop - 1)[0] == c'\n':
            stop -= 1
        size = <uint32_t> (stop - p) if stop > p else 0
        if self.n == self.capacity or self.used + 4 + MOST_HEAD_BYTES + size > self.pages_size - C_TEXT_BYTES:
            return S_FULL
        if self.layout.specs[name.event_id] == NULL:
            self.miss_name = NULL
            self.miss_id = name.event_id
            return S_UNKNOWN
        store64(record, head.word | name.event_id)
        if name.key & C_HAS_LAZY:
            store32(record + at, head.lazy)
            at += 4
        if name.key & C_HAS_COMM:
            store64(record + at, head.comm[0])
            store64(record + at + 8, head.comm[1])
            at += COMM_BYTES
        if name.key & C_HAS_CPU:
            store32(record + at, head.cpu)
            at += 4
        if name.key & C_HAS_TGID:
            store32(record + at, head.tgid)
            at += 4
        memcpy(record + at, p, size)
        at += size
        store32(record - 4, at + 4)
        self.ts[self.n] = head.ts
        self.head[self.n] = head.word | name.event_id
        self.where[self.n] = <uint32_t> (record - self.pages) | WHERE_LONG
        self.last_time = head.ts
        self.n += 1
        self.used += 4 + at
        self.total_entries += 1
        return S_OK


cdef inline uint32_t with_parts(uint32_t has) noexcept nogil:
    """The WITH_ bits of an entry's HAS_ bits."""
    return (WITH_TGID if has & C_HAS_TGID else 0) | (WITH_LAZY if has & C_HAS_LAZY else 0)
