# The names of a text's events.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from collector.decode.ring cimport Plan
from collector.decode.text_forms cimport Form

cdef enum:
    C_FIRST_ID = 32768
    NAME_MOST = 64            # bytes of an event's name that make it one; GUARD_BYTES is more
    NAMES_MOST = 8192         # a kernel has 2,300 events; a process that writes markers can make up more
    NAME_SLOTS = 32768        # of the hash table; a power of two


cdef struct Name:
    # An event of the text, by its name and by what its lines have.
    uint64_t hashed
    uint32_t event_id
    uint32_t key              # kind of line, and HAS_ bits
    uint32_t size
    int joins                 # its text may end without a newline
    uint8_t text[NAME_MOST]


cdef class TextPlan(Plan):
    cdef Form form
    cdef Name **slots         # [NAME_SLOTS], NULL: free
    cdef Name **names         # [NAMES_MOST] by event id
    cdef uint32_t n_names
    cdef Name *fixed[32]      # lines without a name of their own, by FIXED_ number and WITH_ bits
    cdef object lock
    cdef Name *find(self, const uint8_t *p, uint32_t size, uint32_t key) noexcept nogil
    cdef Name *add_name(self, const uint8_t *p, uint32_t size, uint32_t key) except NULL
