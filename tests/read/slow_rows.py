"""The rows of a block built in plain Python: what the native encoder is compared with, byte for byte."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgpack

from collector.archive.block import Entry, decode_block
from collector.archive.bodies import Clock, parse_block, parse_gap, parse_header
from collector.archive.frame import Kind
from collector.archive.objects import (
    ClockPair,
    FieldColumn,
    FormatObject,
    parse_clock,
    parse_format,
    parse_names,
    parse_object,
)
from collector.batch import MODE_RAW
from collector.read.meaning import UNSIGNED, column_kinds, cut_stack, readable_form
from collector.read.symbols import Symbols
from collector.read.walltime import WallClock
from sinks.contract.base import Parcel


def event_time(ns: int) -> msgpack.ExtType:
    ns = min(max(ns, 0), (10**9 << 32) - 1)
    return msgpack.ExtType(0, (ns // 10**9).to_bytes(4, "big") + (ns % 10**9).to_bytes(4, "big"))


def text_or_bytes(raw: bytes) -> str | bytes:
    """Up to the first NUL: text where that is UTF-8."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def readable(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def value_of(column: FieldColumn, value: Any, kind: str) -> Any:
    """What a row says of a field: from what the reader in Python gives."""
    signed = column.signed and kind not in UNSIGNED
    size = column.size
    if column.cls == "int":
        if size > 8:
            values = [value] if isinstance(value, int) else value
            return b"".join((v % (1 << 8 * size)).to_bytes(size, "little") for v in values)
        if signed == column.signed:
            return value
        return value % (1 << 8 * size) if isinstance(value, int) else [v % (1 << 8 * size) for v in value]
    if column.cls == "chars" or size == 1:
        if kind == "plain":
            return [v - 256 if signed and v > 127 else v for v in value]
        if kind == "text":
            return None if not value and column.cls in ("data_loc", "rel_loc") else text_or_bytes(value)
        return value
    if size > 8 or len(value) % size:
        return value
    words = [int.from_bytes(value[i : i + size], "little", signed=signed) for i in range(0, len(value), size)]
    return list(cut_stack(words)) if kind == "stack" else words


