# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""The column encoder: a batch in, the msgpack columns of a block out, without the GIL.

Each column takes the form that costs the compressor least (docs/segment-format.md):
constant, dictionary of at most 256 values, byte planes, byte planes of differences.
A constant column or plane never reaches the compressor.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

from collector.decode.hash cimport hash_bytes, scatter
from collector.decode.memory cimport load16, load32, load64
from collector.decode.msg cimport Out, put_array, put_bin, put_byte, put_uint, reserve_bin
from collector.decode.ring cimport (
    Batch, CLASS_CHARS, CLASS_INT, CLASS_REL_LOC, CLASS_TAIL, ColumnSpec, EventSpec, WHERE_MASK,
    WHERE_RAW, record_size,
)
from collector.decode.scan cimport are_equal

cdef extern from *:
    """
    #define prefetch(p) __builtin_prefetch(p)
    """
    void prefetch(const void *p) noexcept nogil

# Forms of a column, its first element in the block.
cdef enum:
    FORM_CONSTANT = 0
    FORM_PLANES = 1
    FORM_DICTIONARY = 2
    FORM_DELTAS = 3
    FORM_BYTES_DICTIONARY = 4
    FORM_BYTES = 5
    FORM_ARRAY = 6

cdef enum:
    DICTIONARY_MOST = 256         # an index is one byte
    SLOTS = 1024                  # of the hash table; a power of two, several times DICTIONARY_MOST
    KINDS = 131072                # event id and mode
    SAMPLE = 512                  # values looked at to choose between plain and difference planes
    AHEAD = 8                     # records fetched before their turn: those of a kind lie here and there in the pages


cdef struct Table:
    # A dictionary under construction; a slot holds index + 1.
    uint16_t slots[SLOTS]
    uint32_t n


cdef struct Numbers:
    # A set of numbers, open addressing; 0 is not kept.
    uint64_t *slots
    uint32_t size, n


