# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The text pipes: lines of trace_pipe in, a batch of entries out, without the GIL.

An entry's record is made up: the common head, then what the line tells beside it, then the event's own text.

    type u16, flags u8, preempt count u8, pid s32, [comm 16 bytes], [cpu u32], [tgid s32], text to the end

So the column encoder takes it as it takes a record of the kernel. Event ids are our own, from FIRST_ID up, in the
order in which names turn up; lines without a name have fixed ones.

Grammar of a line, to the byte (kernel/trace/trace_output.c; %5s: at least 5 wide, right-aligned):

    event    = context text NL *more
    context  = %16s comm "-" %-7d pid " " [ "(" %7d tgid or "-------" ") " ] "[" %03d cpu "] " [flags] time ": "
    flags    = 4 or 5 characters, see FLAGS; none with the option irq-info off
    time     = " " %5lu s "." %06lu us, or " " %12llu for clocks that are no nanoseconds
    latency  = %8.8s comm "-" %-7d pid " " %3d cpu flags " " %4lld us "us" mark ": "
    verbose  = %16s comm " " %7d pid " " %3d cpu " " flags " " %08x preempt " " %08lx " [" %08llx us "] " ... "): "
    lost     = "CPU:" cpu " [LOST " [count " "] "EVENTS]" NL
    text     = name ": " ... or what a tracer makes of it
    more     = a line that begins no event: of a stack trace, or of a text with newlines in it
    joined   = context text context text NL            ; of trace_printk, whose text may lack the newline
    graph    = [time " |  "] " " cpu ") " [comm "-" pid " | "] duration "|  " text NL *more    ; function_graph

The comm is whatever a process calls itself, newlines included, but its width is fixed: the grammar is anchored at the
byte behind it and parsed to the right of that. Text of an event can pretend to be a line of its own, and nothing in the
pipe tells; docs/text-pipes.md.

The kernel hands out whole events. So that one cut in two by somebody else's reading would still be whole, the last
event of a read is kept back until more comes or the pipe says that it is empty.

Bounds: the text ends with GUARD_BYTES zeros that no step of the grammar takes, and no step looks further ahead.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcmp, memcpy, memmove, memset

import threading

from collector.decode import ring
from collector.decode.ring cimport Batch, Plan, WHERE_LONG, load64

cdef extern from "unistd.h" nogil:
    ssize_t c_read "read"(int fd, void *buf, size_t count)

cdef extern from * nogil:
    """
    /* A reader in another thread sees all of the name or none of it. */
    static inline void publish(void **slot, void *value) { __atomic_store_n(slot, value, __ATOMIC_RELEASE); }
    static inline void *published(void **slot) { return __atomic_load_n(slot, __ATOMIC_ACQUIRE); }
    """
    void publish(void **slot, void *value)
    void *published(void **slot)

FIRST_ID = 32768   # the kernel's own ids stay far below

# The text lies behind the records, in the same lease of memory. A read gives at most 8 KiB with pages of 4 KiB, and
# twice the page where they are larger.
TEXT_BYTES = 1 << 17
RECORD_BYTES = (1 << 17) + 4096   # the largest entry: all of the text, and its record's head
PAGE_BYTES = TEXT_BYTES + RECORD_BYTES   # the least that a batch needs

cdef enum:
    C_FIRST_ID = 32768
    C_TEXT_BYTES = 1 << 17
    GUARD_BYTES = 128
    NOT_AHEAD = 0xFFFFFFFF

# Parts of a record beside the common head, and kinds of lines: the key under which a name has its id.
HAS_COMM = 1
HAS_CPU = 2
HAS_TGID = 4
KIND_NAMED = 0
KIND_SYSCALL_ENTER = 8
KIND_SYSCALL_EXIT = 16
KIND_FIXED = 24

cdef enum:
    C_HAS_COMM = 1
    C_HAS_CPU = 2
    C_HAS_TGID = 4
    C_KIND_NAMED = 0
    C_KIND_SYSCALL_ENTER = 8
    C_KIND_SYSCALL_EXIT = 16
    C_KIND_FIXED = 24

# Lines without a name of their own.
FIXED_NAMES = ("other", "kernel_stack", "user_stack", "function", "blk", "raw_data", "funcgraph", "unparsed")

