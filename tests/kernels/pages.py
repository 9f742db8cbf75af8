"""Ring pages of any generation: 4- or 8-byte longs, either byte order, with all that a page can hold beside entries.

Source: kernel/trace/ring_buffer.c; include/linux/ring_buffer.h.
"""

from dataclasses import dataclass, field
from random import Random

from tests.kernels.formats import MadeFormat
from tests.kernels.generation import Generation

U64 = (1 << 64) - 1
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
STAMP_BITS = 59
LOST, COUNT_STORED = 1 << 31, 1 << 30  # flags in commit


def header_page(generation: Generation, subbuf_size: int = 4096, data_offset: int | None = None) -> str:
    """The text of events/header_page."""
    word = generation.word_size
    start = 8 + word if data_offset is None else data_offset
    return (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\toffset:8;\tsize:{word};\tsigned:1;\n"
        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:{start};\tsize:{subbuf_size - start};\tsigned:1;\n"
    )


def header_event(generation: Generation) -> str:
    """The text of events/header_event."""
    stamp = "\ttime_stamp : type == 31\n" if generation.has_time_stamp else ""
    return (
        "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\tarray       :   32 bits\n\n"
        f"\tpadding     : type == 29\n\ttime_extend : type == 30\n{stamp}\tdata max type_len  == 28\n"
    )


