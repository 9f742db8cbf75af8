"""From the body of a block record to its entries."""

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, compress, islice
from typing import Any

from collector.archive.bodies import BlockHead, parse_block
from collector.archive.columns import (
    MAX_DECODED_BYTES,
    MAX_ENTRIES,
    Budget,
    Repeat,
    decode_array,
    decode_fixed,
    decode_integers,
    decode_variable,
)
from collector.archive.fields import unpack
from collector.archive.objects import CHARS, INT, VARIABLE, FieldColumn, FormatObject, decompress_zstd
from collector.batch import MODE_RAW
from collector.errors import SegmentError


@dataclass(frozen=True, slots=True, eq=False)
class KindColumns:
    """All entries of one event in a block, in their order."""

    format: FormatObject
    mode: int  # MODE_TYPED or MODE_RAW
    entries: int
    columns: tuple[Sequence[Any], ...]  # one per field: ints, lists of ints or bytes; for MODE_RAW one of bytes


@dataclass(frozen=True)
class Entry:
    """One entry of the ring."""

    ts: int  # in the unit of the stream's clock
    cpu: int
    kind: KindColumns
    row: int  # among the entries of its kind
    pid: int
    flags: int
    preempt_count: int

    @property
    def format(self) -> FormatObject:
        return self.kind.format

    @property
    def mode(self) -> int:
        return self.kind.mode

    @cached_property
    def fields(self) -> dict[str, Any]:
        """{name: int, list of ints, or bytes}; {"raw": bytes of the whole record} for MODE_RAW."""
        kind = self.kind
        if kind.mode == MODE_RAW:
            return {"raw": kind.columns[0][self.row]}
        pairs = zip(kind.format.columns, kind.columns, strict=True)
        return {of.name: decode_elements(of, values[self.row]) for of, values in pairs}


def decode_elements(column: FieldColumn, value: Any) -> Any:
    """Gives a variable field's bytes as integers where its elements are wider than a byte.

    Bytes stay bytes, also those that are no whole number of elements: the record said so.
    """
    size = column.size
    if column.cls not in VARIABLE or size == 1 or len(value) % size:
        return value
    return [int.from_bytes(value[at : at + size], "little", signed=column.signed) for at in range(0, len(value), size)]


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBlock:
    """A block's columns, still as columns."""

    head: BlockHead
    kinds: tuple[KindColumns, ...]
    kind: Sequence[int]  # per entry: index into kinds
    ts: Sequence[int]
    flags: Sequence[int]
    preempt_count: Sequence[int]
    pid: Sequence[int]

    def entries(self) -> Iterator[Entry]:
        """Gives the entries in the order of the ring."""
        rows = [0] * len(self.kinds)
        cpu = self.head.stream[1]
        columns = zip(self.kind, self.ts, self.pid, self.flags, self.preempt_count, strict=True)
        for kind, ts, pid, flags, preempt_count in columns:
            yield Entry(ts, cpu, self.kinds[kind], rows[kind], pid, flags, preempt_count)
            rows[kind] += 1


def decode_block(body: bytes | memoryview | BlockHead, formats: Mapping[bytes, FormatObject]) -> DecodedBlock:
    """Decodes the body of a block record.

    Args:
      body: of the record, or what parse_block made of it.
      formats: {object id: format}, at least those that the block names.
    Raises:
      SegmentError: the block or its columns do not read as documented, or a format is not there.
    """
    head = body if isinstance(body, BlockHead) else parse_block(body)
    n = head.entries
    top = _read_columns(head)
    budget = Budget()
    try:
        kind = decode_integers(top[0], n, 2 if len(head.kinds) > 256 else 1, False, budget)
        _check_kinds(head, kind)
        return DecodedBlock(
            head,
            tuple(_decode_kind(head, at, top[5][at], formats, budget) for at in range(len(head.kinds))),
            kind,
            _decode_times(top[1], head, budget),
            decode_integers(top[2], n, 1, False, budget),
            decode_integers(top[3], n, 1, False, budget),
            decode_integers(top[4], n, 4, True, budget),
        )
    except MemoryError as e:
        raise SegmentError("block: no memory to decode it") from e