cdef enum:
    FIXED_OTHER = 0
    FIXED_STACK = 1
    FIXED_USER_STACK = 2
    FIXED_FUNCTION = 3
    FIXED_BLK = 4
    FIXED_RAW_DATA = 5
    FIXED_GRAPH = 6
    FIXED_UNPARSED = 7
    WITH_TGID = 8

# What a line is.
cdef enum:
    LINE_MORE = 0      # begins no event
    LINE_CONTEXT = 1
    LINE_LOST = 2
    LINE_TOO_BIG = 3
    LINE_GRAPH = 4
    LINE_GRAPH_BEFORE = 5   # of the drawing, and of the event that follows

cdef enum:
    S_OK = -1
    S_MORE = -2        # the event may go on in what was not read yet
    S_EMPTY = 0
    S_FULL = 2
    S_LIMIT = 3
    S_UNKNOWN = 4
    S_FAILED = 5

cdef enum:
    NO_FLAG = 0xFF     # of a character that no flag column has
    NO_KEY = 0xFFFFFFFF
    COMM_BYTES = 16
    MOST_HEAD_BYTES = 8 + 16 + 4 + 4   # of a record, before its text

# FLAGS: {column: {letter: bits of common_flags}}. kernel/trace/trace_output.c, trace_print_lat_fmt(). Kernels before
# 6.13 use D d b X, N n p; those from 6.13 on have another meaning for bit 2 and the letters B L b l beside them. No
# letter means two things, so that the release need not be known.
_FLAG_LETTERS = (
    {"D": 0x81, "d": 0x01, "b": 0x80, "X": 0x02, ".": 0},
    {"B": 0x26, "N": 0x24, "L": 0x22, "b": 0x06, "n": 0x04, "p": 0x20, "l": 0x02, ".": 0},
    {"Z": 0x48, "z": 0x40, "H": 0x18, "h": 0x08, "s": 0x10, ".": 0},
)

cdef uint8_t flag_table[3][256]
cdef uint8_t hex_table[256]
cdef uint8_t is_name[256]

cdef uint64_t HASH = 0x9E3779B97F4A7C15


def _fill_tables():
    memset(flag_table, NO_FLAG, sizeof(flag_table))
    memset(hex_table, NO_FLAG, sizeof(hex_table))
    for column, letters in enumerate(_FLAG_LETTERS):
        for letter, bits in letters.items():
            flag_table[column][ord(letter)] = bits
    hex_table[ord(".")] = 0
    for value in range(16):
        hex_table[ord("0123456789abcdef"[value])] = value
    for code in range(256):
        is_name[code] = chr(code).isascii() and (chr(code).isalnum() or chr(code) == "_")


_fill_tables()


