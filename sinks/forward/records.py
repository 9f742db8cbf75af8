"""From parcels to one msgpack record per entry: what must be remembered of objects to name what a block only refers to.

Blocks are decoded natively (collector/read/rows.pyx has the layout of a row). Gaps and reports have rows of their
own:

    [EventTime, {host, run, instance, cpu, gap: {cause, count, ...}}]
    [EventTime, {host, run, instance, report: {kind, tracer, value, unit, text}}]

Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgpack

from collector.archive.block import decompress_columns
from collector.archive.bodies import BlockHead, Clock, parse_block, parse_gap, parse_header
from collector.archive.fields import Fields, pack, unpack
from collector.archive.frame import Kind
from collector.archive.objects import (
    ClockPair,
    FormatObject,
    ReportObject,
    StoredObject,
    parse_clock,
    parse_format,
    parse_names,
    parse_object,
    parse_report,
)
from collector.batch import MODE_RAW
from collector.errors import SegmentError
from collector.read.lookup import Names
from collector.read.meaning import column_kinds
from collector.read.rows import RowEncoder, RowKind, pack_text
from collector.read.symbols import Symbols
from collector.read.walltime import WallClock
from sinks.contract.base import Parcel

# Formats are the same in each epoch, by their ids; a kernel has some thousand events, of which few are on. The one that
# was not used for longest goes.
MOST_FORMATS = 16384

_NS = 1_000_000_000
_LAST_NS = (_NS << 32) - 1  # that an EventTime can say


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows, one behind the other."""

    data: bytes
    count: int


@dataclass(slots=True)
class _Epoch:
    """What the objects since a HEADER have said."""

    host: str = ""
    clocks: dict[str, Clock] = field(default_factory=dict)  # {instance: clock}
    pairs: dict[str, list[ClockPair]] = field(default_factory=dict)  # {instance: readings}
    walls: dict[str, WallClock] = field(default_factory=dict)  # {instance: of its pairs so far}
    comms: Names = field(default_factory=Names)  # {pid: name}, encoded
    tgids: Names = field(default_factory=Names)
    symbols: Names = field(default_factory=Names)  # {address: "name+0xoffset [module]"}, encoded
    strings: Names = field(default_factory=Names)


