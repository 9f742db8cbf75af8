# msgpack (de)coding for native code: a cursor over bytes that nobody vouches for, and an output that grows.
#
# A failed read moves the cursor to its end and sets `failed`; what is read after it is 0. A failed write sets
# `failed` and leaves the output as it was.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy


cdef struct Cursor:
    const uint8_t *at
    const uint8_t *end
    int failed


cdef struct Out:
    uint8_t *data
    size_t size, room
    int failed


# ---- reading

cdef inline void fail(Cursor *c) noexcept nogil:
    c.failed = 1
    c.at = c.end


cdef inline uint64_t read_big(Cursor *c, uint32_t width) noexcept nogil:
    """A big-endian number of so many bytes."""
    cdef uint64_t value = 0
    cdef uint32_t i
    if <size_t> (c.end - c.at) < width:
        fail(c)
        return 0
    for i in range(width):
        value = value << 8 | c.at[i]
    c.at += width
    return value


cdef inline uint8_t read_type(Cursor *c) noexcept nogil:
    """The next object's type byte, taken."""
    return <uint8_t> read_big(c, 1)


cdef inline int is_bin(Cursor *c) noexcept nogil:
    """Whether the next object is a bin."""
    return c.at < c.end and 0xC4 <= c.at[0] <= 0xC6


cdef inline uint64_t read_uint(Cursor *c) noexcept nogil:
    """A number without a sign."""
    cdef uint8_t kind = read_type(c)
    if kind < 0x80:
        return kind
    if 0xCC <= kind <= 0xCF:
        return read_big(c, 1 << (kind - 0xCC))
    fail(c)
    return 0


cdef inline uint32_t read_array(Cursor *c) noexcept nogil:
    """How many elements the array has that begins here."""
    cdef uint8_t kind = read_type(c)
    if kind & 0xF0 == 0x90:
        return kind & 0x0F
    if kind == 0xDC:
        return <uint32_t> read_big(c, 2)
    if kind == 0xDD:
        return <uint32_t> read_big(c, 4)
    fail(c)
    return 0


cdef inline const uint8_t *read_bin(Cursor *c, uint32_t *size) noexcept nogil:
    """The bytes of a bin."""
    cdef uint8_t kind = read_type(c)
    cdef uint64_t n
    cdef const uint8_t *p
    size[0] = 0
    if not 0xC4 <= kind <= 0xC6:
        fail(c)
        return c.end
    n = read_big(c, 1 << (kind - 0xC4))
    if c.failed or n > <size_t> (c.end - c.at):
        fail(c)
        return c.end
    p = c.at
    c.at += n
    size[0] = <uint32_t> n
    return p


# ---- writing: each value in its shortest spelling

cdef inline uint8_t *room_for(Out *out, size_t more) noexcept nogil:
    """Room for so many bytes behind what is there; NULL when there is no memory."""
    cdef uint8_t *grown
    cdef size_t room
    if out.size + more > out.room:
        room = (out.size + more) * 3 // 2 + 65536
        grown = <uint8_t *> realloc(out.data, room)
        if grown == NULL:
            out.failed = 1
            return NULL
        out.data = grown
        out.room = room
    return out.data + out.size


cdef inline void put_bytes(Out *out, const uint8_t *from_, size_t size) noexcept nogil:
    cdef uint8_t *p = room_for(out, size)
    if p != NULL:
        memcpy(p, from_, size)
        out.size += size


cdef inline void put_byte(Out *out, uint8_t value) noexcept nogil:
    cdef uint8_t *p = room_for(out, 1)
    if p != NULL:
        p[0] = value
        out.size += 1


cdef inline void put_typed(Out *out, uint8_t kind, uint64_t value, uint32_t width) noexcept nogil:
    """A type byte and a big-endian number behind it."""
    cdef uint8_t *p = room_for(out, 9)
    cdef uint32_t i
    if p == NULL:
        return
    p[0] = kind
    for i in range(width):
        p[1 + i] = <uint8_t> (value >> (8 * (width - 1 - i)))
    out.size += 1 + width