class SlowRows:
    """As sinks.forward.records.RecordBuilder, but for the bound on what is remembered."""

    def __init__(self) -> None:
        self.formats: dict[bytes, FormatObject] = {}
        self.symbols = Symbols()
        self.comms: dict[int, bytes] = {}
        self.tgids: dict[int, int] = {}
        self.pairs: dict[str, list[ClockPair]] = {}
        self.clocks: dict[str, Clock] = {}
        self.host = ""

    def take(self, parcel: Parcel, now_ns: int) -> Iterator[list[Any]]:
        """Gives [EventTime, record] of a parcel, each."""
        if parcel.kind == Kind.HEADER:
            header = parse_header(parcel.body)
            self.host, self.clocks = readable(header.host), header.clocks
        elif parcel.kind == Kind.OBJECT:
            self._learn(parcel.body)
            if parse_object(parcel.body).type == "report":
                of = parse_object(parcel.body).value
                about = {key: of[key] for key in ("kind", "tracer", "value", "unit", "text")}
                record = {"host": self.host, "run": parcel.run.hex(), "instance": of["instance"], "report": about}
                yield [event_time(of["realtime_ns"]), record]
        elif parcel.kind == Kind.GAP:
            yield self._gap(parcel, now_ns)
        elif parcel.kind == Kind.BLOCK:
            yield from self._block(parcel, now_ns)

    def _learn(self, body: bytes) -> None:
        stored = parse_object(body)
        if stored.type == "format":
            self.formats[stored.id] = parse_format(stored)
        elif stored.type == "clock":
            pair = parse_clock(stored)
            self.pairs.setdefault(pair.instance, []).append(pair)
        elif stored.type in ("comms", "comms_proc"):
            self.comms.update(parse_names(stored))
        elif stored.type == "tgids":
            self.tgids.update(parse_names(stored))
        elif stored.type == "symbols":
            self.symbols.add_code(parse_names(stored))
        elif stored.type == "printk":
            self.symbols.add_strings(parse_names(stored))

    def _wall(self, instance: str) -> WallClock | None:
        clock, pairs = self.clocks.get(instance), self.pairs.get(instance)
        return WallClock(clock, pairs) if clock is not None and clock.is_ns and pairs else None

    def _gap(self, parcel: Parcel, now_ns: int) -> list[Any]:
        gap = parse_gap(parcel.body)
        wall = self._wall(gap.stream[0])
        ts = gap.from_ts if gap.to_ts is None else gap.to_ts
        record = {
            "host": self.host, "run": gap.run.hex(), "instance": readable(gap.stream[0]), "cpu": gap.stream[1],
            "gap": {"cause": gap.cause, "count": gap.count, "from_ts": gap.from_ts, "to_ts": gap.to_ts,
                    "detail": readable(gap.detail)},
        }  # fmt: skip
        return [event_time(now_ns if wall is None or ts is None else wall.at(ts)[0]), record]

    def _block(self, parcel: Parcel, now_ns: int) -> Iterator[list[Any]]:
        head = parse_block(parcel.body)
        block = decode_block(head, self.formats)
        instance, cpu = head.stream
        wall = self._wall(instance)
        common: dict[str, Any] = {"host": self.host, "run": head.run.hex(), "instance": readable(instance), "cpu": cpu}
        if wall is None:
            common["clock"] = self.clocks[instance].name if instance in self.clocks else "unknown"
        pairs = self.pairs.get(instance, [])
        before = [pair for pair in pairs if pair.trace <= head.first_ts]
        now_ns = (before[-1] if before else pairs[0]).realtime_ns if pairs else now_ns

        def time_of(ts: int) -> msgpack.ExtType:
            return event_time(now_ns if wall is None else wall.at(ts)[0])

        for gap in head.gaps:
            at = time_of(block.ts[min(gap.at, head.entries - 1)]) if head.entries else event_time(now_ns)
            yield [at, {**common, "ordinal": head.ordinal + gap.at, "gap": {"cause": "overrun", "count": gap.lost}}]
        for at, entry in enumerate(block.entries()):
            record = {**common, "ordinal": head.ordinal + at}
            if wall is None:
                record["ts_raw"] = entry.ts
            yield [time_of(entry.ts), {**record, **self._entry(entry)}]

    def _entry(self, entry: Entry) -> dict[str, Any]:
        record: dict[str, Any] = {"event": readable(entry.format.full_name), "pid": entry.pid}
        if entry.pid in self.comms:
            comm = self.comms[entry.pid]
            try:
                record["comm"] = comm.decode()
            except UnicodeDecodeError:
                record["comm"] = comm
        if entry.pid in self.tgids:
            record["tgid"] = self.tgids[entry.pid]
        record["flags"], record["preempt_count"] = entry.flags, entry.preempt_count
        of = entry.format
        if entry.mode == MODE_RAW:
            return {**record, "fields": entry.fields}
        kinds = column_kinds(of)
        columns = list(zip(of.columns, kinds, entry.kind.columns, strict=True))
        fields = {readable(c.name): value_of(c, values[entry.row], kind) for c, kind, values in columns}
        record["fields"] = fields
        forms = {
            readable(c.name): form(unsigned(c, values[entry.row], kind))
            for c, kind, values in columns
            if (form := readable_form(kind, c)) is not None
        }
        if forms:
            record["readable"] = forms
        for key, wanted, names in (
            ("symbols", ("address", "stack"), self.symbols.code), ("strings", ("string",), self.symbols.strings),
        ):  # fmt: skip
            found = {
                readable(c.name): named(fields[readable(c.name)], names) for c, kind, _ in columns if kind in wanted
            }
            found = {name: value for name, value in found.items() if value is not None}
            if found:
                record[key] = found
        return record


def unsigned(column: FieldColumn, value: Any, kind: str) -> Any:
    """What a readable form is made of: bytes, a number, or words."""
    return value_of(column, value, kind) if kind in UNSIGNED else value


def named(value: Any, names: Mapping[int, str]) -> Any:
    word = (1 << 64) - 1
    if isinstance(value, bytes):
        return None
    if isinstance(value, int):
        return readable(names[value & word]) if value & word in names else None
    found = [readable(names[v & word]) if v & word in names else None for v in value]
    return found if any(name is not None for name in found) else None