class RecordBuilder:
    """Turns parcels into rows; takes them in the order in which the sink gets them.

    Args:
      limit_bytes: rows are given in pieces of about this size.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._encoder = RowEncoder()
        self._formats: dict[bytes, FormatObject] = {}  # in the order of their last use
        self._kinds: dict[tuple[bytes, int], RowKind] = {}  # {(format id, mode): layout}
        self._epoch = _Epoch()
        self._to_learn: Sequence[Parcel] = ()  # anew, before the next parcel

    def take(self, parcel: Parcel, now_ns: int) -> Iterator[Rows]:
        """Gives the rows that a parcel makes, in pieces; of most kinds none.

        Args:
          now_ns: wall time, for what has none of its own.
        Raises:
          SegmentError: the body does not read as documented, or needs a format that was not sent.
        """
        known, self._to_learn = self._to_learn, ()
        for before in known:
            for _ in self.take(before, now_ns):
                pass  # a report, which was delivered
        match parcel.kind:
            case Kind.HEADER:
                header = parse_header(parcel.body)
                self._epoch = _Epoch(header.host, header.clocks)
            case Kind.OBJECT:
                yield from self._learn(parcel)
            case Kind.BLOCK:
                yield from self._block(parcel, now_ns)
            case Kind.GAP:
                yield self._gap(parcel, now_ns)

    def rewind(self, preamble: Sequence[Parcel]) -> None:
        """Forget all but formats, and learn what header and objects say once there is something to take behind them."""
        self._epoch, self._to_learn = _Epoch(), preamble

    # ---- what is remembered

    def _learn(self, parcel: Parcel) -> Iterator[Rows]:
        """Remember what an object says; a report is a row."""
        top = Fields(unpack(parcel.body, "object"), "object")
        if top.text("type") == "format" and self._find_format(top.binary("id", 8)) is not None:
            return
        stored = parse_object(parcel.body)
        epoch = self._epoch
        match stored.type:
            case "report":
                yield self._report(parse_report(stored), parcel.run)
            case "format":
                self._add_format(stored)
            case "clock":
                pair = parse_clock(stored)
                epoch.pairs.setdefault(pair.instance, []).append(pair)
                epoch.walls.pop(pair.instance, None)
            case "comms" | "comms_proc":
                for pid, comm in parse_names(stored).items():
                    epoch.comms.set(pid, _pack_comm(comm))
            case "tgids":
                for pid, tgid in parse_names(stored).items():
                    epoch.tgids.set(pid, pack(tgid))
            case "symbols":
                found = Symbols()
                found.add_code(parse_names(stored))
                _set_all(epoch.symbols, found.code)
            case "printk":
                found = Symbols()
                found.add_strings(parse_names(stored))
                _set_all(epoch.strings, found.strings)

    def _add_format(self, stored: StoredObject) -> None:
        while len(self._formats) >= MOST_FORMATS:
            oldest = next(iter(self._formats))
            del self._formats[oldest]
            for key in [key for key in self._kinds if key[0] == oldest]:
                del self._kinds[key]
        self._formats[stored.id] = parse_format(stored)

    def _find_format(self, format_id: bytes) -> FormatObject | None:
        found = self._formats.pop(format_id, None)
        if found is not None:
            self._formats[format_id] = found  # the last to go
        return found

    # ---- rows

    def _block(self, parcel: Parcel, now_ns: int) -> Iterator[Rows]:
        head = parse_block(parcel.body)
        epoch = self._epoch
        instance, cpu = head.stream
        common = _common(epoch.host, head.run, instance, cpu)
        clock, wall = epoch.clocks.get(instance), self._wall(epoch, instance)
        if wall is None:
            common["clock"] = "unknown" if clock is None else clock.name
        prefix = b"".join(pack(key) + _pack(value) for key, value in common.items())
        self._encoder.open(
            decompress_columns(head), head.entries, head.first_ts, head.last_ts, head.ordinal,
            [(self._kind(kind.format_id, kind.mode), kind.entries) for kind in head.kinds], prefix, len(common),
            None if wall is None else wall.pieces(), _moment(epoch.pairs.get(instance, []), head.first_ts, now_ns),
            epoch.comms, epoch.tgids, epoch.symbols, epoch.strings,
        )  # fmt: skip
        if head.gaps:
            yield self._gaps_of(head, common)
        while count := self._encoder.fill(self._limit_bytes):
            yield Rows(self._encoder.data(), count)

    def _gaps_of(self, head: BlockHead, common: Mapping[str, object]) -> Rows:
        rows = []
        for gap in head.gaps:
            about = {**common, "ordinal": head.ordinal + gap.at, "gap": {"cause": "overrun", "count": gap.lost}}
            rows.append(b"\x92" + self._encoder.event_time(gap.at) + _pack(about))
        return Rows(b"".join(rows), len(rows))

    def _gap(self, parcel: Parcel, now_ns: int) -> Rows:
        gap = parse_gap(parcel.body)
        epoch = self._epoch
        instance, cpu = gap.stream
        ts = gap.to_ts if gap.to_ts is not None else gap.from_ts
        wall = self._wall(epoch, instance)
        about = {"cause": gap.cause, "count": gap.count, "from_ts": gap.from_ts, "to_ts": gap.to_ts,
                 "detail": gap.detail}  # fmt: skip
        at_ns = now_ns if ts is None or wall is None else wall.at(ts)[0]
        return Rows(build_row(at_ns, {**_common(epoch.host, gap.run, instance, cpu), "gap": about}), 1)

    def _report(self, report: ReportObject, run: bytes) -> Rows:
        about = {"kind": report.kind, "tracer": report.tracer, "value": report.value, "unit": report.unit,
                 "text": report.text}  # fmt: skip
        record = {"host": self._epoch.host, "run": run.hex(), "instance": report.instance, "report": about}
        return Rows(build_row(report.realtime_ns, record), 1)

    def _wall(self, epoch: _Epoch, instance: str) -> WallClock | None:
        """Wall time of the instance's clock; None when it counts no nanoseconds, or no reading has come yet."""
        clock, pairs = epoch.clocks.get(instance), epoch.pairs.get(instance)
        if clock is None or not clock.is_ns or not pairs:
            return None
        if instance not in epoch.walls:
            epoch.walls[instance] = WallClock(clock, pairs)
        return epoch.walls[instance]

    def _kind(self, format_id: bytes, mode: int) -> RowKind:
        of = self._find_format(format_id)
        if of is None:
            raise SegmentError(f"block: format {format_id.hex()} was not sent before it")
        found = self._kinds.get((format_id, mode))
        if found is None:
            found = self._kinds[format_id, mode] = build_kind(of, is_raw=mode == MODE_RAW)
        return found


def build_kind(of: FormatObject, *, is_raw: bool) -> RowKind:
    """Gives the layout of an event's rows."""
    columns = [
        (column.name, column.cls, column.size, column.signed, column.count, kind)
        for column, kind in zip(of.columns, column_kinds(of), strict=True)
    ]
    return RowKind(of.full_name, columns, is_raw=is_raw)


def build_row(at_ns: int, record: Mapping[str, object]) -> bytes:
    """Gives one `[EventTime, record]`."""
    s, ns = divmod(min(max(at_ns, 0), _LAST_NS), _NS)
    return b"\x92\xd7\x00" + s.to_bytes(4, "big") + ns.to_bytes(4, "big") + _pack(record)


def _common(host: str, run: bytes, instance: str, cpu: int) -> dict[str, object]:
    return {"host": host, "run": run.hex(), "instance": instance, "cpu": cpu}


def _pack(value: object) -> bytes:
    """Encodes one object; text in it that is not UTF-8 gets U+FFFD, for not every receiver takes the bytes."""
    try:
        return bytes(msgpack.packb(value))
    except UnicodeEncodeError:
        return bytes(msgpack.packb(_readable(value)))


def _readable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {_readable(key): _readable(of) for key, of in value.items()}
    return value


def _pack_comm(raw: bytes) -> bytes:
    """A thread's name as rows have it: str, or bin when it is not UTF-8."""
    try:
        return pack(raw.decode())
    except UnicodeDecodeError:
        return pack(raw)


def _set_all(names: Names, found: Mapping[int, str]) -> None:
    for address, text in found.items():
        names.set(address, pack_text(text))


def _moment(pairs: list[ClockPair], ts: int, now_ns: int) -> int:
    """Wall time of rows whose clock has none: of the last reading before them, else of the first, else now."""
    before = [pair for pair in pairs if pair.trace <= ts]
    at_ns = before[-1].realtime_ns if before else pairs[0].realtime_ns if pairs else now_ns
    return min(max(at_ns, 0), _LAST_NS)