cdef class TextPlan(Plan):
    """The names that an instance's lines have had so far, and what its options make of a line.

    Args:
      layout: a PageLayout that only sizes the batches, see PAGE_BYTES.
      head: a CommonHead; the usual one.
    """

    def __cinit__(self, layout, head):
        self.slots = <Name **> calloc(NAME_SLOTS, sizeof(void *))
        self.names = <Name **> calloc(NAMES_MOST, sizeof(void *))
        if self.slots == NULL or self.names == NULL:
            raise MemoryError
        self.lock = threading.Lock()

    def __dealloc__(self):
        cdef uint32_t i
        if self.names != NULL:
            for i in range(self.n_names):
                free(self.names[i])
        free(self.names)
        free(self.slots)

    def set_form(self, *, whole=False, latency=False, verbose=False, graph=False, graph_cpu=True, graph_abstime=False,
                 graph_proc=False, graph_duration=True):
        """Say what lines look like; once, before the first is parsed.

        Args:
          whole: of all CPUs, so that each entry keeps its CPU.
          latency, verbose: the options latency-format and verbose.
          graph: the tracer is function_graph; its options follow.
        """
        cdef uint32_t i, has
        self.form = Form(whole, latency, verbose and latency, graph, graph_cpu, graph_abstime, graph_proc, graph_duration)
        for i, name in enumerate(FIXED_NAMES):
            has = 0 if i == FIXED_UNPARSED else C_HAS_CPU if whole else 0
            if i < FIXED_GRAPH:
                has |= C_HAS_COMM
                self.fixed[i | WITH_TGID] = self.add_name(name.encode(), len(name), C_KIND_FIXED | has | C_HAS_TGID)
            self.fixed[i] = self.add_name(name.encode(), len(name), C_KIND_FIXED | has)

    def name_of(self, uint32_t event_id):
        """(kind, has, name) of an event id: a KIND_ number, HAS_ bits, and the name or one of FIXED_NAMES."""
        cdef uint32_t number = event_id - C_FIRST_ID
        if number >= self.n_names:
            return None
        cdef Name *name = self.names[number]
        cdef bytes text = name.text[:name.size]
        return name.key & ~7, name.key & 7, text.decode("ascii")

    def set_joins(self, uint32_t event_id):
        """Say that the text of an event may end without a newline: it is printed by trace_printk."""
        if event_id - C_FIRST_ID < self.n_names:
            self.names[event_id - C_FIRST_ID].joins = 1

    cdef Name *find(self, const uint8_t *p, uint32_t size, uint32_t key) noexcept nogil:
        """The name, NULL when it has no id yet."""
        cdef uint64_t hashed = hash_name(p, size, key)
        cdef uint32_t slot = hashed >> 49
        cdef Name *name
        while True:
            name = <Name *> published(<void **> &self.slots[slot])
            if name == NULL:
                return NULL
            if name.hashed == hashed and name.key == key and name.size == size and memcmp(name.text, p, size) == 0:
                return name
            slot = (slot + 1) & (NAME_SLOTS - 1)

    cdef Name *add_name(self, const uint8_t *p, uint32_t size, uint32_t key) except NULL:
        """Give a name an id; the one that it has, when another thread was first."""
        cdef Name *name
        cdef uint32_t slot
        with self.lock:
            name = self.find(p, size, key)
            if name != NULL:
                return name
            if self.n_names == NAMES_MOST:
                return self.fixed[FIXED_OTHER]
            name = <Name *> calloc(1, sizeof(Name))
            if name == NULL:
                raise MemoryError
            name.hashed = hash_name(p, size, key)
            name.event_id = C_FIRST_ID + self.n_names
            name.key = key
            name.size = size
            memcpy(name.text, p, size)
            self.names[self.n_names] = name
            self.n_names += 1
            slot = name.hashed >> 49
            while self.slots[slot] != NULL:
                slot = (slot + 1) & (NAME_SLOTS - 1)
            publish(<void **> &self.slots[slot], name)
            return name


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
            self.ahead_kind = kind_of(self.text + at, self.text + self.end, &self.text_plan.form, &self.ahead)
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
        cdef Name *name
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
                if name.joins and not self.text_plan.form.latency:
                    end[0] = stop = find_context(text, stop)
                return self.put(name, head, text, stop)
            if self.text_plan.n_names < NAMES_MOST:
                self.miss_name = body
                self.miss_size = size
                self.miss_key = key
                return S_UNKNOWN
        key = fixed_of(body, p, stop)
        return self.put(self.text_plan.fixed[key | (WITH_TGID if head.has & C_HAS_TGID else 0)], head, body, stop)

    cdef int put_graph(self, const uint8_t *start, const uint8_t *stop) noexcept nogil:
        """Add a line of function_graph as it is, with what was drawn before it."""
        cdef Form *form = &self.text_plan.form
        cdef const uint8_t *p = behind_drawing(start, stop)
        cdef const uint8_t *bar
        cdef uint64_t seconds, us
        cdef Head head
        cdef int bars, status, is_leaf
        memset(&head, 0, sizeof(Head))
        head.ts = self.last_time
        if form.graph_abstime:
            p = behind_number(behind_blanks(p), &seconds)
            p = behind_number(p + 1, &us)
            head.ts = (seconds * 1000000 + us) * 1000
            p += 4   # _|__
        if form.graph_cpu:
            p = behind_number(behind_blanks(p), &seconds)
            head.cpu = <uint32_t> seconds
            p += 2   # )_
        if form.graph_proc:
            bar = find_bytes(p + 14, stop, b" | ", 3) if stop - p > 14 else NULL
            if bar != NULL:
                head.word = <uint64_t> pid_before(bar, p) << 32
                p = bar + 3
        bars = (form.latency != 0) + (form.graph_duration != 0)
        while bars:
            bar = <const uint8_t *> memchr(p, c'|', stop - p)
            if bar == NULL:
                break
            p = bar + 1
            bars -= 1
        is_leaf = is_leaf_call(behind_blanks(p), stop)
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
        if name.key & C_HAS_COMM:
            put_comm(record + at, head.comm, head.comm_size)
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


