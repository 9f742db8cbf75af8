# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The names that lines of text have, each with an event id of our own.

Ids are given from FIRST_ID up, in the order in which names turn up; lines without a name have fixed ones. A name has an
id for each set of columns that its lines come with.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import threading

from collector.decode.hash cimport hash_bytes
from collector.decode.ring cimport Plan
from collector.decode.scan cimport are_equal
from collector.decode.text_forms cimport (
    C_HAS_COMM, C_HAS_CPU, C_HAS_LAZY, C_HAS_MASK, C_HAS_TGID, C_KIND_FIXED, FIXED_GRAPH, FIXED_OTHER, FIXED_UNPARSED,
    FLAGS_MOST, FLAG_IRQS, FLAG_IRQ_CONTEXT, FLAG_MIGRATE_DISABLE, FLAG_NEED_RESCHED, FLAG_NEED_RESCHED_LAZY, FLAG_OTHER,
    FLAG_PREEMPT_DEPTH, FLAG_PREEMPT_LAZY_DEPTH, Form, WITH_LAZY, WITH_TGID,
)

cdef extern from * nogil:
    """
    /* A reader in another thread sees all of the name or none of it. */
    static inline void publish(void **slot, void *value) { __atomic_store_n(slot, value, __ATOMIC_RELEASE); }
    static inline void *published(void **slot) { return __atomic_load_n(slot, __ATOMIC_ACQUIRE); }
    """
    void publish(void **slot, void *value)
    void *published(void **slot)

FIRST_ID = 32768   # the kernel's own ids stay far below

# Parts of a record beside the common head, and kinds of lines; as in text_forms.pxd.
HAS_COMM = 1
HAS_CPU = 2
HAS_TGID = 4
HAS_LAZY = 8
KIND_NAMED = 0
KIND_SYSCALL_ENTER = 16
KIND_SYSCALL_EXIT = 32
KIND_FIXED = 48

# {column as the header of `trace` calls it: what it says}
FLAG_COLUMNS = {
    "irqs-off": FLAG_IRQS, "irqs-off/BH-disabled": FLAG_IRQS, "need-resched": FLAG_NEED_RESCHED,
    "need-resched-lazy": FLAG_NEED_RESCHED_LAZY, "hardirq/softirq": FLAG_IRQ_CONTEXT,
    "preempt-depth": FLAG_PREEMPT_DEPTH, "preempt-lazy-depth": FLAG_PREEMPT_LAZY_DEPTH,
    "migrate-disable": FLAG_MIGRATE_DISABLE,
}

# Lines without a name of their own, by their FIXED_ number.
FIXED_NAMES = ("other", "kernel_stack", "user_stack", "function", "blk", "raw_data", "funcgraph", "unparsed")


cdef class TextPlan(Plan):
    """The names that an instance's lines have had so far, and what its options make of a line.

    Args:
      layout: a PageLayout that only sizes the batches, see PAGE_BYTES of text.pyx.
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
                 graph_proc=False, graph_duration=True, graph_reltime=False, flags=()):
        """Say what lines look like; once, before the first is parsed.

        Args:
          whole: of all CPUs, so that each entry keeps its CPU.
          latency, verbose: the options latency-format and verbose.
          graph: the tracer is function_graph; its options follow.
          graph_reltime: the drawing is a latency tracer's, whose times count from where the latency began.
          flags: names of the flag columns, as the header of `trace` has them; none: their number tells.
        """
        cdef uint32_t i, has
        cdef Form *form = &self.form
        form.whole, form.latency, form.verbose = whole, latency, verbose and latency
        form.graph, form.graph_cpu, form.graph_abstime, form.graph_proc = graph, graph_cpu, graph_abstime, graph_proc
        form.graph_duration, form.graph_reltime = graph_duration, graph_reltime
        form.n_flags = min(<uint32_t> len(flags), <uint32_t> FLAGS_MOST)
        for i in range(form.n_flags):
            form.flags[i] = FLAG_COLUMNS.get(flags[i], FLAG_OTHER)
        for i, name in enumerate(FIXED_NAMES):
            has = 0 if i == FIXED_UNPARSED else C_HAS_CPU if whole else 0
            if i < FIXED_GRAPH:
                has |= C_HAS_COMM
                for parts, bits in ((WITH_TGID, C_HAS_TGID), (WITH_LAZY, C_HAS_LAZY),
                                    (WITH_TGID | WITH_LAZY, C_HAS_TGID | C_HAS_LAZY)):
                    self.fixed[i | <uint32_t> parts] = self.add_name(name.encode(), len(name),
                                                                     C_KIND_FIXED | has | <uint32_t> bits)
            self.fixed[i] = self.add_name(name.encode(), len(name), C_KIND_FIXED | has)

    def name_of(self, uint32_t event_id):
        """(kind, has, name) of an event id: a KIND_ number, HAS_ bits, and the name or one of FIXED_NAMES."""
        cdef uint32_t number = event_id - C_FIRST_ID
        if number >= self.n_names:
            return None
        cdef Name *name = self.names[number]
        cdef bytes text = name.text[:name.size]
        return name.key & ~C_HAS_MASK, name.key & C_HAS_MASK, text.decode("ascii")

    def set_joins(self, uint32_t event_id):
        """Say that the text of an event may end without a newline: it is printed by trace_printk."""
        if event_id - C_FIRST_ID < self.n_names:
            self.names[event_id - C_FIRST_ID].joins = 1

    cdef Name *find(self, const uint8_t *p, uint32_t size, uint32_t key) noexcept nogil:
        """The name, NULL when it has no id yet."""
        cdef uint64_t hashed = hash_bytes(p, size, key)
        cdef uint32_t slot = hashed >> 49
        cdef Name *name
        while True:
            name = <Name *> published(<void **> &self.slots[slot])
            if name == NULL:
                return NULL
            if name.hashed == hashed and name.key == key and name.size == size and are_equal(name.text, p, size):
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
            name.hashed = hash_bytes(p, size, key)
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
