"""A slow, obvious encoder of every column form, and segments made with it: what the reader is tested against.

The product's encoder is native and picks the form that compresses best; this one takes the form it is told.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import lz4.block
import zstandard

from collector.archive.fields import pack
from collector.archive.objects import build_object
from collector.archive.segment import SegmentWriter, build_header
from collector.archive.totals import StreamId, Totals, build_totals
from collector.batch import MODE_RAW, MODE_TYPED, Block, KindCount, Missed, StreamKey

RUN = bytes(range(16))
CREATED_NS = 1_700_000_000_123_456_789


def to_bytes(value: int, size: int) -> bytes:
    return (value % (1 << 8 * size)).to_bytes(size, "little")


def planes(rows: Sequence[bytes], size: int) -> list[Any]:
    out: list[Any] = []
    for at in range(size):
        plane = bytes(row[at] for row in rows)
        out.append(plane[0] if plane and plane == plane[:1] * len(plane) else plane)
    return out


def encode_fixed(rows: Sequence[bytes], size: int, form: int) -> list[Any]:
    """Encodes byte strings of one size in form 0 (all equal), 1, 2 (at most 256 different) or 3."""
    if form == 0:
        return [0, rows[0] if rows else bytes(size)]
    if form == 1:
        return [1, planes(rows, size)]
    if form == 2:
        table = sorted(set(rows))
        return [2, b"".join(table), bytes(table.index(row) for row in rows)]
    previous, steps = 0, []
    for row in rows:
        value = int.from_bytes(row, "little")
        steps.append(to_bytes(value - previous, size))
        previous = value
    return [3, planes(steps, size)]


def encode_integers(values: Sequence[int], size: int, form: int) -> list[Any]:
    return encode_fixed([to_bytes(v, size) for v in values], size, form)


def encode_variable(values: Sequence[bytes], form: int) -> list[Any]:
    if form == 0:
        return [0, values[0] if values else b""]
    if form == 4:
        table = sorted(set(values))
        return [4, table, bytes(table.index(v) for v in values)]
    return [5, encode_integers([len(v) for v in values], 4, 1), b"".join(values)]


def encode_array(values: Sequence[Sequence[int]], size: int, count: int, form: int) -> list[Any]:
    if form == 6:
        return [6, [encode_integers([row[at] for row in values], size, 1) for at in range(count)]]
    return encode_fixed([b"".join(to_bytes(v, size) for v in row) for row in values], size * count, form)


def compress(data: bytes, codec: str) -> bytes:
    if codec == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(data)
    return bytes(lz4.block.compress(data, store_size=False)) if codec == "lz4" else data


# One event with a field of each class.
COLUMNS = [
    ["number", "int", 8, True, 1],
    ["small", "int", 2, False, 1],
    ["args", "int", 8, False, 3],
    ["name", "chars", 8, False, 1],
    ["path", "data_loc", 1, False, 1],
    ["list", "rel_loc", 4, True, 1],
    ["blob", "data_loc", 1, False, 1],
    ["stack", "tail", 8, False, 1],
]
TEXT = "\n".join([
    "name: every", "ID: 77", "format:", "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;", "",
    "\tfield:s64 number;\toffset:8;\tsize:8;\tsigned:1;", "\tfield:u16 small;\toffset:16;\tsize:2;\tsigned:0;",
    "\tfield:u64 args[3];\toffset:24;\tsize:24;\tsigned:0;", "\tfield:char name[8];\toffset:48;\tsize:8;\tsigned:0;",
    "\tfield:__data_loc char[] path;\toffset:56;\tsize:4;\tsigned:0;",
    "\tfield:__rel_loc s32[] list;\toffset:60;\tsize:4;\tsigned:1;",
    "\tfield:__data_loc u8[] blob;\toffset:64;\tsize:4;\tsigned:0;",
    "\tfield:unsigned long stack[];\toffset:68;\tsize:0;\tsigned:0;", "",
])  # fmt: skip
EVERY: dict[str, Any] = {"id": 77, "system": "made", "name": "every", "columns": COLUMNS, "text": TEXT}
PLAIN: dict[str, Any] = {
    "id": 78, "system": "made", "name": "plain", "columns": [["value", "int", 4, True, 1]], "text": "",
}  # fmt: skip
UNKNOWN: dict[str, Any] = {"id": 999, "system": "unknown", "name": "999", "columns": [], "text": ""}
FORMATS = {build_object("format", f)[0]: f for f in (EVERY, PLAIN, UNKNOWN)}
EVERY_ID, PLAIN_ID, UNKNOWN_ID = FORMATS


class Maps:
    """Names for made blocks; counts what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def format_object(self, format_id: bytes) -> bytes:
        return build_object("format", FORMATS[format_id])[1]

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        return {a: (f"fn_{a:x}", 4, "") for a in addresses if a % 2 == 0}

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        return {}

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        return {}

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        return {}

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        self.asked.extend(pids)
        return {p: b"task-%d" % p for p in pids if p % 2}