cdef inline int is_digit(uint8_t c) noexcept nogil:
    return <uint8_t> (c - c'0') < 10


cdef inline void store32(uint8_t *p, uint32_t value) noexcept nogil:
    (<uint32_t *> p)[0] = value


cdef inline void store64(uint8_t *p, uint64_t value) noexcept nogil:
    (<uint64_t *> p)[0] = value


cdef inline const uint8_t *behind_blanks(const uint8_t *p) noexcept nogil:
    while p[0] == c' ':
        p += 1
    return p


cdef inline const uint8_t *behind_number(const uint8_t *p, uint64_t *value) noexcept nogil:
    """Behind a decimal number; p itself where there is none."""
    cdef uint64_t v = 0
    while is_digit(p[0]):
        v = v * 10 + (p[0] - c'0')
        p += 1
    value[0] = v
    return p


cdef inline uint64_t number_at(const uint8_t *p) noexcept nogil:
    cdef uint64_t value
    behind_number(p, &value)
    return value


cdef inline const uint8_t *behind_line(const uint8_t *p, const uint8_t *stop, int is_final) noexcept nogil:
    """The start of the next line; NULL where the line does not end here, but may."""
    cdef const uint8_t *end = <const uint8_t *> memchr(p, c'\n', stop - p) if stop > p else NULL
    if end != NULL:
        return end + 1
    return stop if is_final else NULL


cdef const uint8_t *find_bytes(const uint8_t *p, const uint8_t *stop, const char *wanted, size_t size) noexcept nogil:
    """The first place of some bytes before stop; NULL when there is none."""
    while stop - p >= <ssize_t> size:
        p = <const uint8_t *> memchr(p, wanted[0], stop - p - size + 1)
        if p == NULL:
            return NULL
        if memcmp(p, wanted, size) == 0:
            return p
        p += 1
    return NULL


cdef void put_comm(uint8_t *out, const uint8_t *comm, uint32_t width) noexcept nogil:
    """A comm without the blanks before it, filled up with zeros."""
    cdef uint32_t i = 0
    while i < width and comm[i] == c' ':
        i += 1
    store64(out, 0)
    store64(out + 8, 0)
    memcpy(out, comm + i, width - i)


cdef uint64_t hash_name(const uint8_t *p, uint32_t size, uint32_t key) noexcept nogil:
    cdef uint64_t h = (<uint64_t> key << 32 | size) * HASH
    cdef uint64_t last = 0
    while size >= 8:
        h = (h ^ load64(p)) * HASH
        h ^= h >> 29
        p += 8
        size -= 8
    while size:
        last = last << 8 | p[0]
        p += 1
        size -= 1
    h = (h ^ last) * HASH
    h ^= h >> 29
    return h * HASH


# ---- what a line is

cdef int kind_of(const uint8_t *p, const uint8_t *stop, const Form *form, Head *head) noexcept nogil:
    """A LINE_ number; the head of a LINE_CONTEXT."""
    cdef const uint8_t *body
    if form.verbose:
        body = behind_verbose(p, head)
    elif form.latency:
        body = behind_latency(p, head)
    else:
        body = behind_context(p, head)
    if body != NULL and body <= stop:
        head.body = body
        return LINE_CONTEXT
    if p[0] == c'C' and is_lost(p):
        return LINE_LOST
    if p[0] == c'[' and memcmp(p, b"[LINE TOO BIG]\n", 15) == 0:
        return LINE_TOO_BIG
    return kind_of_drawing(p, stop, form) if form.graph else LINE_MORE


cdef const uint8_t *behind_context(const uint8_t *p, Head *head) noexcept nogil:
    """Behind a context with its ": "; NULL where there is none."""
    cdef const uint8_t *q
    if p[16] != c'-':
        return NULL
    head.comm = p
    head.comm_size = 16
    q = behind_pid(p + 17, head)
    if q == NULL:
        return NULL
    if q[0] == c'(':
        q = behind_tgid(q + 1, head)
        if q == NULL:
            return NULL
    if q[0] != c'[' or not is_digit(q[1]):
        return NULL
    q = behind_cpu(q + 1, head)
    if q[0] != c']' or q[1] != c' ':
        return NULL
    q += 2
    if q[0] != c' ':
        q = behind_flags(q, head)
        if q == NULL:
            return NULL
    if q[0] != c' ':
        return NULL
    q = behind_time(behind_blanks(q), head)
    if q == NULL or q[0] != c':' or q[1] != c' ':
        return NULL
    return q + 2


