# Structures of the text parser.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from collector.decode.ring cimport Batch, Plan

cdef enum:
    NAME_MOST = 64            # bytes of an event's name that make it one
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


cdef struct Head:
    # What stands before an event's own text.
    uint64_t ts
    uint64_t word             # the common head without the event id
    uint32_t cpu
    int32_t tgid
    uint32_t has              # HAS_ bits
    uint32_t comm_size        # width of the comm column
    const uint8_t *comm       # right-aligned, padded with blanks
    const uint8_t *body       # the event's own text


cdef struct Form:
    # What the instance's options make of a line.
    int whole                 # lines of all CPUs come through one pipe
    int latency, verbose      # options latency-format and verbose
    int graph                 # function_graph: no head, but a drawing
    int graph_cpu, graph_abstime, graph_proc, graph_duration


cdef class TextPlan(Plan):
    cdef Form form
    cdef Name **slots         # [NAME_SLOTS], NULL: free
    cdef Name **names         # [NAMES_MOST] by event id
    cdef uint32_t n_names
    cdef Name *fixed[16]      # lines without a name of their own, by FIXED_ number and whether they have a tgid
    cdef object lock
    cdef Name *find(self, const uint8_t *p, uint32_t size, uint32_t key) noexcept nogil
    cdef Name *add_name(self, const uint8_t *p, uint32_t size, uint32_t key) except NULL


cdef class TextBatch(Batch):
    cdef TextPlan text_plan
    cdef uint8_t *text        # the last TEXT_BYTES of pages: what was read and not parsed yet
    cdef uint32_t at, end     # of it
    cdef Head ahead           # of the line at ahead_at
    cdef int ahead_kind
    cdef uint32_t ahead_at    # NOT_AHEAD: no line was looked at
    cdef uint64_t last_time   # of a line that had one: for those that have none
    # What the last parse stopped at, for UNKNOWN: an id without a plan, or a name without an id.
    cdef uint32_t miss_id, miss_key, miss_size
    cdef const uint8_t *miss_name
    cdef readonly uint64_t total_unparsed   # entries that are lines kept as they are
    cdef readonly uint64_t total_folded     # entries of the ring that share a line with the one before
    cdef int fill_text(self, int fd, size_t max_bytes, int *fault) noexcept nogil
    cdef int parse(self, int is_final) noexcept nogil
    cdef int look(self, uint32_t at) noexcept nogil
    cdef int take_event(self, int is_final) noexcept nogil
    cdef const uint8_t *behind_more(self, const uint8_t *p, const uint8_t *stop, int kind, int is_final) noexcept nogil
    cdef int add_gap_of(self, const uint8_t *p) noexcept nogil
    cdef int put_context(self, const Head *head, const uint8_t **end) noexcept nogil
    cdef int put_graph(self, const uint8_t *start, const uint8_t *stop) noexcept nogil
    cdef int put_unparsed(self, const uint8_t *start, const uint8_t *stop) noexcept nogil
    cdef int put(self, const Name *name, const Head *head, const uint8_t *p, const uint8_t *stop) noexcept nogil
