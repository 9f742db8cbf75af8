# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The drawing of function_graph: which of its lines begin an event, and what they say. No Python interface.

    graph = [time " |  "] [" " cpu ") "] [comm "-" pid " | "] [flags " | "] duration "|  " text NL *more
            ; each as its option says. Under a latency tracer time is " " us " us"

The whole line is kept, with the rulers and arrows that were drawn before it. Bounds: as in text_lines.pyx.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memset

from collector.decode.scan cimport behind_blanks, behind_line, behind_number, find_bytes, is_digit
from collector.decode.text_lines cimport behind_flags
from collector.decode.text_forms cimport Form, Head, LINE_GRAPH, LINE_GRAPH_BEFORE, LINE_MORE


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
    if form.graph_reltime:
        q = behind_blanks(p)
        p = behind_number(q, &value)
        if p == q or memcmp(p, b" us |  ", 7) != 0:
            return LINE_MORE
        p += 6
    if form.graph_cpu:
        if p[0] != c' ':
            return LINE_MORE
        p = behind_blanks(p)
        q = behind_number(p, &value)
        return LINE_GRAPH if q > p and q[0] == c')' and q[1] == c' ' else LINE_MORE
    if form.graph_abstime:   # with nothing else in the line either
        return LINE_GRAPH
    if form.graph_duration:
        return LINE_GRAPH if find_bytes(p, end, b"|  ", 3) != NULL else LINE_MORE
    return LINE_GRAPH if form.graph_proc and find_bytes(p, end, b" | ", 3) != NULL else LINE_MORE


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


cdef int read_drawing(const uint8_t *start, const uint8_t *stop, const Form *form, Head *head) noexcept nogil:
    """What a LINE_GRAPH and the lines before it say, as far as the options show it; the time is left where they do not.

    Returns: whether the line is two entries: the call and the return of a function that calls no other.
    """
    cdef const uint8_t *p = behind_drawing(start, stop)
    cdef const uint8_t *bar
    cdef uint64_t seconds, us
    cdef int bars
    if form.graph_abstime:
        p = behind_number(behind_blanks(p), &seconds)
        p = behind_number(p + 1, &us)
        head.ts = (seconds * 1000000 + us) * 1000
        p += 4   # _|__
    if form.graph_reltime:
        p = behind_number(behind_blanks(p), &us)
        head.ts = us * 1000
        p += 6   # _us_|_
    if form.graph_cpu:
        p = behind_number(behind_blanks(p), &seconds)
        head.cpu = <uint32_t> seconds
        p += 2   # )_
    if form.graph_proc:
        bar = find_bytes(p + 14, stop, b" | ", 3) if stop - p > 14 else NULL
        if bar != NULL:
            head.word = <uint64_t> pid_before(bar, p) << 32
            p = bar + 3
    if form.latency:
        behind_flags(behind_blanks(p), form, head)
    bars = (form.latency != 0) + (form.graph_duration != 0)
    while bars:
        bar = <const uint8_t *> memchr(p, c'|', stop - p)
        if bar == NULL:
            break
        p = bar + 1
        bars -= 1
    return is_leaf_call(behind_blanks(p), stop)


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