@dataclass
class Writer:
    """Writes the ring of one CPU: entries at given times, and between them whatever else a page can hold."""

    generation: Generation
    random: Random
    subbuf_size: int = 4096
    data_offset: int | None = None  # None: right behind commit
    pages: list[bytes] = field(default_factory=list)
    gaps: list[tuple[int, int | None]] = field(default_factory=list)  # (index of the next entry, count or None)
    entries: int = 0
    _data: bytearray = field(default_factory=bytearray)
    _first: int | None = None  # time of the page
    _ts: int = 0
    _lost: tuple[int | None] | None = None  # (count,) of what was lost before this page

    @property
    def capacity(self) -> int:
        start = 8 + self.generation.word_size if self.data_offset is None else self.data_offset
        return self.subbuf_size - start

    def integer(self, value: int, size: int) -> bytes:
        """A number as this machine stores it."""
        return (value & (1 << 8 * size) - 1).to_bytes(size, self.generation.byte_order)

    def record(self, event_id: int, body: bytes, head: dict[str, int]) -> bytes:
        """A record: the head, whose extra fields stand at their offsets, and what follows from its end on."""
        fields = self.generation.head
        record = bytearray(max(f.offset + f.size for f in fields))
        for f in fields:
            value = event_id if f.name == "common_type" else head[f.name]
            record[f.offset : f.offset + f.size] = self.integer(value, f.size)
        return bytes(record) + body

    def add(self, ts: int, record: bytes) -> None:
        """An entry; it begins a page when this one is full. Times do not step back."""
        noise = self._noise()
        # A discarded entry, the longest event head, the record and its padding.
        if len(self._data) + len(noise) + 24 + 8 + len(record) + 3 > self.capacity:
            self.end_page()
        if self._first is None:
            self._begin_page(ts)
        self._data += noise
        self._data += self._time(ts)
        self._data += self._event(record, ts - self._ts)
        self._ts = ts
        self.entries += 1

    def lose(self, count: int | None) -> None:
        """Ends the page; the next one says that so many entries before it were lost."""
        self.end_page()
        self._lost = (count,)

    def end_page(self) -> None:
        """The page as read() gives it: what is behind its end is zero."""
        if self._first is None:
            return
        room = self.capacity - len(self._data)
        data = bytes(self._data)
        commit = len(data)
        if self._lost is not None:
            (count,) = self._lost
            commit |= LOST
            if count is not None and room >= self.generation.word_size:
                commit |= COUNT_STORED
                data += self.integer(count, self.generation.word_size)
            elif count is not None:
                self.gaps[-1] = (self.gaps[-1][0], None)
            if self.random.random() < 0.5:
                commit |= ~((1 << 32) - 1)  # sign-extended, as read() of some kernels gives it
        elif room >= 8 and self.random.random() < 0.5:
            data += self._dead(room, 1) if self.random.random() < 0.5 else self._word(PADDING, 0)
            commit = len(data)
        head = self.integer(self._first, 8) + self.integer(commit, self.generation.word_size)
        self.pages.append((head.ljust(self.subbuf_size - self.capacity, b"\0") + data).ljust(self.subbuf_size, b"\0"))
        self._data, self._first, self._lost = bytearray(), None, None

    def _begin_page(self, ts: int) -> None:
        self._first = self._ts = ts
        if self._lost is not None:
            self.gaps.append((self.entries, self._lost[0]))

    def _word(self, type_len: int, delta: int) -> bytes:
        """The first word of an event: the bit fields of a struct lie from the machine's first byte on."""
        order = self.generation.byte_order
        return self.integer(type_len | delta << 5 if order == "little" else type_len << 27 | delta, 4)

    def _event(self, record: bytes, delta: int) -> bytes:
        record = record.ljust(-(-len(record) // 4) * 4, b"\0")
        if len(record) > 28 * 4 or self.random.random() < 0.2:
            return self._word(0, delta) + self.integer(len(record) + 4, 4) + record
        return self._word(len(record) // 4, delta) + record

    def _dead(self, size: int, delta: int) -> bytes:
        """Padding, or with a delta other than 1 a discarded entry."""
        return self._word(PADDING, delta) + self.integer(size - 4, 4) + b"\xdd" * (size - 8)

    def _time(self, ts: int) -> bytes:
        """What must or may stand before an entry, so that its delta is small enough."""
        delta = ts - self._ts
        how = self.random.choice(("delta", "delta", "discarded", "extend", "stamp"))
        if how == "delta" and delta < 1 << 27:
            return b""
        if how == "discarded" and 2 <= delta < 1 << 27:
            part = self.random.randint(2, delta)
            self._ts += part
            return self._dead(self.random.choice((8, 24)), part)
        if how == "stamp" and self.generation.has_time_stamp and ts >> STAMP_BITS == self._ts >> STAMP_BITS:
            kind, value = TIME_STAMP, ts & (1 << STAMP_BITS) - 1
        else:
            kind, value = TIME_EXTEND, delta
        self._ts = ts
        return self._word(kind, value & (1 << 27) - 1) + self.integer(value >> 27, 4)

    def _noise(self) -> bytes:
        """Dead space that is no entry; it takes no time."""
        return self._dead(self.random.choice((8, 16, 40)), 1) if self.random.random() < 0.1 else b""


def build_body(
    writer: Writer, made: MadeFormat, contents: dict[str, list[bytes]], filler: int = 0
) -> tuple[bytes, dict[str, list[bytes]]]:
    """(a record's bytes behind the head, contents as they come back).

    Args:
      contents: {field: its bytes; of an array of strings those of each}.
      filler: the byte of what is no field, as the ring has old data there.
    """
    start = max(f.offset + f.size for f in writer.generation.head)
    end = max(f.offset + (f.shape.takes or f.shape.size) for f in made.fields)
    record = bytearray([filler]) * end
    back = dict(contents)
    for f in made.fields:
        content = contents[f.name]
        if f.shape.place == "fixed":
            record[f.offset : f.offset + f.shape.size] = content[0]
        elif f.shape.place == "tail":
            del record[f.offset :]
            whole = content[0].ljust(-(-(f.offset + len(content[0])) // 4) * 4 - f.offset, b"\0")
            record += whole
            back[f.name] = [whole]
        else:
            for at, piece in enumerate(content):
                place = f.offset + 4 * at
                base = place + 4 if f.shape.place == "rel_loc" else 0
                record[place : place + 4] = writer.integer(len(record) - base | len(piece) << 16, 4)
                record += piece
    return bytes(record[start:]), back
