# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""What a line of a text pipe is, and what stands before its event's own text. No Python interface: for text.pyx.

Grammar of a line, to the byte (kernel/trace/trace_output.c; %5s: at least 5 wide, right-aligned):

    event    = context text NL *more
    context  = %16s comm "-" pid " " [ "(" tgid or dashes ") " ] "[" %03d cpu "] " [flags] time ": "
    pid      = %-7d, before 5.10 %-5d
    tgid     = %7d, before 5.10 %5d; as many dashes for one that is not known
    flags    = a character for each column that the header of `trace` names: 4, from 5.15 on 5, 6 or 7 with PREEMPT_RT
               and in RHEL, see FLAGS; none with the option irq-info off
    time     = " " %5lu s "." %06lu us, or " " %12llu for clocks that are no nanoseconds
    latency  = %8.8s comm "-" pid " " %3d cpu flags " " %4lld us "us" mark ": "
    verbose  = %16s comm " " %7d pid " " %3d cpu " " flags " " %08x preempt " " %08lx " [" %08llx us "] " ... "): "
    lost     = "CPU:" cpu " [LOST " [count " "] "EVENTS]" NL
    text     = name ": " ... or what a tracer makes of it
    more     = a line that begins no event: of a stack trace, or of a text with newlines in it. One that has a comm, a
               pid, a CPU and a colon in their places begins one all the same, though the rest of its head is not known
    joined   = context text context text NL            ; of trace_printk, whose text may lack the newline
    graph    = function_graph's, see text_drawing.pyx

The comm is whatever a process calls itself, newlines included, but its width is fixed: the grammar is anchored at the
byte behind it and parsed to the right of that.

Bounds: the text ends with GUARD_BYTES zeros that no step of the grammar takes, and no step looks further ahead.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from collector.decode.hash cimport scatter
from collector.decode.memory cimport load64
from collector.decode.scan cimport behind_blanks, behind_line, behind_number, find_bytes, is_digit
from collector.decode.text_drawing cimport kind_of_drawing
from collector.decode.text_forms cimport (
    C_HAS_LAZY, C_HAS_TGID, FIXED_BLK, FIXED_FUNCTION, FIXED_OTHER, FIXED_RAW_DATA, FIXED_STACK, FIXED_USER_STACK, FLAGS_MOST,
    FLAG_IRQS, FLAG_IRQ_CONTEXT, FLAG_MIGRATE_DISABLE, FLAG_NEED_RESCHED, FLAG_NEED_RESCHED_LAZY, FLAG_PREEMPT_DEPTH,
    FLAG_PREEMPT_LAZY_DEPTH, Form, Head, LINE_ALIEN, LINE_CONTEXT, LINE_LOST, LINE_MORE, LINE_TOO_BIG, PREFIX_BYTES, Prefix, Seen,
)

cdef enum:
    NO_FLAG = 0xFF     # of a character that no flag column has

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


def _fill_tables():
    memset(flag_table, NO_FLAG, sizeof(flag_table))
    memset(hex_table, NO_FLAG, sizeof(hex_table))
    for column, letters in enumerate(_FLAG_LETTERS):
        for letter, bits in letters.items():
            flag_table[column][ord(letter)] = bits
    hex_table[ord(".")] = 0
    for value in range(16):
        hex_table[ord("0123456789abcdef"[value])] = value


_fill_tables()


cdef int kind_of(const uint8_t *p, const uint8_t *stop, const Form *form, Seen *seen, Head *head) noexcept nogil:
    """A LINE_ number; the head of a LINE_CONTEXT."""
    cdef const uint8_t *body
    if form.verbose:
        body = behind_verbose(p, head)
    elif form.latency:
        body = behind_latency(p, form, head)
    else:
        body = behind_context(p, form, seen, head)
    if body != NULL and body <= stop:
        head.body = body
        return LINE_CONTEXT
    if p[0] == c'C' and is_lost(p):
        return LINE_LOST
    if p[0] == c'[' and memcmp(p, b"[LINE TOO BIG]\n", 15) == 0:
        return LINE_TOO_BIG
    if form.graph:
        return kind_of_drawing(p, stop, form)
    return LINE_ALIEN if not form.latency and has_a_head(p, stop) else LINE_MORE


