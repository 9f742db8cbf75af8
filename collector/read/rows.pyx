# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
# cython: freethreading_compatible=True
"""From the columns of a block to msgpack rows, one per entry, without the GIL and without a Python object per entry.

    row    = [EventTime, {host, run, instance, cpu, ordinal, event, pid, flags, preempt_count, fields,
              and where they are known: clock, ts_raw, comm, tgid, readable, symbols, strings}]
    fields = {name: value}

What a field's value is, by its kind (collector/read/meaning.py) and class:

    text                             str up to the first NUL; bin when that is not UTF-8; nil when it could not be read
    bytes, and addresses in bytes    bin
    plain, of one byte each          array of integers
    int                              integer, or array of integers
    variable of wider elements       array of integers; bin when the bytes are no whole number of elements

EventTime is wall time, of pieces `wall = wall_ns + (ts - ts_ns) * rise_ns / run_ns`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memchr, memcpy

from collector.archive.columns import MAX_DECODED_BYTES, MAX_ENTRIES
from collector.archive.fields import pack
from collector.archive.objects import DATA_LOC, REL_LOC
from collector.errors import SegmentError

from collector.read.lookup cimport Names
from collector.read.meaning import UNSIGNED
from collector.read.readable cimport (
    FORM_BITMASK, FORM_IPV4, FORM_IPV6, FORM_MAC, FORM_NONE, FORM_SOCKADDR, number, put_form,
)
from collector.decode.msg cimport (
    Cursor, Out, fail, is_utf8, put_array, put_bin, put_byte, put_bytes, put_int, put_map, put_str, put_uint,
    read_array, room_for,
)
from collector.read.unfold cimport Arena, EACH, INDEXED, Numbers, SAME, Slice, Strings, extended, little

cdef extern from *:
    """
    typedef __int128 rows_int128;
    """
    ctypedef long long rows_int128   # of 16 bytes, whatever Cython thinks

# Classes of columns as `FieldColumn.cls` has them.
cdef enum:
    FIELD_INT = 0
    FIELD_CHARS = 1
    FIELD_VARIABLE = 2
    FIELD_RAW = 3             # a whole record

# How a column is kept between open() and the rows.
cdef enum:
    DONE = 0                  # its key and value, already encoded: once, or once per value of a dictionary
    NUMBERS = 1
    STRINGS = 2
    ELEMENTS = 3              # an array, a column of numbers per element

cdef enum:
    NAMES_NONE = 0
    NAMES_CODE = 1
    NAMES_STRINGS = 2

# What kinds of fields are of one byte an element.
cdef enum:
    BYTES_TEXT = 0
    BYTES_PLAIN = 1
    BYTES_OTHER = 2

NAMING = {"address": NAMES_CODE, "stack": NAMES_CODE, "string": NAMES_STRINGS}
OF_BYTES = {"text": BYTES_TEXT, "plain": BYTES_PLAIN}
FORMS = {"ipv4": FORM_IPV4, "ipv6": FORM_IPV6, "mac": FORM_MAC, "sockaddr": FORM_SOCKADDR, "bitmask": FORM_BITMASK}

cdef uint64_t NS = 1000000000
# A row's fields are bounded by the record in the ring; only made-up blocks have larger ones.
cdef size_t MOST_ROW_BYTES = 16 << 20


cdef struct Field:
    uint32_t cls, size, count
    int is_signed, is_stack, naming
    int is_located             # of no length: it could not be read
    uint32_t of_bytes, form
    uint32_t key_at, key_size  # in the kind's `keys`


cdef struct Column:
    const Field *field
    int how
    Slice key
    Slice *done                # DONE: k of them
    const uint8_t *index       # DONE: NULL when there is one for all
    uint64_t *numbers          # NUMBERS
    Strings strings            # STRINGS
    uint64_t **elements        # ELEMENTS: field.count of them


cdef struct KindOf:
    Slice head, tail           # what stands before and behind the thread, up to the fields
    Column *columns
    uint32_t n_columns
    uint32_t entries           # that the block says it has
    uint32_t rows              # done so far
    int has_names, has_forms


cdef struct Piece:
    uint64_t from_ts, ts_ns, run_ns
    int64_t wall_ns, rise_ns


cdef class RowKind:
    """What the entries of one event look like; made once per format.

    Args:
      event: "system:name".
      columns: (name, class, size, is signed, count, kind) per field, as FieldColumn and `column_kinds` have them.
      is_raw: the entries are whole records, under the name "raw"; columns are not looked at.
    """

    cdef Field *fields
    cdef readonly uint32_t n_fields
    cdef bytes keys, head, tail
    cdef int has_names, has_forms

    def __init__(self, event, columns, *, is_raw=False):
        cdef Field *field
        keys = bytearray()
        rows = [("raw", "raw", 1, False, 1, "bytes")] if is_raw else list(columns)
        free(self.fields)
        self.n_fields = 0
        self.fields = <Field *> calloc(len(rows) + 1, sizeof(Field))
        if self.fields == NULL:
            raise MemoryError
        for name, cls, size, signed, count, kind in rows:
            field = &self.fields[self.n_fields]
            field.cls = {"int": FIELD_INT, "chars": FIELD_CHARS, "raw": FIELD_RAW}.get(cls, FIELD_VARIABLE)
            field.size, field.count, field.is_signed = size, count, bool(signed) and kind not in UNSIGNED
            field.naming = NAMING.get(kind, NAMES_NONE)
            field.is_stack, field.is_located = kind == "stack" and cls != "int", cls in (DATA_LOC, REL_LOC)
            field.of_bytes, field.form = OF_BYTES.get(kind, BYTES_OTHER), FORMS.get(kind, FORM_NONE)
            self.has_names |= field.naming != NAMES_NONE
            self.has_forms |= field.form != FORM_NONE
            key = pack_text(name)
            field.key_at, field.key_size = len(keys), len(key)
            keys += key
            self.n_fields += 1
        self.keys = bytes(keys)
        self.head = pack("event") + pack_text(event) + pack("pid")
        self.tail = pack("fields")

    def __dealloc__(self):
        free(self.fields)


def pack_text(text):
    """Text as valid msgpack: what is not UTF-8 in it becomes U+FFFD."""
    return pack(text.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


cdef class RowEncoder:
    """Writes the entries of blocks as rows; one a thread.

        encoder.open(...)
        while encoder.fill(limit_bytes):
            encoder.data()
    """

    cdef Arena arena
    cdef Out out
    cdef list held                 # what the structures below point into
    cdef Slice columns, begin      # the block's, and what all its rows begin with
    cdef Names comms, tgids, symbols, strings
    cdef KindOf *kinds
    cdef uint32_t n_kinds, n, at
    cdef uint64_t ordinal, fallback_ns
    cdef uint32_t fixed_entries    # of a row's map, always there
    cdef int is_wall
    cdef uint16_t *kind            # [n]
    cdef uint64_t *ts              # [n]
    cdef uint8_t *flags            # [n]
    cdef uint8_t *preempt          # [n]
    cdef uint64_t *pid             # [n]
    cdef Piece *pieces
    cdef uint32_t n_pieces, piece
    cdef uint64_t cached_pid       # the pid that `thread` is about; 2^63, which no pid is: none
    cdef Out thread                # its encoded value, then comm and tgid
    cdef uint32_t thread_entries   # of a row's map, beyond the pid

    def __cinit__(self):
        self.arena = Arena(MAX_DECODED_BYTES)

    def __dealloc__(self):
        free(self.out.data)
        free(self.thread.data)

    def open(
        self, bytes cols not None, uint32_t entries, uint64_t first_ts, uint64_t last_ts, uint64_t ordinal, kinds,
        bytes prefix not None, uint32_t prefix_entries, pieces, uint64_t fallback_ns,
        Names comms not None, Names tgids not None, Names symbols not None, Names strings not None,
    ):
        """Take a block.

        Args:
          cols: uncompressed.
          kinds: (RowKind, entries) each, in the order of the block.
          prefix, prefix_entries: keys and values that all its rows begin with, encoded, and how many.
          pieces: (from_ts, ts_ns, wall_ns, rise_ns, run_ns) each, by from_ts from 0; None: the clock has no wall
            time, all rows have `fallback_ns`, and the clock's value as ts_raw.
          comms, tgids, symbols, strings: encoded values by pid or by address.
        Raises:
          SegmentError: the columns do not read as documented, or spell out to too much.
          MemoryError: there is none.
        """
        cdef uint32_t i
        cdef RowKind of
        cdef int status
        self.n = self.at = 0
        self.arena.clear()
        if PyBytes_GET_SIZE(cols) > MAX_DECODED_BYTES:
            raise SegmentError("block: columns", expected=f"at most {MAX_DECODED_BYTES} bytes", got=str(len(cols)))
        self.columns, self.begin = slice_of(cols), slice_of(prefix)
        self.ordinal, self.fallback_ns = ordinal, fallback_ns
        self.comms, self.tgids, self.symbols, self.strings = comms, tgids, symbols, strings
        self.held = [cols, prefix, *(of for of, _ in kinds)]
        self.cached_pid = <uint64_t> 1 << 63
        self.fixed_entries = prefix_entries + 6
        self.is_wall = pieces is not None
        if entries > MAX_ENTRIES:
            raise SegmentError("block: more entries than any block has", expected=f"at most {MAX_ENTRIES}",
                               got=str(entries))
        self.n_kinds = len(kinds)
        self.kinds = <KindOf *> self.arena.take(self.n_kinds * sizeof(KindOf))
        self.n_pieces = self.piece = 0
        if self.is_wall:
            self.n_pieces = len(pieces)
            if not self.n_pieces:
                raise ValueError("no pieces")
            self.pieces = <Piece *> self.arena.take(self.n_pieces * sizeof(Piece))
        if self.arena.failed:
            raise MemoryError
        for i in range(self.n_pieces):
            (self.pieces[i].from_ts, self.pieces[i].ts_ns, self.pieces[i].wall_ns, self.pieces[i].rise_ns,
             self.pieces[i].run_ns) = pieces[i]
        for i in range(self.n_kinds):
            of = kinds[i][0]
            self.kinds[i].entries = kinds[i][1]
            self.kinds[i].rows = 0
            self.kinds[i].n_columns = of.n_fields
            self.kinds[i].has_names, self.kinds[i].has_forms = of.has_names, of.has_forms
            self.kinds[i].head = slice_of(of.head)
            self.kinds[i].tail = slice_of(of.tail)
            self.kinds[i].columns = <Column *> self.arena.take(of.n_fields * sizeof(Column))
            if self.arena.failed:
                raise MemoryError
            self.bind(&self.kinds[i], of)
        with nogil:
            status = self.read(entries, first_ts, last_ts)
        if self.arena.failed or self.out.failed:
            raise SegmentError("the columns of a block decode to more than any block holds")
        if not status:
            raise SegmentError("block: its columns do not read as documented, or not as its head says")
        self.n = entries

    cdef int bind(self, KindOf *kind, RowKind of) except -1:
        cdef uint32_t i
        cdef Column *column
        cdef const uint8_t *keys = <const uint8_t *> PyBytes_AS_STRING(of.keys)
        for i in range(of.n_fields):
            column = &kind.columns[i]
            column.field = &of.fields[i]
            column.key.at = keys + of.fields[i].key_at
            column.key.size = of.fields[i].key_size
            column.done = NULL
            column.index = NULL
            column.numbers = NULL
            column.elements = NULL
        return 0

    @property
    def left(self):
        """Entries that have no row yet."""
        return self.n - self.at

    def fill(self, size_t limit_bytes):
        """Write rows until they reach the limit; gives how many, 0 when there are no more.

        Raises:
          SegmentError: an entry is larger than any record of the ring.
          MemoryError: there is none.
        """
        cdef uint32_t before = self.at
        cdef int sane
        with nogil:
            sane = self.write(limit_bytes)
        if self.out.failed:
            raise MemoryError
        if not sane:
            raise SegmentError("block: an entry larger than any record is", expected=f"at most {MOST_ROW_BYTES} bytes")
        return self.at - before

    def data(self):
        """The rows of the last fill()."""
        return (<const char *> self.out.data)[:self.out.size] if self.out.size else b""

    def event_time(self, uint32_t at):
        """The EventTime of an entry as its rows have it; of the last one, for a number behind it."""
        cdef Out out
        out.data, out.size, out.room, out.failed = NULL, 0, 0, 0
        put_time(&out, self.wall_of(self.ts[min(at, self.n - 1)]) if self.n else self.fallback_ns)
        try:
            if out.failed:
                raise MemoryError
            return (<const char *> out.data)[:out.size]
        finally:
            free(out.data)

    # ---- reading the columns

    cdef int read(self, uint32_t n, uint64_t first_ts, uint64_t last_ts) noexcept nogil:
        cdef Cursor c
        cdef uint32_t i, k
        cdef uint64_t *values
        c.at = self.columns.at
        c.end = c.at + self.columns.size
        c.failed = 0
        if read_array(&c) != 6:
            return 0
        values = self.spread_of(&c, n, 2 if self.n_kinds > 256 else 1, 0)
        self.kind = <uint16_t *> self.arena.take(n * sizeof(uint16_t))
        if c.failed or self.arena.failed or not self.check_kinds(values, n):
            return 0
        self.ts = self.spread_of(&c, n, 8, 0)
        if c.failed or self.arena.failed or not self.add_times(n, first_ts, last_ts):
            return 0
        self.flags = self.bytes_of(&c, n)
        self.preempt = self.bytes_of(&c, n)
        self.pid = self.spread_of(&c, n, 4, 1)
        if c.failed or self.arena.failed or read_array(&c) != self.n_kinds:
            return 0
        for k in range(self.n_kinds):
            if read_array(&c) != self.kinds[k].n_columns:
                return 0
            for i in range(self.kinds[k].n_columns):
                self.read_column(&c, &self.kinds[k].columns[i], self.kinds[k].entries)
                if c.failed or self.arena.failed or self.out.failed:
                    return 0
        return not c.failed and c.at == c.end   # a failed read stands at the end too, and counts nothing

    cdef uint64_t *spread_of(self, Cursor *c, uint32_t n, uint32_t size, int is_signed) noexcept nogil:
        cdef Numbers found = self.arena.numbers(c, n, size, is_signed)
        return self.arena.spread(&found, n)

    cdef uint8_t *bytes_of(self, Cursor *c, uint32_t n) noexcept nogil:
        cdef uint64_t *values = self.spread_of(c, n, 1, 0)
        cdef uint8_t *out = <uint8_t *> self.arena.take(n)
        cdef uint32_t i
        if values == NULL or out == NULL or c.failed:
            return out
        for i in range(n):
            out[i] = <uint8_t> values[i]
        return out

    cdef int check_kinds(self, const uint64_t *values, uint32_t n) noexcept nogil:
        """Whether each entry is of a kind that is there, and each kind has the entries that it says."""
        cdef uint32_t i
        for i in range(n):
            if values[i] >= self.n_kinds:
                return 0
            self.kind[i] = <uint16_t> values[i]
            self.kinds[values[i]].rows += 1
        for i in range(self.n_kinds):
            if self.kinds[i].rows != self.kinds[i].entries:
                return 0
            self.kinds[i].rows = 0
        return 1

    cdef int add_times(self, uint32_t n, uint64_t first_ts, uint64_t last_ts) noexcept nogil:
        cdef uint64_t ts = first_ts
        cdef uint32_t i
        if n == 0:
            return 1
        if self.ts[0] != 0:
            return 0
        for i in range(n):
            ts += self.ts[i]
            self.ts[i] = ts
        return ts == last_ts

    cdef void read_column(self, Cursor *c, Column *column, uint32_t n) noexcept nogil:
        cdef const Field *field = column.field
        cdef Numbers found
        if field.cls == FIELD_INT and 1 <= field.size <= 8:
            if field.count == 1:
                found = self.arena.numbers(c, n, field.size, field.is_signed)
                self.take_numbers(c, column, &found, n)
            elif c.end - c.at >= 2 and c.at[0] == 0x92 and c.at[1] == 6:
                self.take_elements(c, column, n)
            else:
                column.strings = self.arena.fixed(c, n, field.size * field.count)
                self.take_strings(c, column)
        elif field.cls == FIELD_INT:
            column.strings = self.arena.fixed(c, n, field.size * field.count)
            self.take_strings(c, column)
        elif field.cls == FIELD_CHARS:
            column.strings = self.arena.fixed(c, n, field.size)
            self.take_strings(c, column)
        else:
            column.strings = self.arena.variable(c, n)
            self.take_strings(c, column)

    cdef void take_numbers(self, Cursor *c, Column *column, Numbers *found, uint32_t n) noexcept nogil:
        cdef uint32_t i
        cdef size_t begin
        if c.failed or found.values == NULL:
            return
        if found.how == EACH or column.field.naming or column.field.form:
            column.how = NUMBERS
            column.numbers = self.arena.spread(found, n)
            return
        self.begin_done(column, found.k, found.index if found.how == INDEXED else NULL)
        if column.done == NULL:
            return
        for i in range(found.k):
            begin = self.begin_value(column)
            self.put_number(&self.out, column.field, found.values[i])
            self.end_value(&column.done[i], begin)

    cdef void take_elements(self, Cursor *c, Column *column, uint32_t n) noexcept nogil:
        cdef uint32_t i
        cdef const Field *field = column.field
        column.how = ELEMENTS
        c.at += 2
        if read_array(c) != field.count:
            fail(c)
            return
        column.elements = <uint64_t **> self.arena.take(field.count * sizeof(uint64_t *))
        if column.elements == NULL:
            return
        for i in range(field.count):
            column.elements[i] = self.spread_of(c, n, field.size, field.is_signed)

    cdef void take_strings(self, Cursor *c, Column *column) noexcept nogil:
        cdef uint32_t i
        cdef size_t begin
        cdef Strings *found = &column.strings
        column.how = STRINGS
        if c.failed or found.values == NULL or found.how == EACH or column.field.naming or column.field.form:
            return
        self.begin_done(column, found.k, found.index if found.how == INDEXED else NULL)
        if column.done == NULL:
            return
        for i in range(found.k):
            if found.values[i].size > MOST_ROW_BYTES:
                fail(c)
                return
            begin = self.begin_value(column)
            self.put_string(&self.out, column.field, found.values[i])
            self.end_value(&column.done[i], begin)

    cdef void begin_done(self, Column *column, uint32_t k, const uint8_t *index) noexcept nogil:
        column.how = DONE
        column.index = index
        column.done = <Slice *> self.arena.take(k * sizeof(Slice))

    cdef size_t begin_value(self, Column *column) noexcept nogil:
        """Begin a value in `out`, which holds no rows while a block is read."""
        self.out.size = 0
        put_bytes(&self.out, column.key.at, column.key.size)
        return 0

    cdef void end_value(self, Slice *to, size_t begin) noexcept nogil:
        cdef uint8_t *kept
        to.size = <uint32_t> (self.out.size - begin)
        kept = <uint8_t *> self.arena.take(to.size)
        to.at = kept
        if kept != NULL and not self.out.failed:
            memcpy(kept, self.out.data + begin, to.size)
        self.out.size = 0

    # ---- writing values

    cdef void put_number(self, Out *out, const Field *field, uint64_t value) noexcept nogil:
        if field.is_signed:
            put_int(out, <int64_t> value)
        else:
            put_uint(out, value)

    cdef void put_string(self, Out *out, const Field *field, Slice value) noexcept nogil:
        cdef uint32_t i, size = field.size
        cdef const void *nul
        if field.cls == FIELD_CHARS or (field.cls == FIELD_VARIABLE and size == 1):
            if field.of_bytes == BYTES_PLAIN:
                put_array(out, value.size)
                for i in range(value.size):
                    self.put_number(out, field, extended(value.at[i], 1, field.is_signed))
            elif field.of_bytes == BYTES_OTHER:
                put_bin(out, value.at, value.size)
            elif value.size == 0 and field.is_located:
                put_byte(out, 0xC0)
            else:
                nul = memchr(value.at, 0, value.size) if value.size else NULL
                if nul != NULL:
                    value.size = <uint32_t> (<const uint8_t *> nul - value.at)
                if is_utf8(value.at, value.size):
                    put_str(out, value.at, value.size)
                else:
                    put_bin(out, value.at, value.size)
        elif field.cls == FIELD_RAW or size > 8 or value.size % size:
            put_bin(out, value.at, value.size)
        else:
            if field.is_stack:
                value = frames_of(value, size)
            put_array(out, value.size // size)
            for i in range(value.size // size):
                self.put_number(out, field, extended(little(value.at + i * size, size), size, field.is_signed))

    cdef void put_column(self, Column *column, uint32_t row) noexcept nogil:
        cdef Out *out = &self.out
        cdef Slice *done
        cdef uint32_t i
        if column.how == DONE:
            done = &column.done[0 if column.index == NULL else column.index[row]]
            put_bytes(out, done.at, done.size)
            return
        put_bytes(out, column.key.at, column.key.size)
        if column.how == NUMBERS:
            self.put_number(out, column.field, column.numbers[row])
        elif column.how == STRINGS:
            self.put_string(out, column.field, string_at(column, row))
        else:
            put_array(out, column.field.count)
            for i in range(column.field.count):
                self.put_number(out, column.field, column.elements[i][row])

    # ---- writing rows

    cdef int write(self, size_t limit_bytes) noexcept nogil:
        cdef size_t begin
        self.out.size = 0
        while self.at < self.n and self.out.size < limit_bytes:
            begin = self.out.size
            self.put_row(self.at)
            if self.out.failed:
                return 1
            if self.out.size - begin > MOST_ROW_BYTES:
                return 0
            self.at += 1
        return 1

    cdef void put_row(self, uint32_t at) noexcept nogil:
        cdef Out *out = &self.out
        cdef KindOf *kind = &self.kinds[self.kind[at]]
        cdef uint64_t ts = self.ts[at]
        cdef uint32_t i, row = kind.rows, entries = self.fixed_entries
        cdef size_t count_at
        kind.rows += 1
        put_byte(out, 0x92)
        put_time(out, self.wall_of(ts))
        count_at = out.size
        put_bytes(out, <const uint8_t *> b"\xde\x00\x00", 3)
        put_bytes(out, self.begin.at, self.begin.size)
        put_bytes(out, <const uint8_t *> b"\xa7ordinal", 8)
        put_uint(out, self.ordinal + at)
        if not self.is_wall:
            put_bytes(out, <const uint8_t *> b"\xa6ts_raw", 7)
            put_uint(out, ts)
            entries += 1
        put_bytes(out, kind.head.at, kind.head.size)
        if self.pid[at] != self.cached_pid:
            self.describe(self.pid[at])
        put_bytes(out, self.thread.data, self.thread.size)
        entries += self.thread_entries
        put_bytes(out, <const uint8_t *> b"\xa5flags", 6)
        put_uint(out, self.flags[at])
        put_bytes(out, <const uint8_t *> b"\xadpreempt_count", 14)
        put_uint(out, self.preempt[at])
        put_bytes(out, kind.tail.at, kind.tail.size)
        put_map(out, kind.n_columns)
        for i in range(kind.n_columns):
            self.put_column(&kind.columns[i], row)
        if kind.has_forms:
            entries += self.put_forms(kind, row)
        if kind.has_names:
            entries += self.put_names(kind, row, NAMES_CODE, self.symbols, b"\xa7symbols", 8)
            entries += self.put_names(kind, row, NAMES_STRINGS, self.strings, b"\xa7strings", 8)
        if not out.failed:
            out.data[count_at + 2] = <uint8_t> entries

    cdef void describe(self, uint64_t pid) noexcept nogil:
        """Encode a thread: its id, and its name and process where they are known."""
        cdef Slice found
        self.cached_pid = pid
        self.thread.size = self.thread_entries = 0
        put_int(&self.thread, <int64_t> pid)
        if self.comms.find(pid, &found):
            put_bytes(&self.thread, <const uint8_t *> b"\xa4comm", 5)
            put_bytes(&self.thread, found.at, found.size)
            self.thread_entries += 1
        if self.tgids.find(pid, &found):
            put_bytes(&self.thread, <const uint8_t *> b"\xa4tgid", 5)
            put_bytes(&self.thread, found.at, found.size)
            self.thread_entries += 1
        self.out.failed |= self.thread.failed

    cdef int put_names(
        self, KindOf *kind, uint32_t row, int naming, Names names, const char *key, uint32_t key_size
    ) noexcept nogil:
        """A map of the names of what a row's addresses point to; gives 0, and writes nothing, when none has one."""
        cdef Out *out = &self.out
        cdef size_t begin = out.size
        cdef uint32_t i, entries = 0
        if names.n == 0:
            return 0
        put_bytes(out, <const uint8_t *> key, key_size)
        put_bytes(out, <const uint8_t *> b"\xde\x00\x00", 3)
        for i in range(kind.n_columns):
            if kind.columns[i].field.naming == naming:
                entries += self.put_names_of(&kind.columns[i], row, names)
        if entries == 0 or out.failed:
            out.size = begin
            return 0
        out.data[begin + key_size + 1] = <uint8_t> (entries >> 8)
        out.data[begin + key_size + 2] = <uint8_t> entries
        return 1

    cdef int put_forms(self, KindOf *kind, uint32_t row) noexcept nogil:
        """A map of the readable forms of a row's addresses and masks; gives 1."""
        cdef Out *out = &self.out
        cdef size_t count_at
        cdef uint32_t i, entries = 0
        put_bytes(out, <const uint8_t *> b"\xa8readable", 9)
        count_at = out.size
        put_bytes(out, <const uint8_t *> b"\xde\x00\x00", 3)
        for i in range(kind.n_columns):
            if kind.columns[i].field.form:
                put_bytes(out, kind.columns[i].key.at, kind.columns[i].key.size)
                self.put_form_of(&kind.columns[i], row)
                entries += 1
        if not out.failed:
            out.data[count_at + 1] = <uint8_t> (entries >> 8)
            out.data[count_at + 2] = <uint8_t> entries
        return 1

    cdef void put_form_of(self, Column *column, uint32_t row) noexcept nogil:
        cdef const Field *field = column.field
        cdef uint8_t number_bytes[8]
        cdef uint32_t i
        cdef uint64_t value
        cdef Slice found
        if field.form == FORM_BITMASK:
            self.put_bits(column, row)
            return
        if column.how == NUMBERS:
            value = column.numbers[row]
            for i in range(8):
                number_bytes[i] = <uint8_t> (value >> (8 * i))
            put_form(&self.out, field.form, number_bytes, field.size)
        elif column.how == STRINGS:
            found = string_at(column, row)
            put_form(&self.out, field.form, found.at, found.size)
        else:
            put_byte(&self.out, 0xC0)

    cdef void put_bits(self, Column *column, uint32_t row) noexcept nogil:
        """The numbers of the bits that are set, "0-3,8"; nil where the bytes are no whole number of words."""
        cdef Out *out = &self.out
        cdef const Field *field = column.field
        cdef uint32_t words, width = 8 * field.size, at, begin = 0, size
        cdef size_t head = out.size
        cdef int is_set, was_set = 0
        cdef Slice value
        cdef uint8_t text[24]
        cdef uint8_t *end
        value.at, value.size = NULL, 0
        if column.how == ELEMENTS:
            words = field.count
        elif column.how == STRINGS and field.size <= 8 and string_at(column, row).size % field.size == 0:
            value = string_at(column, row)
            words = value.size // field.size
        else:
            put_byte(out, 0xC0)
            return
        put_bytes(out, <const uint8_t *> b"\xdb\x00\x00\x00\x00", 5)
        for at in range(words * width + 1):
            if at == words * width:
                is_set = 0
            elif column.how == ELEMENTS:
                is_set = (column.elements[at // width][row] >> (at % width)) & 1
            else:
                is_set = (value.at[at // 8] >> (at % 8)) & 1
            if is_set and not was_set:
                begin = at
            elif was_set and not is_set:
                end = text
                if out.size > head + 5:
                    end[0] = c','
                    end += 1
                end = number(end, begin, 10)
                if at - 1 > begin:
                    end[0] = c'-'
                    end = number(end + 1, at - 1, 10)
                put_bytes(out, text, <size_t> (end - text))
            was_set = is_set
        if not out.failed:
            size = <uint32_t> (out.size - head - 5)
            for at in range(4):
                out.data[head + 1 + at] = <uint8_t> (size >> (24 - 8 * at))

    cdef int put_names_of(self, Column *column, uint32_t row, Names names) noexcept nogil:
        cdef Out *out = &self.out
        cdef size_t begin = out.size
        cdef uint32_t size = column.field.size, n, i
        cdef Slice value, found
        cdef int is_one = column.how == NUMBERS, any_found = 0
        cdef uint64_t address
        value.at = NULL
        value.size = 0
        if is_one:
            n = 1
        elif column.how == ELEMENTS:
            n = column.field.count
        else:
            value = string_at(column, row)
            if size > 8 or value.size % size:
                return 0
            if column.field.is_stack:
                value = frames_of(value, size)
            n = value.size // size
        put_bytes(out, column.key.at, column.key.size)
        if not is_one:
            put_array(out, n)
        for i in range(n):
            if is_one:
                address = column.numbers[row]
            elif column.how == ELEMENTS:
                address = column.elements[i][row]
            else:
                address = extended(little(value.at + i * size, size), size, column.field.is_signed)
            if names.find(address, &found):
                put_bytes(out, found.at, found.size)
                any_found = 1
            else:
                put_byte(out, 0xC0)
        if not any_found:
            out.size = begin
        return any_found

    cdef uint64_t wall_of(self, uint64_t ts) noexcept nogil:
        """Wall time in ns, within what an EventTime can say."""
        cdef Piece *piece
        cdef uint32_t low, high, middle
        cdef rows_int128 wall, product
        if not self.is_wall:
            return self.fallback_ns
        piece = &self.pieces[self.piece]
        if ts < piece.from_ts or (self.piece + 1 < self.n_pieces and ts >= piece[1].from_ts):
            low, high = 0, self.n_pieces
            while high - low > 1:          # pieces[low].from_ts <= ts < pieces[high].from_ts
                middle = (low + high) // 2
                if self.pieces[middle].from_ts <= ts:
                    low = middle
                else:
                    high = middle
            self.piece = low
            piece = &self.pieces[low]
        wall = <rows_int128> ts - <rows_int128> piece.ts_ns
        if piece.rise_ns != 1 or piece.run_ns != 1:
            product = wall * piece.rise_ns
            wall = product / <rows_int128> piece.run_ns
            if product < 0 and wall * <rows_int128> piece.run_ns != product:
                wall -= 1                  # C cuts towards 0, the reader in Python downwards
        wall += piece.wall_ns
        if wall < 0:
            return 0
        if wall >= <rows_int128> NS << 32:
            return (NS << 32) - 1
        return <uint64_t> wall


cdef Slice frames_of(Slice words, uint32_t size) noexcept nogil:
    """The frames of a stack: synthetic events have their number before them, and zeros behind."""
    cdef uint32_t n = words.size // size, i
    cdef uint64_t count
    cdef Slice out = words
    if n == 0:
        return words
    count = little(words.at, size)
    if count > n:
        return words
    for i in range(<uint32_t> count + 1, n):
        if little(words.at + i * size, size):
            return words
    out.at += size
    out.size = <uint32_t> (count if count < n else n - 1) * size
    return out


cdef Slice string_at(const Column *column, uint32_t row) noexcept nogil:
    if column.strings.how == EACH:
        return column.strings.values[row]
    return column.strings.values[0 if column.strings.how == SAME else column.strings.index[row]]


cdef void put_time(Out *out, uint64_t wall_ns) noexcept nogil:
    """An EventTime: extension type 0, seconds and nanoseconds, 4 bytes each."""
    cdef uint8_t *p = room_for(out, 10)
    cdef uint32_t s = <uint32_t> (wall_ns // NS), ns = <uint32_t> (wall_ns % NS)
    cdef uint32_t i
    if p == NULL:
        return
    p[0] = 0xD7
    p[1] = 0
    for i in range(4):
        p[2 + i] = <uint8_t> (s >> (24 - 8 * i))
        p[6 + i] = <uint8_t> (ns >> (24 - 8 * i))
    out.size += 10


cdef Slice slice_of(bytes data):
    cdef Slice out
    out.at = <const uint8_t *> PyBytes_AS_STRING(data)
    out.size = <uint32_t> PyBytes_GET_SIZE(data)
    return out
