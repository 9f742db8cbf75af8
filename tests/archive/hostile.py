"""Makes records whose checksums hold, with content that nobody of ours writes, and reads what they are in.

FTC_HOSTILE_RECORDS=1000 makes so many of each kind instead of a few.
"""

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from collector.archive.fields import unpack
from collector.archive.frame import Kind, Record, build_record, build_trailer
from collector.archive.objects import build_object, open_object
from collector.archive.reader import open_segment
from collector.cli import main

ARCHIVE = sorted((Path(__file__).parents[1] / "archives").glob("*/archive"))[-1]
CASES = int(os.environ.get("FTC_HOSTILE_RECORDS", "12"))

REPORT = {
    "instance": "recorded", "kind": "latency", "tracer": "wakeup", "value": 7, "unit": "us", "realtime_ns": 1,
    "text": "# us\n", "clock": "local", "trace_ts": None, "values": 1,
}  # fmt: skip
NAMES: dict[str, Any] = {
    "comms": {1: b"init", 2: b"a\xff"}, "comms_proc": {1: b"init"}, "tgids": {1: 1},
    "symbols": {1 << 60: ["do_it", 1, ""]},
    "printk": {1 << 60: "a string"},
}  # fmt: skip
VALUES = (
    None, True, 0, 1, -1, 7, 1 << 31, 1 << 62, (1 << 64) - 1, -(1 << 63), 0.5, float("nan"), "", "a", "\x1b[31m",
    "a\udcff", "x" * 70_000, b"", b"\x00", b"\xff" * 16, b"a\xff", [], [[]], [None], {}, {1: 1}, {"a": []},
    {None: None}, {b"\xff": 1}, msgpack.ExtType(5, b"x"), msgpack.Timestamp(1, 2),
)  # fmt: skip

# Objects whose value is not what their type has.
WRONG: tuple[tuple[str, Any], ...] = (
    ("comms", {1: 5}), ("comms", {1: "text"}), ("comms_proc", {"a": b"a"}), ("comms", [b"a"]), ("tgids", {1: b"1"}),
    ("tgids", {1: True}), ("symbols", {1: "do_it+0x1"}), ("symbols", {1: ["do_it", 1]}), ("printk", {1: b"a"}),
    ("clock", {"instance": "main"}), ("report", {}), ("report", []),
)  # fmt: skip

Body = Any
Change = Callable[[random.Random, Body], Body]


def read_bodies() -> list[tuple[int, bytes]]:
    """(kind, body) of each record of a segment that has all kinds, but for the footer and the trailer."""
    bodies: list[tuple[int, bytes]] = []
    for path in sorted(ARCHIVE.glob("*.ftseg"))[:1]:
        with open_segment(path) as segment:
            records = [found for found in segment.records() if isinstance(found, Record)]
            bodies = [(r.kind, bytes(r.body)) for r in records if r.kind not in (Kind.FOOTER, Kind.TRAILER)]
    more = [build_object(kind, value)[1] for kind, value in {**NAMES, "report": REPORT}.items()]
    return [bodies[0], *((int(Kind.OBJECT), body) for body in more), *bodies[1:]]


BODIES = read_bodies()


def kinds_of_bodies() -> dict[str, list[int]]:
    """{kind of record, or type of object: where they stand}"""
    found: dict[str, list[int]] = {}
    for at, (kind, body) in enumerate(BODIES):
        name = Kind(kind).name.lower()
        if kind == Kind.OBJECT:
            name = f"object {open_object(body)[1]}"
        found.setdefault(name, []).append(at)
    return found


def places(value: Body, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value[:50]):
            yield from places(inner, (*path, at))


def change(rng: random.Random, value: Body) -> Body:
    """Another value somewhere in it, or a key less, or one more."""
    path = rng.choice(list(places(value)))
    new = rng.choice(VALUES)
    if not path:
        return new
    inside = value
    for step in path[:-1]:
        inside = inside[step]
    match rng.randrange(4):
        case 0 if isinstance(inside, dict):
            del inside[path[-1]]
        case 1 if isinstance(inside, dict):
            with contextlib.suppress(TypeError):
                inside[new] = inside[path[-1]]
        case _:
            inside[path[-1]] = new
    return value


def pack_any(value: Body) -> bytes:
    return bytes(msgpack.packb(value, unicode_errors="surrogateescape"))


def make_hostile(rng: random.Random, at: int) -> list[tuple[int, bytes]]:
    """The records with one of them changed; of an object also what refers to it, so that it is found."""
    bodies = list(BODIES)
    kind, body = bodies[at]
    if kind != Kind.OBJECT:
        bodies[at] = kind, pack_any(change(rng, unpack(body, "a record")))
        return bodies
    old, type_name, data = open_object(body)
    value = change(rng, unpack(data, "an object"))
    new, changed = build_object(type_name, value)
    bodies[at] = kind, changed
    return [(k, b.replace(old, new) if k == Kind.BLOCK else b) for k, b in bodies]


def write(path: Path, bodies: list[tuple[int, bytes]], footer: dict[str, Any] | None) -> Path:
    """An open segment, or one with a footer whose index has the places."""
    data, index = b"", []
    for kind, body in bodies:
        if kind != Kind.HEADER:
            index.append([len(data), int(kind), -1 if kind == Kind.OBJECT else 0, 0, 0, 0, 0])
        data += build_record(kind, body)
    if footer is None:
        path = path.with_name(path.name + ".part")
    else:
        made = build_record(Kind.FOOTER, pack_any({**footer, "index": index}))
        data += made + build_trailer(len(data), len(made))
    path.write_bytes(data)
    return path


def read_footer() -> dict[str, Any]:
    with open_segment(sorted(ARCHIVE.glob("*.ftseg"))[0]) as segment:
        record = segment.record_at(segment.footer_offset)
        assert isinstance(record, Record)
        found: dict[str, Any] = unpack(record.body, "footer")
        return found


def run(*words: str | Path) -> tuple[int, bytes, str]:
    """(exit code, stdout, stderr), the first as strict as a real one."""
    raw, errors = io.BytesIO(), io.StringIO()
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = main(list(map(str, words)))
        out.flush()
    return code, raw.getvalue(), errors.getvalue()


COMMANDS: tuple[tuple[str, ...], ...] = (
    ("verify",), ("info",), ("info", "--json"), ("show",), ("show", "--format", "json"),
    ("show", "--reports"), ("show", "--reports", "--format", "json"), ("recover",),
)  # fmt: skip


def read_all(folder: Path, about: str) -> None:
    for command in COMMANDS:
        code, _, errors = run(command[0], folder, *command[1:])
        assert "Traceback" not in errors, f"{' '.join(command)}, {about}:\n{errors}"
        assert code in (0, 1), f"{' '.join(command)}, {about}: {code}\n{errors}"
