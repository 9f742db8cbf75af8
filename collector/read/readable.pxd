# Readable forms of addresses and masks, as collector/read/meaning.py has them, written into a message.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from collector.decode.msg cimport Out, put_byte, put_str

cdef enum:
    FORM_NONE = 0
    FORM_IPV4 = 1
    FORM_IPV6 = 2
    FORM_MAC = 3
    FORM_SOCKADDR = 4
    FORM_BITMASK = 5

cdef enum:
    FORM_MOST = 64            # characters of any but a bitmask
    AF_INET = 2
    AF_INET6 = 10
    NIL = 0xC0


cdef inline uint8_t *number(uint8_t *to, uint64_t value, uint32_t base) noexcept nogil:
    """Writes a number, and gives the place behind it."""
    cdef const char *names = "0123456789abcdef"
    cdef uint8_t digits[20]
    cdef uint32_t n = 0
    while True:
        digits[n] = <uint8_t> names[value % base]
        n += 1
        value //= base
        if value == 0:
            break
    while n:
        n -= 1
        to[0] = digits[n]
        to += 1
    return to


cdef inline uint8_t *ipv4(uint8_t *to, const uint8_t *p) noexcept nogil:
    cdef uint32_t i
    for i in range(4):
        if i:
            to[0] = c'.'
            to += 1
        to = number(to, p[i], 10)
    return to


cdef inline uint8_t *ipv6(uint8_t *to, const uint8_t *p) noexcept nogil:
    """RFC 5952: the longest run of zeros, of two at least and the first of such, is left out."""
    cdef const char *mapped = "::ffff:"
    cdef uint16_t words[8]
    cdef uint32_t i, run = 0, begin = 8, longest = 1
    for i in range(8):
        words[i] = <uint16_t> (p[2 * i] << 8 | p[2 * i + 1])
    for i in range(8):
        run = run + 1 if words[i] == 0 else 0
        if run > longest:
            longest = run
            begin = i + 1 - run
    if begin == 0 and longest == 5 and words[5] == 0xFFFF:
        for i in range(7):
            to[i] = <uint8_t> mapped[i]
        return ipv4(to + 7, p + 12)
    i = 0
    while i < 8:
        if i == begin:
            to[0] = c':'
            to += 1
            if i == 0:
                to[0] = c':'
                to += 1
            i += longest
            continue
        to = number(to, words[i], 16)
        i += 1
        if i < 8:
            to[0] = c':'
            to += 1
    return to


cdef inline uint8_t *mac(uint8_t *to, const uint8_t *p) noexcept nogil:
    cdef const char *names = "0123456789abcdef"
    cdef uint32_t i
    for i in range(6):
        if i:
            to[0] = c':'
            to += 1
        to[0] = <uint8_t> names[p[i] >> 4]
        to[1] = <uint8_t> names[p[i] & 15]
        to += 2
    return to


cdef inline uint8_t *port(uint8_t *to, const uint8_t *p) noexcept nogil:
    to[0] = c':'
    return number(to + 1, <uint32_t> p[0] << 8 | p[1], 10)


cdef inline void put_form(Out *out, uint32_t form, const uint8_t *p, uint32_t size) noexcept nogil:
    """The readable form of an address as a string; nil for bytes that are none."""
    cdef uint8_t text[FORM_MOST]
    cdef uint8_t *end = NULL
    cdef uint32_t family
    if form == FORM_IPV4 and size == 4:
        end = ipv4(text, p)
    elif form == FORM_IPV6 and size == 16:
        end = ipv6(text, p)
    elif form == FORM_MAC and size == 6:
        end = mac(text, p)
    elif form == FORM_SOCKADDR and size >= 8:
        family = p[0] | <uint32_t> p[1] << 8
        if family == AF_INET:
            end = port(ipv4(text, p + 4), p + 2)
        elif family == AF_INET6 and size >= 24:
            text[0] = c'['
            end = ipv6(text + 1, p + 8)
            end[0] = c']'
            end = port(end + 1, p + 2)
    if end == NULL:
        put_byte(out, NIL)
    else:
        put_str(out, text, <uint32_t> (end - text))