@dataclass(frozen=True, slots=True, eq=False)
class PickedFields:
    """Some fields of all entries of one event in a block, in their order."""

    format: FormatObject
    columns: dict[str, Sequence[Any]]  # {field: values}, of those that were wanted and are there
    ts: Sequence[int] | None  # None: not decoded
    pid: Sequence[int] | None  # decoded where `ts` is, of the events that asked for it


def decode_fields(
    body: bytes | memoryview,
    formats: Mapping[bytes, FormatObject],
    wanted: Mapping[str, Collection[str]],
    timed: Collection[str] | None = None,
) -> list[PickedFields]:
    """Decodes only these fields; a block without such events costs no more than its head.

    Args:
      wanted: {"system:name": fields}.
      timed: events whose times and pids are wanted, and with them the times of the others; None: all times, no pids.
    Raises:
      SegmentError: as decode_block.
    """
    head = parse_block(body)
    places = [at for at, kind in enumerate(head.kinds) if kind.mode != MODE_RAW and kind.format_id in formats]
    names = {at: formats[head.kinds[at].format_id].full_name for at in places}
    places = [at for at in places if names[at] in wanted]
    if not places:
        return []
    n, budget = head.entries, Budget()
    top = _read_columns(head)
    has_times = timed is None or any(names[at] in timed for at in places)
    kind: Sequence[int] = ()
    ts: Sequence[int] = ()
    pid: Sequence[int] = ()
    if has_times:
        kind = decode_integers(top[0], n, 2 if len(head.kinds) > 256 else 1, False, budget)
        kind = bytes(kind) if len(head.kinds) <= 256 else kind
        ts = _decode_times(top[1], head, budget)
    if has_times and timed is not None:
        pid = decode_integers(top[4], n, 4, True, budget)
    found = []
    for at in places:
        of = formats[head.kinds[at].format_id]
        payload = top[5][at]
        if not isinstance(payload, list) or len(payload) != len(of.columns):
            raise SegmentError(f"block: columns of {of.full_name}", expected=str(len(of.columns)))
        columns = {
            field.name: _decode_field(field, column, head.kinds[at].entries, budget)
            for field, column in zip(of.columns, payload, strict=True)
            if field.name in wanted[names[at]]
        }
        is_timed = timed is not None and names[at] in timed
        found.append(PickedFields(
            of, columns, _pick(ts, kind, at, head.kinds[at].entries) if has_times else None,
            _pick(pid, kind, at, head.kinds[at].entries) if is_timed else None,
        ))  # fmt: skip
    return found


def _pick(values: Sequence[int], kind: Sequence[int], at: int, entries: int) -> list[int]:
    """Gives the values of the entries of one kind.

    Raises:
      SegmentError: there are not so many.
    """
    picked: list[int] = []
    if not isinstance(kind, bytes):
        picked = [value for value, found in zip(values, kind, strict=True) if found == at]
    elif entries * 32 > len(kind):
        picked = list(compress(values, kind.translate(bytes(found == at for found in range(256)))))
    else:
        place = kind.find(at)
        while place >= 0:
            picked.append(values[place])
            place = kind.find(at, place + 1)
    if len(picked) != entries:
        raise SegmentError("block: kinds", expected=f"{entries} entries of kind {at}", got=str(len(picked)))
    return picked


def _read_columns(head: BlockHead) -> list[Any]:
    """Gives [kind, ts, flags, preempt, pid, payload of each kind], still encoded."""
    if head.entries > MAX_ENTRIES:
        raise SegmentError(
            "block: more entries than any block has", expected=f"at most {MAX_ENTRIES}", got=str(head.entries)
        )
    top = unpack(decompress_columns(head), "block: columns")
    if not isinstance(top, list) or len(top) != 6 or not isinstance(top[5], list):
        raise SegmentError("block: columns", expected="[kind, ts, flags, preempt, pid, [payload]]", got=repr(top)[:60])
    if len(top[5]) != len(head.kinds):
        raise SegmentError("block: columns", expected=f"payload of {len(head.kinds)} kinds", got=str(len(top[5])))
    return top