cdef class Encoder:
    """Turns batches into columns; one a worker, for it owns the scratch memory.

    After encode() the columns are in `columns()`, and `kinds`, `pids` and
    `addresses` tell what they hold, until the next encode().
    """

    cdef Out out
    cdef uint16_t *local              # [KINDS] index of the kind in this block, + 1
    cdef uint32_t *keys               # [KINDS] event id << 1 | is raw, in the order of first occurrence
    cdef uint32_t *counts             # [KINDS]
    cdef uint32_t n_kinds
    cdef uint64_t *values             # [capacity] scratch for one column
    cdef uint32_t *order              # [capacity] where, grouped by kind
    cdef uint16_t *kind_of            # [capacity]
    cdef uint32_t *starts             # [capacity] of variable bytes in the record
    cdef uint32_t *lengths            # [capacity]
    cdef uint8_t *index               # [capacity] dictionary indices
    cdef uint32_t capacity
    cdef Table table
    cdef Numbers pid_set, address_set
    # The entries to encode: the batch's own, or those chosen of them.
    cdef uint32_t n
    cdef uint64_t *ts                 # [n], and so on; as in Batch
    cdef uint64_t *head
    cdef uint32_t *where
    cdef uint64_t *chosen_ts          # [chosen_capacity], and so on
    cdef uint64_t *chosen_head
    cdef uint32_t *chosen_where
    cdef uint32_t chosen_capacity
    cdef uint8_t *wanted              # [65536] by event id

    def __cinit__(self):
        self.local = <uint16_t *> calloc(KINDS, sizeof(uint16_t))
        self.keys = <uint32_t *> malloc(KINDS * sizeof(uint32_t))
        self.counts = <uint32_t *> malloc(KINDS * sizeof(uint32_t))
        if self.local == NULL or self.keys == NULL or self.counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.out.data)
        free(self.local)
        free(self.keys)
        free(self.counts)
        free(self.values)
        free(self.order)
        free(self.kind_of)
        free(self.starts)
        free(self.lengths)
        free(self.index)
        free(self.chosen_ts)
        free(self.chosen_head)
        free(self.chosen_where)
        free(self.wanted)
        free(self.pid_set.slots)
        free(self.address_set.slots)

    def encode(self, Batch batch, wanted=None):
        """Encode a batch, or its entries of some events; there must be an entry.

        Args:
          wanted: ids of the events; None: all.
        Raises:
          MemoryError: the scratch memory cannot grow.
        """
        if wanted is None:
            self.n, self.ts, self.head, self.where = batch.n, batch.ts, batch.head, batch.where
        else:
            self.choose(batch, wanted)
        if self.n == 0:
            raise ValueError("an empty batch has no columns")
        self.grow_to(self.n)
        with nogil:
            self.run(batch)
        if self.out.failed:
            raise MemoryError

    cdef int choose(self, Batch batch, wanted) except -1:
        """Bring the entries of the wanted events together."""
        cdef uint32_t i
        if self.wanted == NULL:
            self.wanted = <uint8_t *> malloc(65536)
            if self.wanted == NULL:
                raise MemoryError
        memset(self.wanted, 0, 65536)
        for event_id in wanted:
            self.wanted[<uint16_t> event_id] = 1
        if batch.n > self.chosen_capacity:
            self.chosen_ts = <uint64_t *> regrown(self.chosen_ts, batch.n * sizeof(uint64_t))
            self.chosen_head = <uint64_t *> regrown(self.chosen_head, batch.n * sizeof(uint64_t))
            self.chosen_where = <uint32_t *> regrown(self.chosen_where, batch.n * sizeof(uint32_t))
            self.chosen_capacity = batch.n
        self.n, self.ts, self.head, self.where = 0, self.chosen_ts, self.chosen_head, self.chosen_where
        with nogil:
            for i in range(batch.n):
                if self.wanted[batch.head[i] & 0xFFFF]:
                    self.ts[self.n] = batch.ts[i]
                    self.head[self.n] = batch.head[i]
                    self.where[self.n] = batch.where[i]
                    self.n += 1
        return 0

    def count_before(self, Batch batch, uint32_t at):
        """How many of the batch's first `at` entries the last encode() chose, where it was told which."""
        cdef uint32_t i, found = 0
        if self.wanted == NULL:
            return 0
        for i in range(min(at, batch.n)):
            found += self.wanted[batch.head[i] & 0xFFFF]
        return found

    @property
    def entries(self):
        """Entries encoded."""
        return self.n

    @property
    def first_ts(self):
        return self.ts[0]

    @property
    def last_ts(self):
        return self.ts[self.n - 1]

    def columns(self):
        """The encoded columns, copied out."""
        return self.out.data[:self.out.size]

    def compress(self, compressor):
        """compressor.compress() of the encoded columns, without a copy of them."""
        return compressor(<uint8_t[:self.out.size]> self.out.data)

    @property
    def size_bytes(self):
        """Bytes of the encoded columns."""
        return self.out.size

    @property
    def kinds(self):
        """[(event id, is raw, entries)] in the order of the block's kinds."""
        return [(self.keys[i] >> 1, bool(self.keys[i] & 1), self.counts[i]) for i in range(self.n_kinds)]

    @property
    def pids(self):
        """The thread ids that occur, 0 left out."""
        return frozenset([<int> <uint32_t> v for v in numbers_list(&self.pid_set)])

    @property
    def addresses(self):
        """Kernel code addresses in the columns that hold such."""
        return frozenset(numbers_list(&self.address_set))

    cdef int grow_to(self, uint32_t n) except -1:
        if n <= self.capacity:
            return 0
        self.values = <uint64_t *> regrown(self.values, n * sizeof(uint64_t))
        self.order = <uint32_t *> regrown(self.order, n * sizeof(uint32_t))
        self.kind_of = <uint16_t *> regrown(self.kind_of, n * sizeof(uint16_t))
        self.starts = <uint32_t *> regrown(self.starts, n * sizeof(uint32_t))
        self.lengths = <uint32_t *> regrown(self.lengths, n * sizeof(uint32_t))
        self.index = <uint8_t *> regrown(self.index, n)
        self.capacity = n
        return 0

    # ---- the block

    cdef void run(self, Batch batch) noexcept nogil:
        cdef uint32_t i, k, begin, key
        cdef uint64_t previous, differ
        cdef EventSpec *spec
        self.out.size = 0
        self.out.failed = 0
        numbers_clear(&self.pid_set)
        numbers_clear(&self.address_set)
        self.group(batch)
        if self.out.failed:
            memset(self.local, 0, KINDS * sizeof(uint16_t))
            return
        put_array(&self.out, 6)
        self.put_kinds(self.n)
        previous = self.ts[0]
        for i in range(self.n):
            self.values[i] = self.ts[i] - previous
            previous = self.ts[i]
        self.put_planes(self.values, self.n, 8, 0)
        differ = 0
        for i in range(self.n):
            differ |= self.head[i] ^ self.head[0]
        self.put_head_byte(self.head, self.n, 16, differ)
        self.put_head_byte(self.head, self.n, 24, differ)
        for i in range(self.n):
            self.values[i] = self.head[i] >> 32
        self.put_integers(self.n, 4, &self.pid_set, 0)
        put_array(&self.out, self.n_kinds)
        begin = 0
        for k in range(self.n_kinds):
            key = self.keys[k]
            spec = batch.layout.specs[key >> 1]
            if key & 1:
                put_array(&self.out, 1)
                self.raw_places(batch, self.order + begin, self.counts[k])
                self.put_variable(batch, self.order + begin, self.counts[k], 0)
            else:
                put_array(&self.out, spec.n_columns)
                for i in range(spec.n_columns):
                    self.put_column(batch, self.order + begin, self.counts[k], &spec.columns[i])
            begin += self.counts[k]
            self.local[key] = 0

    cdef void begin(self, uint32_t parts, uint8_t form) noexcept nogil:
        """A column of so many parts, the form itself included."""
        put_array(&self.out, parts)
        put_byte(&self.out, form)

    cdef void put_kinds(self, uint32_t n) noexcept nogil:
        """The column of the entries' kinds: one plane, or two."""
        cdef uint32_t i
        cdef uint8_t *p
        if self.n_kinds == 1 or self.n_kinds > 256:
            for i in range(n):
                self.values[i] = self.kind_of[i]
            self.put_planes(self.values, n, 1 if self.n_kinds == 1 else 2, 0)
            return
        self.begin(2, FORM_PLANES)
        put_array(&self.out, 1)
        p = reserve_bin(&self.out, n)
        if p != NULL:
            for i in range(n):
                p[i] = <uint8_t> self.kind_of[i]

    cdef void put_head_byte(self, const uint64_t *head, uint32_t n, int shift, uint64_t differ) noexcept nogil:
        """A column of width 1: one byte of the common heads; `differ` has the bits that are not all alike."""
        cdef uint32_t i
        cdef uint8_t *p
        self.begin(2, FORM_PLANES)
        put_array(&self.out, 1)
        if (differ >> shift) & 0xFF == 0:
            put_uint(&self.out, (head[0] >> shift) & 0xFF)
            return
        p = reserve_bin(&self.out, n)
        if p != NULL:
            for i in range(n):
                p[i] = <uint8_t> (head[i] >> shift)

    cdef void group(self, Batch batch) noexcept nogil:
        """Number the kinds of the batch, and bring the places of each kind together."""
        cdef uint32_t i, k, key, total
        cdef uint32_t last_key = 0xFFFFFFFF
        cdef uint16_t last = 0
        cdef uint32_t *position = <uint32_t *> self.values
        self.n_kinds = 0
        for i in range(self.n):
            key = (self.head[i] & 0xFFFF) << 1 | ((self.where[i] & WHERE_RAW) != 0)
            if key != last_key:
                last = self.local[key]
                last_key = key
                if last == 0:
                    if self.n_kinds == 65535:   # an index of two bytes; only hostile pages have so many
                        self.out.failed = 1
                        return
                    self.keys[self.n_kinds] = key
                    self.counts[self.n_kinds] = 0
                    self.n_kinds += 1
                    last = self.n_kinds
                    self.local[key] = last
            self.kind_of[i] = last - 1
            self.counts[last - 1] += 1
        total = 0
        for k in range(self.n_kinds):
            position[k] = total
            total += self.counts[k]
        for i in range(self.n):
            k = self.kind_of[i]
            self.order[position[k]] = self.where[i]
            position[k] += 1

    cdef void put_column(self, Batch batch, uint32_t *places, uint32_t n, ColumnSpec *column) noexcept nogil:
        cdef uint32_t element
        if column.cls == CLASS_INT:
            if column.count == 1:
                self.gather(batch.pages + column.offset, places, n, column.size)
                self.put_integers(n, column.size, &self.address_set if column.is_address else NULL, 1)
                return
            if self.put_if_constant(batch.pages + column.offset, places, n, column.size * column.count):
                return
            self.begin(2, FORM_ARRAY)
            put_array(&self.out, column.count)
            for element in range(column.count):
                self.gather(batch.pages + column.offset + element * column.size, places, n, column.size)
                self.put_integers(n, column.size, &self.address_set if column.is_address else NULL, 1)
        elif column.cls == CLASS_CHARS:
            self.put_chars(batch.pages + column.offset, places, n, column.size)
        else:
            self.variable_places(batch, places, n, column)
            self.put_variable(batch, places, n, column.size if column.is_address else 0)

    # ---- columns of fixed width

    cdef void gather(self, const uint8_t *base, const uint32_t *places, uint32_t n, uint32_t width) noexcept nogil:
        """values[i] = the little-endian number of `width` bytes at base + place."""
        cdef uint32_t i
        cdef uint64_t *values = self.values
        if width == 8:
            for i in range(n):
                values[i] = load64(base + (places[i] & WHERE_MASK))
        elif width == 4:
            for i in range(n):
                values[i] = load32(base + (places[i] & WHERE_MASK))
        elif width == 2:
            for i in range(n):
                values[i] = load16(base + (places[i] & WHERE_MASK))
        else:
            for i in range(n):
                values[i] = base[places[i] & WHERE_MASK]

    cdef void put_integers(self, uint32_t n, uint32_t width, Numbers *collect, int may_delta) noexcept nogil:
        """The numbers in `values` as a column; they are also added to `collect`, if given."""
        cdef uint64_t *values = self.values
        cdef uint64_t differ = 0, first = values[0]
        cdef uint64_t table[DICTIONARY_MOST]
        cdef uint32_t i, entries
        cdef uint8_t *p
        for i in range(n):
            differ |= values[i] ^ first
        if differ == 0:
            self.begin(2, FORM_CONSTANT)
            put_bin(&self.out, <uint8_t *> &first, width)
            if collect != NULL:
                self.out.failed |= numbers_add(collect, first)
            return
        # A dictionary pays when it replaces at least two planes.
        if width > 1 and differ > 0xFF:
            entries = self.dictionary_of(values, n, table)
            if entries and entries * width + n < n * planes_of(differ):
                if collect != NULL:
                    for i in range(entries):
                        self.out.failed |= numbers_add(collect, table[i])
                self.begin(3, FORM_DICTIONARY)
                p = reserve_bin(&self.out, entries * width)
                if p == NULL:
                    return
                for i in range(entries):
                    memcpy(p + i * width, &table[i], width)
                put_bin(&self.out, self.index, n)
                return
        if collect != NULL:
            for i in range(n):
                self.out.failed |= numbers_add(collect, values[i])
        self.put_planes(values, n, width, may_delta and width > 1 and prefers_deltas(values, n, width))

    cdef uint32_t dictionary_of(self, const uint64_t *values, uint32_t n, uint64_t *table) noexcept nogil:
        """Fill `index` and `table`; the number of distinct values, 0 when there are too many."""
        cdef uint32_t i, slot, found
        cdef uint64_t value, last
        memset(&self.table, 0, sizeof(Table))
        last = ~values[0]
        found = 0
        for i in range(n):
            value = values[i]
            if value != last:
                last = value
                slot = scatter(value) >> 54
                while True:
                    found = self.table.slots[slot]
                    if found == 0:
                        if self.table.n == DICTIONARY_MOST:
                            return 0
                        table[self.table.n] = value
                        self.table.n += 1
                        found = self.table.n
                        self.table.slots[slot] = <uint16_t> found
                        break
                    if table[found - 1] == value:
                        break
                    slot = (slot + 1) & (SLOTS - 1)
            self.index[i] = <uint8_t> (found - 1)
        return self.table.n

    cdef void put_planes(self, uint64_t *values, uint32_t n, uint32_t width, int deltas) noexcept nogil:
        """Byte planes of the numbers, or of their differences; `values` is scratch afterwards."""
        cdef uint32_t i, plane, shift
        cdef uint64_t previous = 0, value, differ = 0, first
        cdef uint8_t *p
        if deltas:
            for i in range(n):
                value = values[i]
                values[i] = value - previous
                previous = value
        first = values[0]
        for i in range(n):
            differ |= values[i] ^ first
        self.begin(2, FORM_DELTAS if deltas else FORM_PLANES)
        put_array(&self.out, width)
        for plane in range(width):
            shift = 8 * plane
            if (differ >> shift) & 0xFF == 0:
                put_uint(&self.out, (first >> shift) & 0xFF)
                continue
            p = reserve_bin(&self.out, n)
            if p == NULL:
                return
            for i in range(n):
                p[i] = <uint8_t> (values[i] >> shift)

    cdef int put_if_constant(self, const uint8_t *base, const uint32_t *places, uint32_t n, uint32_t width) noexcept nogil:
        """A constant column of `width` bytes, when it is one."""
        cdef uint32_t i
        cdef const uint8_t *first = base + (places[0] & WHERE_MASK)
        for i in range(1, n):
            if i + AHEAD < n:
                prefetch(base + (places[i + AHEAD] & WHERE_MASK))
            if not are_equal(first, base + (places[i] & WHERE_MASK), width):
                return 0
        self.begin(2, FORM_CONSTANT)
        put_bin(&self.out, first, width)
        return 1

    cdef void put_chars(self, const uint8_t *base, const uint32_t *places, uint32_t n, uint32_t width) noexcept nogil:
        """A column of `width` bytes each, without a meaning of their own."""
        cdef uint32_t i, plane, entries
        cdef const uint8_t *entry
        cdef uint8_t *p
        cdef int differs
        if self.put_if_constant(base, places, n, width):
            return
        for i in range(n):
            self.starts[i] = 0
            self.lengths[i] = width
        entries = self.bytes_dictionary(base, places, n)
        if entries and <uint64_t> entries * width < <uint64_t> n * (width - 1):
            self.begin(3, FORM_DICTIONARY)
            p = reserve_bin(&self.out, entries * width)
            if p == NULL:
                return
            for i in range(entries):
                memcpy(p + i * width, base + self.values[i], width)
            put_bin(&self.out, self.index, n)
            return
        self.begin(2, FORM_PLANES)
        put_array(&self.out, width)
        for plane in range(width):
            entry = base + (places[0] & WHERE_MASK)
            differs = 0
            for i in range(1, n):
                if (base + (places[i] & WHERE_MASK))[plane] != entry[plane]:
                    differs = 1
                    break
            if not differs:
                put_uint(&self.out, entry[plane])
                continue
            p = reserve_bin(&self.out, n)
            if p == NULL:
                return
            for i in range(n):
                p[i] = (base + (places[i] & WHERE_MASK))[plane]

    # ---- columns of variable width

    cdef void variable_places(self, Batch batch, const uint32_t *places, uint32_t n, ColumnSpec *column) noexcept nogil:
        """starts and lengths of a variable field; the walk has checked the bounds."""
        cdef uint32_t i, word
        cdef const uint8_t *payload
        for i in range(n):
            if i + AHEAD < n:
                prefetch(batch.pages + (places[i + AHEAD] & WHERE_MASK) - 4)
            payload = batch.pages + (places[i] & WHERE_MASK)
            if column.cls == CLASS_TAIL:
                self.starts[i] = column.offset
                self.lengths[i] = record_size(payload, places[i]) - column.offset
                continue
            word = load32(payload + column.offset)
            self.starts[i] = (word & 0xFFFF) + (column.offset + 4 if column.cls == CLASS_REL_LOC else 0)
            self.lengths[i] = word >> 16

    cdef void raw_places(self, Batch batch, const uint32_t *places, uint32_t n) noexcept nogil:
        cdef uint32_t i
        for i in range(n):
            self.starts[i] = 0
            self.lengths[i] = record_size(batch.pages + (places[i] & WHERE_MASK), places[i])

    cdef uint32_t bytes_dictionary(self, const uint8_t *base, const uint32_t *places, uint32_t n) noexcept nogil:
        """Fill `index`; values[k] = offset from base of the k-th distinct string, order unchanged.

        The number of distinct strings, 0 when there are too many. Their lengths are in values[256 + k].
        """
        cdef uint32_t i, slot, size, found = 0
        cdef const uint8_t *p
        cdef uint64_t place
        cdef uint64_t *offsets = self.values
        memset(&self.table, 0, sizeof(Table))
        for i in range(n):
            if i + AHEAD < n:
                p = base + (places[i + AHEAD] & WHERE_MASK) + self.starts[i + AHEAD]
                prefetch(p)
                prefetch(p + 64)
            place = (places[i] & WHERE_MASK) + self.starts[i]
            p = base + place
            size = self.lengths[i]
            if found and offsets[DICTIONARY_MOST + found - 1] == size and are_equal(base + offsets[found - 1], p, size):
                self.index[i] = <uint8_t> (found - 1)   # as the one before, which is common
                continue
            slot = hash_bytes(p, size, 0) >> 54
            while True:
                found = self.table.slots[slot]
                if found == 0:
                    if self.table.n == DICTIONARY_MOST:
                        return 0
                    offsets[self.table.n] = place
                    offsets[DICTIONARY_MOST + self.table.n] = size
                    self.table.n += 1
                    found = self.table.n
                    self.table.slots[slot] = <uint16_t> found
                    break
                if offsets[DICTIONARY_MOST + found - 1] == size and are_equal(base + offsets[found - 1], p, size):
                    break
                slot = (slot + 1) & (SLOTS - 1)
            self.index[i] = <uint8_t> (found - 1)
        return self.table.n

    cdef void put_variable(self, Batch batch, const uint32_t *places, uint32_t n, uint32_t address_size) noexcept nogil:
        """A column of byte strings at starts and lengths in the records.

        address_size: they are addresses of so many bytes; 0: they are none.
        """
        cdef uint32_t i, entries = self.bytes_dictionary(batch.pages, places, n)
        cdef uint64_t total = 0, kept = 0
        cdef uint8_t *p
        for i in range(n):
            total += self.lengths[i]
        if entries:
            for i in range(entries):
                kept += self.values[DICTIONARY_MOST + i] + 5
        if entries and kept + n < total + 2 * n:
            self.begin(3, FORM_BYTES_DICTIONARY)
            put_array(&self.out, entries)
            for i in range(entries):
                if address_size:
                    self.collect_addresses(batch.pages + self.values[i], self.values[DICTIONARY_MOST + i], address_size)
                put_bin(&self.out, batch.pages + self.values[i], self.values[DICTIONARY_MOST + i])
            put_bin(&self.out, self.index, n)
            return
        for i in range(n):
            self.values[i] = self.lengths[i]
        self.begin(3, FORM_BYTES)
        self.put_integers(n, 4, NULL, 0)
        p = reserve_bin(&self.out, total)
        if p == NULL:
            return
        for i in range(n):
            memcpy(p, batch.pages + (places[i] & WHERE_MASK) + self.starts[i], self.lengths[i])
            if address_size:
                self.collect_addresses(p, self.lengths[i], address_size)
            p += self.lengths[i]

    cdef void collect_addresses(self, const uint8_t *p, uint64_t size, uint32_t each) noexcept nogil:
        cdef uint64_t at = 0
        while at + each <= size:
            self.out.failed |= numbers_add(&self.address_set, load64(p + at) if each == 8 else load32(p + at))
            at += each


