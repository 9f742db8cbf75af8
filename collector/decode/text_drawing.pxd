from libc.stdint cimport uint8_t

from collector.decode.text_forms cimport Form, Head


cdef int kind_of_drawing(const uint8_t *p, const uint8_t *stop, const Form *form) noexcept nogil
cdef const uint8_t *behind_drawing(const uint8_t *p, const uint8_t *stop) noexcept nogil
cdef int read_drawing(const uint8_t *start, const uint8_t *stop, const Form *form, Head *head) noexcept nogil