def every_row(seed: int) -> dict[str, Any]:
    """Values of one entry of EVERY."""
    return {
        "number": -(seed**3) % 999 - 500,
        "small": seed * 7 % 65536,
        "args": [seed, seed * seed, 2**64 - 1 - seed],
        "name": (b"n%d" % (seed % 5)).ljust(8, b"\0"),
        "path": b"/tmp/%d\0" % (seed % 3),
        "list": [-seed, seed],
        "blob": bytes((seed % 251, 0, 255)),
        "stack": [0xFFFFFFFF81000000 + seed * 2] * (seed // 3 % 3),
    }


def encode_every(rows: Sequence[dict[str, Any]], forms: Sequence[int] = (3, 2, 6, 2, 4, 5, 5, 5)) -> list[Any]:
    """Encodes rows of EVERY, a form per column."""

    def joined(name: str, size: int) -> list[bytes]:
        return [b"".join(to_bytes(v, size) for v in row[name]) for row in rows]

    return [
        encode_integers([r["number"] for r in rows], 8, forms[0]),
        encode_integers([r["small"] for r in rows], 2, forms[1]),
        encode_array([r["args"] for r in rows], 8, 3, forms[2]),
        encode_fixed([r["name"] for r in rows], 8, forms[3]),
        encode_variable([r["path"] for r in rows], forms[4]),
        encode_variable(joined("list", 4), forms[5]),
        encode_variable([r["blob"] for r in rows], forms[6]),
        encode_variable(joined("stack", 8), forms[7]),
    ]


Row = tuple[int, int, int, int, bytes, Any]  # (ts, pid, flags, preempt, format id, fields or value or raw bytes)


def build_block(
    rows: Sequence[Row],
    *,
    stream: StreamId = ("main", 0),
    number: int = 0,
    ordinal: int = 0,
    gaps: Sequence[Missed] = (),
    codec: str = "zstd",
    run: bytes = RUN,
    raw_bytes: int = 4096,
) -> Block:
    """Encodes entries into a block; EVERY and PLAIN typed, others raw."""
    ids = sorted({row[4] for row in rows})
    kinds, payload = [], []
    for key in ids:
        values = [row[5] for row in rows if row[4] == key]
        if key == EVERY_ID:
            kinds.append(KindCount(key, MODE_TYPED, len(values)))
            payload.append(encode_every(values))
        elif key == PLAIN_ID:
            kinds.append(KindCount(key, MODE_TYPED, len(values)))
            payload.append([encode_integers(values, 4, 1)])
        else:
            kinds.append(KindCount(key, MODE_RAW, len(values)))
            payload.append([encode_variable(values, 5)])
    times = [row[0] for row in rows]
    deltas = [b - a for a, b in zip([times[0], *times], times, strict=False)] if rows else []
    cols = pack([
        encode_integers([ids.index(row[4]) for row in rows], 1, 1),
        encode_integers(deltas, 8, 1),
        encode_integers([row[2] for row in rows], 1, 1),
        encode_integers([row[3] for row in rows], 1, 1),
        encode_integers([row[1] for row in rows], 4, 1),
        payload,
    ])  # fmt: skip
    first, last = (times[0], times[-1]) if rows else (0, 0)
    body = pack({
        "run": run, "inst": stream[0], "cpu": stream[1], "no": number, "ord": ordinal, "n": len(rows), "t0": first,
        "t1": last, "raw": raw_bytes, "gaps": [list(g) for g in gaps], "kinds": [list(k) for k in kinds],
        "codec": codec, "size": len(cols), "cols": compress(cols, codec),
    })  # fmt: skip
    stacks = [a for row in rows if row[4] == EVERY_ID for a in row[5]["stack"]]
    return Block(
        StreamKey(run, *stream), number, ordinal, len(rows), first, last, raw_bytes, tuple(gaps), tuple(kinds),
        frozenset(row[1] for row in rows), frozenset(stacks), body,
    )  # fmt: skip


def make_rows(start: int, n: int, ts: int, step: int = 1000) -> list[Row]:
    """Entries of all three kinds."""
    rows: list[Row] = []
    for at in range(start, start + n):
        key = (EVERY_ID, PLAIN_ID, UNKNOWN_ID)[at % 3]
        value: Any = every_row(at) if key == EVERY_ID else at - 5 if key == PLAIN_ID else b"\xe7\x03raw%d" % at
        rows.append((ts + step * (at - start), 100 + at % 4, at % 2, at % 3, key, value))
    return rows


def header(
    segment: int = 0, opening: Mapping[StreamId, Totals] | None = None, *, run: bytes = RUN, unit: str = "ns"
) -> dict[str, Any]:
    of = {"clock": "mono", "clock_unit": unit, "header_page": "", "subbuf_size": 4096}
    return build_header(
        run=run, segment=segment, host="host", boot_id="b", kernel="Linux", created_ns=CREATED_NS + segment * 10**9,
        tool="test", config_hash="c", instances={"main": of},
        opening={("main", 0): Totals(), ("main", 1): Totals()} if opening is None else opening,
    )  # fmt: skip


def ledger(events: int, blocks: int, raw_bytes: int, gaps: int = 0, known: int = 0, unknown: int = 0) -> Totals:
    """Totals of a stream that adds up."""
    return Totals(
        blocks, events, raw_bytes, gaps, known, unknown, pages=blocks, overrun=known + 5 * unknown, read=events,
        residual=0, settled=True,
    )  # fmt: skip


def sample(stream: StreamId, totals: Totals, run: bytes = RUN) -> dict[str, Any]:
    return {"run": run, "inst": stream[0], "cpu": stream[1], "at_ns": CREATED_NS, "totals": build_totals(totals)}


def write_run(
    folder: Path,
    *,
    segments: int = 1,
    blocks: int = 2,
    entries: int = 6,
    run: bytes = RUN,
    seal_last: bool = True,
    codec: str = "zstd",
) -> list[Path]:
    """Writes a run of two CPUs whose ledger adds up, with gaps and a sample; gives the files."""  # fmt: skip
    maps, paths, opening = Maps(), [], None
    ordinals, numbers = [0, 0], [0, 0]
    known, unknown = [0, 0], [0, 0]
    for segment in range(segments):
        writer = SegmentWriter.create(folder, header(segment, opening, run=run))
        writer.write_object("clock", {
            "instance": "main", "trace": 10_000, "realtime_ns": CREATED_NS, "boottime_ns": 1, "monotonic_ns": 10_000,
            "error_ns": 50,
        })  # fmt: skip
        for at in range(blocks):
            for cpu in (0, 1):
                gaps = [Missed(1, 3, "page"), Missed(entries, None, "page")] if at == 1 and entries else []
                known[cpu] += 3 * bool(gaps)
                unknown[cpu] += bool(gaps)
                ts = 10_000 + 100_000 * (segment * blocks + at) + 500 * cpu
                rows = make_rows(ordinals[cpu], entries, ts)
                writer.write_block(
                    build_block(rows, stream=("main", cpu), number=numbers[cpu], ordinal=ordinals[cpu], gaps=gaps,
                                codec=codec, run=run), maps,
                )  # fmt: skip
                ordinals[cpu] += entries
                numbers[cpu] += 1
        closing = {
            ("main", c): ledger(ordinals[c], numbers[c], 4096 * numbers[c], 2 * unknown[c], known[c], unknown[c])
            for c in (0, 1)
        }
        for key, totals in closing.items():
            writer.write_record(6, sample(key, totals, run))
        last = segment == segments - 1
        if last and not seal_last:
            writer.sync()
            writer.abandon()
            paths.append(writer.path)
        else:
            paths.append(writer.seal(closing, "shutdown" if last else "size", last, CREATED_NS + 5))
        opening = writer.closing
    return paths