cdef int has_a_head(const uint8_t *p, const uint8_t *stop) noexcept nogil:
    """Whether a line has a thread, a CPU and a time in their places, whatever stands between them."""
    cdef const uint8_t *end
    cdef const uint8_t *cpu
    cdef const uint8_t *colon
    if p[16] != c'-' or not is_digit(p[17]):
        return 0
    end = behind_line(p, stop, 1)
    cpu = find_bytes(p + 18, end, b" [", 2)
    if cpu == NULL or cpu - p > 40 or not is_digit(cpu[2]):
        return 0
    colon = find_bytes(cpu + 3, end, b": ", 2)
    return colon != NULL and is_digit((colon - 1)[0]) and find_bytes(cpu + 3, colon, b"] ", 2) != NULL


cdef const uint8_t *behind_context(const uint8_t *p, const Form *form, Seen *seen, Head *head) noexcept nogil:
    """Behind a context with its ": "; NULL where there is none."""
    cdef const uint8_t *q
    cdef Prefix *known
    cdef uint64_t pid
    if p[16] != c'-':
        return NULL
    pid = load64(p + 16)
    known = &seen.prefixes[scatter(pid) >> 60]
    if (pid == known.text[2] and load64(p) == known.text[0] and load64(p + 8) == known.text[1]
            and load64(p + PREFIX_BYTES - 8) == known.text[3]):
        head.word = known.word
        head.comm[0] = known.comm[0]
        head.comm[1] = known.comm[1]
        head.cpu = known.cpu
        head.has = 0
        head.tgid = 0
        head.lazy = 0
        q = p + PREFIX_BYTES
    else:
        q = behind_prefix(p, head)
        if q == NULL:
            return NULL
        if q == p + PREFIX_BYTES and not head.has:
            known.text[0] = load64(p)
            known.text[1] = load64(p + 8)
            known.text[2] = pid
            known.text[3] = load64(p + PREFIX_BYTES - 8)
            known.word = head.word
            known.comm[0] = head.comm[0]
            known.comm[1] = head.comm[1]
            known.cpu = head.cpu
    if q[0] != c' ':
        q = behind_flags(q, form, head)
        if q == NULL:
            return NULL
    if q[0] != c' ':
        return NULL
    q = behind_time(q, seen, head)
    if q == NULL or q[0] != c':' or q[1] != c' ':
        return NULL
    return q + 2


cdef const uint8_t *behind_prefix(const uint8_t *p, Head *head) noexcept nogil:
    """Behind what a context begins with, up to the flags; begins a head anew."""
    cdef const uint8_t *q = behind_pid(p + 17, head)
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
    take_comm(p, 16, head)
    return q + 2


cdef void take_comm(const uint8_t *p, uint32_t width, Head *head) noexcept nogil:
    """Note a comm without the blanks before it."""
    cdef uint32_t i = 0, at
    while i < width and p[i] == c' ':
        i += 1
    head.comm[0] = head.comm[1] = 0
    for at in range(width - i):
        head.comm[at >> 3] |= <uint64_t> p[i + at] << ((at & 7) << 3)


cdef const uint8_t *find_context(
    const uint8_t *p, const uint8_t *stop, const Form *form, Seen *seen
) noexcept nogil:
    """The first context in a text; stop when there is none."""
    cdef const uint8_t *q = p
    cdef const uint8_t *body
    cdef Head head
    while q < stop:
        q = <const uint8_t *> memchr(q, c'-', stop - q)
        if q == NULL:
            return stop
        if q - p >= 16:
            body = behind_context(q - 16, form, seen, &head)
            if body != NULL and body <= stop:
                return q - 16
        q += 1
    return stop