cdef inline void put_uint(Out *out, uint64_t value) noexcept nogil:
    if value < 0x80:
        put_byte(out, <uint8_t> value)
    elif value < 0x100:
        put_typed(out, 0xCC, value, 1)
    elif value < 0x10000:
        put_typed(out, 0xCD, value, 2)
    elif value <= <uint64_t> 0xFFFFFFFF:
        put_typed(out, 0xCE, value, 4)
    else:
        put_typed(out, 0xCF, value, 8)


cdef inline void put_int(Out *out, int64_t value) noexcept nogil:
    if value >= 0:
        put_uint(out, <uint64_t> value)
    elif value >= -32:
        put_byte(out, <uint8_t> value)
    elif value >= -0x80:
        put_typed(out, 0xD0, <uint64_t> value, 1)
    elif value >= -0x8000:
        put_typed(out, 0xD1, <uint64_t> value, 2)
    elif value >= -<int64_t> 0x80000000:
        put_typed(out, 0xD2, <uint64_t> value, 4)
    else:
        put_typed(out, 0xD3, <uint64_t> value, 8)


cdef inline void put_count(Out *out, uint32_t n, uint8_t fixed, uint8_t wide) noexcept nogil:
    """How many elements follow: in the type byte itself up to 15, behind `wide` or the type after it."""
    if n < 16:
        put_byte(out, fixed | <uint8_t> n)
    elif n < 0x10000:
        put_typed(out, wide, n, 2)
    else:
        put_typed(out, wide + 1, n, 4)


cdef inline void put_array(Out *out, uint32_t n) noexcept nogil:
    put_count(out, n, 0x90, 0xDC)


cdef inline void put_map(Out *out, uint32_t n) noexcept nogil:
    put_count(out, n, 0x80, 0xDE)


cdef inline void put_size(Out *out, uint32_t size, uint8_t small) noexcept nogil:
    """How many bytes follow, in one, two or four bytes behind `small` or one of the two types after it."""
    if size < 0x100:
        put_typed(out, small, size, 1)
    elif size < 0x10000:
        put_typed(out, small + 1, size, 2)
    else:
        put_typed(out, small + 2, size, 4)


cdef inline void put_str(Out *out, const uint8_t *text, uint32_t size) noexcept nogil:
    """Bytes that are known to be UTF-8."""
    if size < 32:
        put_byte(out, <uint8_t> (0xA0 | size))
    else:
        put_size(out, size, 0xD9)
    put_bytes(out, text, size)


cdef inline uint8_t *reserve_bin(Out *out, uint32_t size) noexcept nogil:
    """A bin of so many bytes for the caller to fill; NULL when there is no memory."""
    cdef uint8_t *p
    if room_for(out, <size_t> size + 9) == NULL:
        return NULL
    put_size(out, size, 0xC4)
    p = out.data + out.size
    out.size += size
    return p


cdef inline void put_bin(Out *out, const uint8_t *data, uint32_t size) noexcept nogil:
    cdef uint8_t *p = reserve_bin(out, size)
    if p != NULL:
        memcpy(p, data, size)


cdef inline int is_utf8(const uint8_t *p, size_t size) noexcept nogil:
    """Whether these bytes are UTF-8 as RFC 3629 has it: nothing overlong, no surrogates."""
    cdef const uint8_t *end = p + size
    cdef uint64_t eight
    cdef uint8_t a, low
    cdef uint32_t more
    while p < end:
        if end - p >= 8:
            memcpy(&eight, p, 8)
            if eight & <uint64_t> 0x8080808080808080 == 0:
                p += 8
                continue
        a = p[0]
        p += 1
        if a < 0x80:
            continue
        low = 0x80
        if 0xC2 <= a <= 0xDF:
            more = 1
        elif 0xE0 <= a <= 0xEF:
            more = 2
            if a == 0xE0:
                low = 0xA0
        elif 0xF0 <= a <= 0xF4:
            more = 3
            if a == 0xF0:
                low = 0x90
        else:
            return 0
        if <size_t> (end - p) < more or p[0] < low or p[0] > 0xBF:
            return 0
        if (a == 0xED and p[0] > 0x9F) or (a == 0xF4 and p[0] > 0x8F):
            return 0
        if more > 1 and p[1] & 0xC0 != 0x80:
            return 0
        if more > 2 and p[2] & 0xC0 != 0x80:
            return 0
        p += more
    return 1
