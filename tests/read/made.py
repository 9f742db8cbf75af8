"""Segments with events of the kernel's scheduler, made by hand."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collector.archive.fields import pack
from collector.archive.objects import build_object
from collector.archive.segment import SegmentWriter
from collector.archive.totals import StreamId
from collector.batch import MODE_TYPED, Block, KindCount, StreamKey
from tests.archive.encoder import RUN, encode_array, encode_fixed, encode_integers, encode_variable, header, to_bytes

COMM = ("chars", 16, False, 1)
PID = ("int", 4, True, 1)

# {event: {field: (class, size, signed, count)}}
EVENTS: dict[str, dict[str, tuple[str, int, bool, int]]] = {
    "sched:sched_switch": {"prev_comm": COMM, "prev_pid": PID, "next_comm": COMM, "next_pid": PID},
    "sched:sched_waking": {"comm": COMM, "pid": PID},
    "sched:sched_process_fork": {
        "parent_comm": ("data_loc", 1, False, 1), "parent_pid": PID, "child_comm": ("data_loc", 1, False, 1),
        "child_pid": PID,
    },
    "sched:sched_process_exec": {"filename": ("data_loc", 1, False, 1), "pid": PID, "old_pid": PID},
    "sched:sched_process_exit": {"comm": COMM, "pid": PID},
    "task:task_rename": {"pid": PID, "oldcomm": COMM, "newcomm": COMM},
    "task:task_newtask": {"pid": PID, "comm": COMM, "clone_flags": ("int", 8, False, 1)},
    "made:plain": {"value": PID},
    "ftrace:function": {"ip": ("int", 8, False, 1), "parent_ip": ("int", 8, False, 1)},
    "ftrace:kernel_stack": {"size": PID, "caller": ("tail", 8, False, 1)},
    "ftrace:print": {"ip": ("int", 8, False, 1), "buf": ("tail", 1, False, 1)},
    "ftrace:bprint": {"ip": ("int", 8, False, 1), "fmt": ("int", 8, False, 1), "buf": ("tail", 4, False, 1)},
    "made:table": {"entries": ("int", 8, False, 2)},
}  # fmt: skip

# {event: field lines of its format file}: where the C type matters.
DECLARATIONS = {
    "sched:sched_process_exec": {"filename": "__data_loc char[] filename"},
    "sched:sched_process_fork": {
        "parent_comm": "__data_loc char[] parent_comm", "child_comm": "__data_loc char[] child_comm",
    },
    "ftrace:function": {"ip": "unsigned long ip", "parent_ip": "unsigned long parent_ip"},
    "ftrace:kernel_stack": {"size": "int size", "caller": "unsigned long caller[8]"},
    "ftrace:print": {"ip": "unsigned long ip", "buf": "char buf[]"},
    "ftrace:bprint": {"ip": "unsigned long ip", "fmt": "const char * fmt", "buf": "u32 buf[]"},
    "made:table": {"entries": "void * entries[2]"},
}  # fmt: skip
PRINT_FMT = {"made:table": '"%pS %pS", REC->entries[0], REC->entries[1]'}


def _text(event: str, number: int) -> str:
    lines = [f"name: {event.partition(':')[2]}", f"ID: {number}", "format:"]
    lines += ["\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;", ""]
    offset = 8
    for name, (cls, size, signed, count) in EVENTS[event].items():
        sizes = {"int": size * count, "chars": size, "data_loc": 4, "rel_loc": 4, "tail": 0}
        stored = 64 if name == "caller" else sizes[cls]  # the kernel says 8 entries and stores what there is
        declaration = DECLARATIONS[event].get(name, f"int {name}")
        lines.append(f"\tfield:{declaration};\toffset:{offset};\tsize:{stored};\tsigned:{int(signed)};")
        offset += stored
    return "\n".join([*lines, "", f"print fmt: {PRINT_FMT.get(event, '')}", ""])


def _format(event: str, number: int) -> dict[str, Any]:
    system, _, name = event.partition(":")
    columns = [[field, *of] for field, of in EVENTS[event].items()]
    text = _text(event, number) if event in DECLARATIONS else ""
    return {"id": number, "system": system, "name": name, "columns": columns, "text": text}


FORMATS = {event: build_object("format", _format(event, 100 + at)) for at, event in enumerate(EVENTS)}


@dataclass
class Maps:
    """Names as the capture would have found them."""

    saved: dict[int, bytes] = field(default_factory=dict)
    proc: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    saved_tgids: dict[int, int] = field(default_factory=dict)
    code: dict[int, tuple[str, int, str]] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    asked: list[set[int]] = field(default_factory=list)  # addresses

    def format_object(self, format_id: bytes) -> bytes:
        return next(body for key, body in FORMATS.values() if key == format_id)

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        self.asked.append(set(addresses))
        return {a: self.code[a] for a in addresses if a in self.code}

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        return {a: self.texts[a] for a in addresses if a in self.texts}

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        return {p: self.saved_tgids[p] for p in pids if p in self.saved_tgids}

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        return {p: self.saved[p] for p in pids if p in self.saved}

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        return {p: self.proc[p] for p in pids if p in self.proc}


Row = tuple[int, int, str, dict[str, Any]]  # (ts, pid, event, fields)


def _encode(of: tuple[str, int, bool, int], values: Sequence[Any]) -> list[Any]:
    cls, size, _, count = of
    if cls == "chars":
        return encode_fixed([value.ljust(size, b"\0")[:size] for value in values], size, 1)
    if cls == "int":
        return encode_integers(values, size, 1) if count == 1 else encode_array(values, size, count, 6)
    if size > 1:
        values = [b"".join(to_bytes(v, size) for v in value) for value in values]
    return encode_variable(values, 5)


def build_block(rows: Sequence[Row], stream: StreamId = ("main", 0), number: int = 0, ordinal: int = 0) -> Block:
    """Encodes entries of EVENTS into a block."""
    events = sorted({row[2] for row in rows})
    payload, kinds, addresses = [], [], set()
    for event in events:
        values = [row[3] for row in rows if row[2] == event]
        payload.append([_encode(of, [value[name] for value in values]) for name, of in EVENTS[event].items()])
        kinds.append(KindCount(FORMATS[event][0], MODE_TYPED, len(values)))
        for value in values:
            for name in ("ip", "parent_ip", "fmt"):
                addresses |= {value[name]} if name in value else set()
            addresses.update(value.get("caller", ()), value.get("entries", ()))
    times = [row[0] for row in rows]
    cols = pack([
        encode_integers([events.index(row[2]) for row in rows], 1, 1),
        encode_integers([b - a for a, b in zip([times[0], *times], times, strict=False)], 8, 1),
        encode_integers([0] * len(rows), 1, 1),
        encode_integers([0] * len(rows), 1, 1),
        encode_integers([row[1] for row in rows], 4, 1),
        payload,
    ])  # fmt: skip
    body = pack({
        "run": RUN, "inst": stream[0], "cpu": stream[1], "no": number, "ord": ordinal, "n": len(rows), "t0": times[0],
        "t1": times[-1], "raw": 4096, "gaps": [], "kinds": [list(k) for k in kinds], "codec": "none",
        "size": len(cols), "cols": cols,
    })  # fmt: skip
    return Block(
        StreamKey(RUN, *stream), number, ordinal, len(rows), times[0], times[-1], 4096, (), tuple(kinds),
        frozenset(row[1] for row in rows), frozenset(addresses), body,
    )  # fmt: skip


def write_segment(
    folder: Path,
    streams: Iterable[tuple[StreamId, Sequence[Row]]],
    maps: Maps | None = None,
    *,
    unit: str = "ns",
    pairs: Iterable[Mapping[str, Any]] = (),
    of: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one segment with a block per item of `streams`."""
    writer = SegmentWriter.create(folder, of or header(unit=unit))
    for pair in pairs:
        writer.write_object("clock", {"instance": "main", **pair})
    numbers: dict[StreamId, int] = {}
    ordinals: dict[StreamId, int] = {}
    for stream, rows in streams:
        number, ordinal = numbers.get(stream, 0), ordinals.get(stream, 0)
        writer.write_block(build_block(rows, stream, number, ordinal), maps or Maps())
        numbers[stream], ordinals[stream] = number + 1, ordinal + len(rows)
    return writer.seal({}, "shutdown", True)


def switch(ts: int, prev: tuple[int, bytes], then: tuple[int, bytes]) -> Row:
    fields = {"prev_pid": prev[0], "prev_comm": prev[1], "next_pid": then[0], "next_comm": then[1]}
    return ts, prev[0], "sched:sched_switch", fields


def plain(ts: int, pid: int) -> Row:
    return ts, pid, "made:plain", {"value": 1}
