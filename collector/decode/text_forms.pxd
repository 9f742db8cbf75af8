# What the parts of the text parser hand to each other.

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

# What a line is.
cdef enum:
    LINE_MORE = 0             # begins no event
    LINE_CONTEXT = 1
    LINE_LOST = 2
    LINE_TOO_BIG = 3
    LINE_GRAPH = 4
    LINE_GRAPH_BEFORE = 5     # of the drawing, and of the event that follows
    LINE_ALIEN = 6            # has a head of a form that is not known: an event of its own, whatever stands before it

# Lines without a name of their own; names in text_plan.pyx.
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
    WITH_LAZY = 16
    FIXED_NUMBERS = 32

# Parts of a record beside the common head, and kinds of lines: the key under which a name has its id.
cdef enum:
    C_HAS_COMM = 1
    C_HAS_CPU = 2
    C_HAS_TGID = 4
    C_HAS_LAZY = 8            # the preempt-lazy count of RT and RHEL
    C_HAS_MASK = 15
    C_KIND_NAMED = 0
    C_KIND_SYSCALL_ENTER = 16
    C_KIND_SYSCALL_EXIT = 32
    C_KIND_FIXED = 48

# What a flag column says.
cdef enum:
    FLAG_IRQS = 0
    FLAG_NEED_RESCHED = 1
    FLAG_IRQ_CONTEXT = 2
    FLAG_NEED_RESCHED_LAZY = 3
    FLAG_PREEMPT_DEPTH = 4
    FLAG_PREEMPT_LAZY_DEPTH = 5
    FLAG_MIGRATE_DISABLE = 6
    FLAG_OTHER = 7
    FLAGS_MOST = 12

cdef enum:
    GUARD_BYTES = 128         # zeros behind the text: no step of the grammar takes them, none looks further ahead
    PREFIXES = 16             # a power of two
    PREFIX_BYTES = 31         # `comm-pid [cpu] ` with a pid of up to 7 digits and a CPU of up to 3


cdef struct Head:
    # What stands before an event's own text.
    uint64_t ts
    uint64_t word             # the common head without the event id
    uint64_t comm[2]          # its 16 bytes, filled up with zeros
    uint32_t cpu
    int32_t tgid
    uint32_t has              # HAS_ bits
    uint32_t lazy             # preempt-lazy count
    const uint8_t *body       # the event's own text


cdef struct Form:
    # What the instance's options make of a line.
    int whole                 # lines of all CPUs come through one pipe
    int latency, verbose      # options latency-format and verbose
    int graph                 # function_graph: no head, but a drawing
    int graph_cpu, graph_abstime, graph_proc, graph_duration
    int graph_reltime         # of a latency tracer: us since its latency began
    uint32_t n_flags          # columns that the header names; 0: it says nothing
    uint8_t flags[FLAGS_MOST] # what each of them says


cdef struct Prefix:
    # The beginning of a context, and what it says.
    uint64_t text[4]          # of the line, from bytes 0, 8, 16 and 23
    uint64_t comm[2]
    uint64_t word
    uint32_t cpu


cdef struct Seen:
    # Parts of lines taken before, for most lines repeat them: 2 of 3 steps of a context are then one comparison.
    Prefix prefixes[PREFIXES]
    uint64_t seconds_text     # ` 12345.`, as a number
    uint64_t seconds_mask     # of its bytes
    uint64_t seconds_us
    uint32_t seconds_size     # 0: none yet