cdef const uint8_t *behind_latency(const uint8_t *p, const Form *form, Head *head) noexcept nogil:
    """Behind a context with the option latency-format; its time counts from the buffer's start, in us or units."""
    cdef const uint8_t *q
    cdef uint64_t value
    if p[8] != c'-':
        return NULL
    q = behind_pid(p + 9, head)
    if q == NULL:
        return NULL
    take_comm(p, 8, head)
    q = behind_blanks(q)
    if not is_digit(q[0]):
        return NULL
    q = behind_flags(behind_cpu(q, head), form, head)   # without a blank between; a first flag is no digit
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


cdef const uint8_t *behind_verbose(const uint8_t *p, Head *head) noexcept nogil:
    """Behind a context with the options latency-format and verbose."""
    cdef const uint8_t *q = p + 16
    cdef uint64_t value, pid
    cdef int is_ns
    if q[0] != c' ':
        return NULL
    head.has = 0
    head.tgid = 0
    head.lazy = 0
    take_comm(p, 16, head)
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
    """Behind a pid, the blanks that fill its column up, and one more; begins a head anew."""
    cdef uint64_t value
    cdef int is_negative = p[0] == c'-'
    cdef const uint8_t *q = p + is_negative
    if not is_digit(q[0]):
        return NULL
    q = behind_number(q, &value)
    if q - p > 11 or value > <uint64_t> 1 << 31 or q[0] != c' ':
        return NULL
    q += 1
    while q[0] == c' ' and q - p < 8:   # %-7d, or before 5.10 %-5d
        q += 1
    head.word = <uint64_t> (<uint32_t> (-value if is_negative else value)) << 32
    head.has = 0
    head.tgid = 0
    head.lazy = 0
    return q


cdef const uint8_t *behind_tgid(const uint8_t *p, Head *head) noexcept nogil:
    """Behind what follows the bracket of a tgid; unknown is 0, as in the kernel."""
    cdef const uint8_t *q
    cdef uint64_t value = 0
    if p[0] == c'-':   # as many as the column is wide
        q = p
        while q[0] == c'-':
            q += 1
    else:
        q = behind_blanks(p)
        if not is_digit(q[0]):
            return NULL
        q = behind_number(q, &value)
    if q - p < 5 or q - p > 11 or q[0] != c')' or q[1] != c' ' or value >> 31:
        return NULL
    head.tgid = <int32_t> value
    head.has = C_HAS_TGID
    return q + 2


cdef inline const uint8_t *behind_cpu(const uint8_t *p, Head *head) noexcept nogil:
    cdef uint64_t value
    p = behind_number(p, &value)
    head.cpu = <uint32_t> value
    return p


cdef const uint8_t *behind_flags(const uint8_t *p, const Form *form, Head *head) noexcept nogil:
    """Behind the flag columns and before a blank."""
    cdef uint8_t a, b, c, low, high = 0
    cdef uint32_t n
    if form.n_flags == 0 or (form.n_flags <= 5 and form.flags[0] == FLAG_IRQS and form.flags[3] == FLAG_PREEMPT_DEPTH):
        a = flag_table[0][p[0]]
        b = flag_table[1][p[1]]
        c = flag_table[2][p[2]]
        low = hex_table[p[3]]
        if a != NO_FLAG and b != NO_FLAG and c != NO_FLAG and low != NO_FLAG:
            if p[4] != c' ':   # kernels before 5.15 have no fifth column
                high = hex_table[p[4]]
            if high != NO_FLAG and p[4 + (p[4] != c' ')] == c' ':
                head.word |= <uint64_t> (a | b | c) << 16 | <uint64_t> (high << 4 | low) << 24
                return p + 4 + (p[4] != c' ')
    n = 0
    while n < FLAGS_MOST and p[n] > c' ':
        n += 1
    if form.n_flags:
        return behind_columns(p, n, form.flags, head) if n == form.n_flags else NULL
    if n == 7:
        return behind_columns(p, n, SEVEN_COLUMNS, head)
    return behind_columns(p, n, SIX_COLUMNS, head) if n == 6 else NULL