cdef const uint8_t *find_context(const uint8_t *p, const uint8_t *stop) noexcept nogil:
    """The first context in a text; stop when there is none."""
    cdef const uint8_t *q = p
    cdef const uint8_t *body
    cdef Head head
    while q < stop:
        q = <const uint8_t *> memchr(q, c'-', stop - q)
        if q == NULL:
            return stop
        if q - p >= 16:
            body = behind_context(q - 16, &head)
            if body != NULL and body <= stop:
                return q - 16
        q += 1
    return stop


cdef const uint8_t *behind_latency(const uint8_t *p, Head *head) noexcept nogil:
    """Behind a context with the option latency-format; its time counts from the buffer's start, in us or units."""
    cdef const uint8_t *q
    cdef uint64_t value
    if p[8] != c'-':
        return NULL
    head.comm = p
    head.comm_size = 8
    q = behind_pid(p + 9, head)
    if q == NULL:
        return NULL
    q = behind_blanks(q)
    if not is_digit(q[0]):
        return NULL
    q = behind_cpu_before_flags(q, head)
    if q == NULL or q[0] != c' ':
        return NULL
    q = behind_blanks(q)
    if not is_digit(q[0]):
        return NULL
    q = behind_number(q, &value)
    if q[0] == c'u' and q[1] == c's' and q[2] != 0 and q[2] != c'\n':
        value *= 1000
        q += 3
    head.ts = value
    if q[0] != c':' or q[1] != c' ':
        return NULL
    return q + 2


cdef const uint8_t *behind_cpu_before_flags(const uint8_t *p, Head *head) noexcept nogil:
    """Behind %3d cpu and the flags that follow without a blank; a first flag is no digit."""
    p = behind_cpu(p, head)
    return behind_flags(p, head)


cdef const uint8_t *behind_verbose(const uint8_t *p, Head *head) noexcept nogil:
    """Behind a context with the options latency-format and verbose."""
    cdef const uint8_t *q = p + 16
    cdef uint64_t value, pid
    cdef int is_ns
    if q[0] != c' ':
        return NULL
    head.has = 0
    head.tgid = 0
    head.comm = p
    head.comm_size = 16
    q = behind_blanks(q)
    if not is_digit(q[0]):
        return NULL
    q = behind_number(q, &pid)
    if q[0] != c' ' or pid >> 31:
        return NULL
    q = behind_blanks(q)
    if not is_digit(q[0]):
        return NULL
    q = behind_cpu(q, head)
    if q[0] != c' ' or not is_digit(q[1]):
        return NULL
    q = behind_number(q + 1, &value)
    head.word = (value & 0xFF) << 16 | pid << 32
    if q[0] != c' ' or hex_value(q[1]) == NO_FLAG:
        return NULL
    q = behind_hex(q + 1, &value)
    head.word |= (value & 0xFF) << 24
    if q[0] != c' ' or hex_value(q[1]) == NO_FLAG:
        return NULL
    q = behind_hex(q + 1, &value)   # the entry's number
    if q[0] != c' ' or q[1] != c'[' or hex_value(q[2]) == NO_FLAG:
        return NULL
    p = q + 2
    q = behind_hex(p, &value)
    if q[0] != c']' or q[1] != c' ':
        return NULL
    q += 2
    is_ns = 0
    while is_digit(q[0]) or q[0] == c'.' or q[0] == c'm' or q[0] == c's' or q[0] == c'(' or q[0] == c'+' or (
        q[0] == c' ' and q[1] == c'('
    ):
        is_ns |= q[0] == c'm'
        q += 1
    if q[0] != c')' or q[1] != c':' or q[2] != c' ':
        return NULL
    head.ts = value * 1000 if is_ns else value
    return q + 3