def decompress_columns(head: BlockHead) -> bytes:
    """Gives a block's columns as one msgpack object.

    Raises:
      SegmentError: they do not decompress to what the head says.
    """
    if head.size_bytes > MAX_DECODED_BYTES:
        raise SegmentError("block: size", expected=f"at most {MAX_DECODED_BYTES}", got=str(head.size_bytes))
    match head.codec:
        case "zstd":
            return decompress_zstd(head.cols, head.size_bytes, MAX_DECODED_BYTES, "block")
        case "none":
            out = head.cols
        case "lz4":
            import lz4.block  # only archives that chose it need it

            try:
                out = lz4.block.decompress(head.cols, uncompressed_size=head.size_bytes)
            except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as e:
                raise SegmentError(f"block does not decompress ({e})") from e
        case _:
            raise SegmentError("block: codec", expected="none, zstd or lz4", got=repr(head.codec))
    if len(out) != head.size_bytes:
        raise SegmentError("block: size of the columns", expected=str(head.size_bytes), got=str(len(out)))
    return out


def _check_kinds(head: BlockHead, kind: Sequence[int]) -> None:
    """Each entry's kind must exist, and each kind have as many entries as the block says."""
    if isinstance(kind, Repeat):
        found = [head.entries if at == kind.value else 0 for at in range(len(head.kinds))]
    else:
        counted = Counter(kind)
        found = [counted.pop(at, 0) for at in range(len(head.kinds))]
    if found != [k.entries for k in head.kinds]:
        raise SegmentError("block: kinds", expected=f"{[k.entries for k in head.kinds]} entries", got=str(found))


def _decode_times(column: object, head: BlockHead, budget: Budget) -> Sequence[int]:
    """Gives each entry's time from the differences; the first is to t0, and the last must come out as t1."""
    deltas = decode_integers(column, head.entries, 8, False, budget)
    if not head.entries:
        return []
    first = (head.first_ts + deltas[0]) % 2**64
    try:
        times = array("Q", accumulate(islice(deltas, 1, None), initial=first))
    except OverflowError:  # a step back, which is a difference near 2^64
        times = array("Q", (ts % 2**64 for ts in accumulate(islice(deltas, 1, None), initial=first)))
    if times[0] != head.first_ts or times[-1] != head.last_ts:
        raise SegmentError(
            "block: times", expected=f"{head.first_ts} to {head.last_ts}", got=f"{times[0]} to {times[-1]}"
        )
    return times


def _decode_kind(
    head: BlockHead, at: int, payload: object, formats: Mapping[bytes, FormatObject], budget: Budget
) -> KindColumns:
    kind = head.kinds[at]
    of = formats.get(kind.format_id)
    if of is None:
        raise SegmentError(f"block: format {kind.format_id.hex()} is not in the segment")
    wanted = 1 if kind.mode == MODE_RAW else len(of.columns)
    if not isinstance(payload, list) or len(payload) != wanted:
        raise SegmentError(f"block: columns of {of.full_name}", expected=str(wanted), got=repr(payload)[:40])
    n = kind.entries
    if kind.mode == MODE_RAW:
        return KindColumns(of, kind.mode, n, (decode_variable(payload[0], n, budget),))
    try:
        pairs = zip(of.columns, payload, strict=True)
        return KindColumns(of, kind.mode, n, tuple(_decode_field(field, c, n, budget) for field, c in pairs))
    except SegmentError as e:
        raise SegmentError(f"block: {of.full_name}: {e}") from e


def _decode_field(field: FieldColumn, column: object, n: int, budget: Budget) -> Sequence[Any]:
    if field.cls == CHARS:
        return decode_fixed(column, n, field.size, budget)
    if field.cls != INT:
        return decode_variable(column, n, budget)
    if field.count == 1:
        return decode_integers(column, n, field.size, field.signed, budget)
    return decode_array(column, n, field.size, field.signed, field.count, budget)
