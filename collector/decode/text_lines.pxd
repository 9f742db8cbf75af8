from libc.stdint cimport uint8_t, uint32_t

from collector.decode.text_forms cimport Form, Head, Seen


cdef int kind_of(const uint8_t *p, const uint8_t *stop, const Form *form, Seen *seen, Head *head) noexcept nogil
cdef const uint8_t *find_context(
    const uint8_t *p, const uint8_t *stop, const Form *form, Seen *seen
) noexcept nogil
cdef const uint8_t *behind_flags(const uint8_t *p, const Form *form, Head *head) noexcept nogil
cdef uint32_t fixed_of(const uint8_t *body, const uint8_t *behind_name, const uint8_t *stop) noexcept nogil