cdef inline const uint8_t *behind_pid(const uint8_t *p, Head *head) noexcept nogil:
    """Behind %-7d and a blank; begins a head anew."""
    cdef uint64_t value
    cdef int is_negative = p[0] == c'-'
    cdef const uint8_t *q = p + is_negative
    if not is_digit(q[0]):
        return NULL
    q = behind_number(q, &value)
    if q - p > 11 or value > <uint64_t> 1 << 31:
        return NULL
    while q < p + 7:
        if q[0] != c' ':
            return NULL
        q += 1
    if q[0] != c' ':
        return NULL
    head.word = <uint64_t> (<uint32_t> (-value if is_negative else value)) << 32
    head.has = 0
    head.tgid = 0
    return q + 1


cdef const uint8_t *behind_tgid(const uint8_t *p, Head *head) noexcept nogil:
    """Behind what follows the bracket of a tgid; unknown is 0, as in the kernel."""
    cdef const uint8_t *q
    cdef uint64_t value = 0
    if memcmp(p, b"-------) ", 9) == 0:
        q = p + 7
    else:
        q = behind_blanks(p)
        if not is_digit(q[0]):
            return NULL
        q = behind_number(q, &value)
    if q - p < 7 or q[0] != c')' or q[1] != c' ' or value >> 31:
        return NULL
    head.tgid = <int32_t> value
    head.has = C_HAS_TGID
    return q + 2


cdef inline const uint8_t *behind_cpu(const uint8_t *p, Head *head) noexcept nogil:
    cdef uint64_t value
    p = behind_number(p, &value)
    head.cpu = <uint32_t> value
    return p


cdef inline const uint8_t *behind_flags(const uint8_t *p, Head *head) noexcept nogil:
    """Behind 4 or 5 flag columns and before a blank."""
    cdef uint8_t a = flag_table[0][p[0]], b = flag_table[1][p[1]], c = flag_table[2][p[2]]
    cdef uint8_t low = hex_table[p[3]], high = 0
    if a == NO_FLAG or b == NO_FLAG or c == NO_FLAG or low == NO_FLAG:
        return NULL
    p += 4
    if p[0] != c' ':   # kernels before 5.15 have no fifth column
        high = hex_table[p[0]]
        if high == NO_FLAG:
            return NULL
        p += 1
    head.word |= <uint64_t> (a | b | c) << 16 | <uint64_t> (high << 4 | low) << 24
    return p


cdef inline const uint8_t *behind_time(const uint8_t *p, Head *head) noexcept nogil:
    """Behind s.uuuuuu or a plain number."""
    cdef uint64_t seconds, us
    cdef const uint8_t *q
    if not is_digit(p[0]):
        return NULL
    q = behind_number(p, &seconds)
    if q - p > 20:
        return NULL
    if q[0] != c'.':
        head.ts = seconds
        return q
    p = q + 1
    q = behind_number(p, &us)
    if q - p != 6:
        return NULL
    head.ts = (seconds * 1000000 + us) * 1000
    return q


cdef inline uint8_t hex_value(uint8_t c) noexcept nogil:
    """0 to 15, NO_FLAG for what is no lower-case hex digit."""
    return NO_FLAG if c == c'.' else hex_table[c]


cdef const uint8_t *behind_hex(const uint8_t *p, uint64_t *value) noexcept nogil:
    cdef uint64_t v = 0
    while hex_value(p[0]) != NO_FLAG:
        v = v << 4 | hex_value(p[0])
        p += 1
    value[0] = v
    return p


cdef int is_lost(const uint8_t *p) noexcept nogil:
    """Whether this is `CPU:N [LOST M EVENTS]` or `CPU:N [LOST EVENTS]`."""
    cdef uint64_t value
    if memcmp(p, b"CPU:", 4) != 0 or not is_digit(p[4]):
        return 0
    p = behind_number(p + 4, &value)
    if memcmp(p, b" [LOST ", 7) != 0:
        return 0
    p += 7
    if is_digit(p[0]):
        p = behind_number(p, &value)
        if p[0] != c' ':
            return 0
        p += 1
    return memcmp(p, b"EVENTS]\n", 8) == 0