# What the columns are where no header says it. PREEMPT_RT, and RHEL, whose need-resched has no column for lazy.
cdef uint8_t SEVEN_COLUMNS[7]
SEVEN_COLUMNS[:] = [
    FLAG_IRQS, FLAG_NEED_RESCHED, FLAG_NEED_RESCHED_LAZY, FLAG_IRQ_CONTEXT, FLAG_PREEMPT_DEPTH, FLAG_PREEMPT_LAZY_DEPTH,
    FLAG_MIGRATE_DISABLE,
]
cdef uint8_t SIX_COLUMNS[6]
SIX_COLUMNS[:] = [
    FLAG_IRQS, FLAG_NEED_RESCHED, FLAG_IRQ_CONTEXT, FLAG_PREEMPT_DEPTH, FLAG_PREEMPT_LAZY_DEPTH, FLAG_MIGRATE_DISABLE,
]


cdef const uint8_t *behind_columns(const uint8_t *p, uint32_t n, const uint8_t *columns, Head *head) noexcept nogil:
    """Behind n flag columns, each of which says what `columns` tells."""
    cdef uint32_t i
    cdef uint8_t value, flags = 0, low = 0, high = 0
    for i in range(n):
        if columns[i] <= FLAG_IRQ_CONTEXT:
            value = flag_table[columns[i]][p[i]]
            flags |= value
        elif columns[i] == FLAG_NEED_RESCHED_LAZY:
            # L or none. Where lazy has a column of its own it has the bit of PREEMPT_RESCHED, not that of 6.13 and newer.
            value = flag_table[1][p[i]]
            flags |= 0x20 if value != 0 else 0
        elif columns[i] == FLAG_PREEMPT_DEPTH:
            value = low = hex_table[p[i]]
        elif columns[i] == FLAG_PREEMPT_LAZY_DEPTH:
            value = hex_table[p[i]]
            head.lazy = value
            head.has |= C_HAS_LAZY
        elif columns[i] == FLAG_MIGRATE_DISABLE:
            value = high = hex_table[p[i]]
        else:
            value = 0
        if value == NO_FLAG:
            return NULL
    head.word |= <uint64_t> flags << 16 | <uint64_t> (high << 4 | low) << 24
    return p + n


cdef inline const uint8_t *behind_time(const uint8_t *p, Seen *seen, Head *head) noexcept nogil:
    """Behind blanks and s.uuuuuu or a plain number."""
    cdef uint64_t seconds, us
    cdef const uint8_t *q
    cdef const uint8_t *dot
    if seen.seconds_size and load64(p) & seen.seconds_mask == seen.seconds_text:
        dot = p + seen.seconds_size - 1
        us = seen.seconds_us
    else:
        q = behind_blanks(p)
        if not is_digit(q[0]):
            return NULL
        dot = behind_number(q, &seconds)
        if dot - q > 20:
            return NULL
        if dot[0] != c'.':
            head.ts = seconds
            return dot
        us = seconds * 1000000
        if dot - p < 8:
            seen.seconds_size = <uint32_t> (dot + 1 - p)
            seen.seconds_mask = ~<uint64_t> 0 >> (64 - 8 * seen.seconds_size)
            seen.seconds_text = load64(p) & seen.seconds_mask
            seen.seconds_us = us
    if not take_six_digits(load64(dot + 1), &seconds) or is_digit(dot[7]):
        return NULL
    head.ts = (us + seconds) * 1000
    return dot + 7


cdef inline int take_six_digits(uint64_t text, uint64_t *value) noexcept nogil:
    """Whether 8 bytes begin with 6 digits, and their number: pairs of digits, then pairs of pairs at once."""
    text <<= 16   # as if two zeros were before them
    if (text & <uint64_t> 0xF0F0F0F0F0F00000) != <uint64_t> 0x3030303030300000 or (
        (text + <uint64_t> 0x0606060606060000) & <uint64_t> 0xF0F0F0F0F0F00000
    ) != <uint64_t> 0x3030303030300000:
        return 0
    text &= <uint64_t> 0x0F0F0F0F0F0F0000
    text = text * 10 + (text >> 8)
    value[0] = ((text & <uint64_t> 0xFF000000FF) * <uint64_t> 0xF424000000064
                + (text >> 16 & <uint64_t> 0xFF000000FF) * <uint64_t> 0x271000000001) >> 32
    return 1


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