cdef void *regrown(void *old, size_t size) except NULL:
    cdef void *grown
    # A dictionary's scratch needs this much whatever the batch.
    grown = realloc(old, max(size, 2 * DICTIONARY_MOST * sizeof(uint64_t)))
    if grown == NULL:
        raise MemoryError
    return grown


cdef uint32_t planes_of(uint64_t differ) noexcept nogil:
    """How many byte planes are not constant."""
    cdef uint32_t n = 0
    while differ:
        n += (differ & 0xFF) != 0
        differ >>= 8
    return n


cdef int prefers_deltas(const uint64_t *values, uint32_t n, uint32_t width) noexcept nogil:
    """Whether differences leave clearly fewer bytes that change from value to value."""
    cdef uint32_t i, most = n if n < SAMPLE else SAMPLE
    cdef uint64_t mask = ~<uint64_t> 0 if width == 8 else (<uint64_t> 1 << (8 * width)) - 1
    cdef uint64_t delta, previous = 0
    cdef uint32_t plain = 0, differences = 0
    for i in range(1, most):
        delta = (values[i] - values[i - 1]) & mask
        plain += planes_of(values[i] ^ values[i - 1])
        differences += planes_of(delta ^ previous)
        previous = delta
    return differences * 4 < plain * 3


cdef void numbers_clear(Numbers *numbers) noexcept nogil:
    if numbers.n:
        memset(numbers.slots, 0, numbers.size * sizeof(uint64_t))
        numbers.n = 0


cdef int numbers_add(Numbers *numbers, uint64_t value) noexcept nogil:
    """Add a number to a set; 1 when there is no memory."""
    cdef uint64_t *old = numbers.slots
    cdef uint32_t slot, i, old_size = numbers.size
    if value == 0:
        return 0
    if numbers.n * 2 >= numbers.size:
        numbers.size = old_size * 2 if old_size else 256
        numbers.slots = <uint64_t *> calloc(numbers.size, sizeof(uint64_t))
        if numbers.slots == NULL:
            numbers.slots = old
            numbers.size = old_size
            return 1
        numbers.n = 0
        for i in range(old_size):
            numbers_add(numbers, old[i])
        free(old)
    slot = (scatter(value) >> 32) & (numbers.size - 1)
    while numbers.slots[slot]:
        if numbers.slots[slot] == value:
            return 0
        slot = (slot + 1) & (numbers.size - 1)
    numbers.slots[slot] = value
    numbers.n += 1
    return 0


cdef list numbers_list(Numbers *numbers):
    return [numbers.slots[i] for i in range(numbers.size) if numbers.slots[i]]