cdef uint32_t fixed_of(const uint8_t *body, const uint8_t *behind_name, const uint8_t *stop) noexcept nogil:
    """The FIXED_ number of an event whose text begins with no name and colon."""
    cdef const uint8_t *p
    cdef const uint8_t *end = behind_line(body, stop, 1)
    if body[0] == c'<':
        if memcmp(body, b"<stack trace>", 13) == 0:
            return FIXED_STACK
        if memcmp(body, b"<user stack trace>", 18) == 0:
            return FIXED_USER_STACK
        return FIXED_OTHER
    if body[0] == c'#':   # `# 1f buf: 01 02`
        if body[1] != c' ' or hex_value(body[2]) == NO_FLAG:
            return FIXED_OTHER
        p = body + 2
        while hex_value(p[0]) != NO_FLAG:
            p += 1
        return FIXED_RAW_DATA if memcmp(p, b" buf:", 5) == 0 else FIXED_OTHER
    p = behind_blanks(body)
    if is_digit(p[0]):   # `  8,0    Q   R 1234 + 8 [comm]`: the blk tracer
        while is_digit(p[0]):
            p += 1
        return FIXED_BLK if p[0] == c',' and is_digit(p[1]) else FIXED_OTHER
    if behind_name > body and find_bytes(behind_name, end, b" <-", 3) != NULL:
        return FIXED_FUNCTION
    return FIXED_OTHER


# ---- function_graph

cdef inline int is_ruler(const uint8_t *p) noexcept nogil:
    return memcmp(p, b" ----------", 11) == 0


cdef int kind_of_drawing(const uint8_t *p, const uint8_t *stop, const Form *form) noexcept nogil:
    """A LINE_ number of a line without a context, under function_graph."""
    cdef const uint8_t *end = behind_line(p, stop, 1)
    cdef const uint8_t *q
    cdef uint64_t value
    if p[0] == c'\n' or is_ruler(p) or find_bytes(p, end, b"==========>", 11) != NULL:
        return LINE_GRAPH_BEFORE
    if memcmp(p, b" => ", 4) == 0 or find_bytes(p, end, b"<==========", 11) != NULL:
        return LINE_MORE
    if form.graph_abstime:
        q = behind_number(behind_blanks(p), &value)
        if q[0] != c'.' or not is_digit((q - 1)[0]):
            return LINE_MORE
        p = q + 1
        q = behind_number(p, &value)
        if q - p != 6 or memcmp(q, b" |  ", 4) != 0:
            return LINE_MORE
        p = q + 4
    if form.graph_cpu:
        if p[0] != c' ':
            return LINE_MORE
        p = behind_blanks(p)
        q = behind_number(p, &value)
        return LINE_GRAPH if q > p and q[0] == c')' and q[1] == c' ' else LINE_MORE
    return LINE_GRAPH if find_bytes(p, end, b"|  ", 3) != NULL else LINE_MORE


cdef const uint8_t *behind_drawing(const uint8_t *p, const uint8_t *stop) noexcept nogil:
    """Behind the lines that are drawn before an event: a switch of tasks, or the way into an interrupt."""
    cdef const uint8_t *end
    while p < stop:
        end = behind_line(p, stop, 1)
        if is_ruler(p):
            p = behind_line(end, stop, 1)   # from whom to whom
            if p < stop and is_ruler(p):
                p = behind_line(p, stop, 1)
        elif p[0] == c'\n' or find_bytes(p, end, b"==========>", 11) != NULL:
            p = end
        else:
            return p
    return p


cdef uint32_t pid_before(const uint8_t *end, const uint8_t *start) noexcept nogil:
    """The number of `comm-123   ` that ends at `end`; 0 where there is none."""
    cdef uint64_t value
    while end > start and (end - 1)[0] == c' ':
        end -= 1
    while end > start and is_digit((end - 1)[0]):
        end -= 1
    if end == start or (end - 1)[0] != c'-':
        return 0
    behind_number(end, &value)
    return <uint32_t> value


cdef int is_leaf_call(const uint8_t *p, const uint8_t *stop) noexcept nogil:
    """Whether a line is `f();`: the call and the return of a function that calls no other, in one."""
    cdef const uint8_t *end = behind_line(p, stop, 1)
    if p[0] == c'}' or p[0] == c'/':
        return 0
    while end - p >= 2:
        p = <const uint8_t *> memchr(p, c')', end - p - 1)
        if p == NULL:
            return 0
        if p[1] == c';':
            return 1
        if p[1] == c' ' and end - p >= 3 and p[2] == c'{':
            return 0
        p += 1
    return 0
