"""What a made entry must be for a user, and how a difference is told."""

import re
from typing import Any

import pytest

from tests.kernels.formats import MadeField
from tests.kernels.generation import HEAD, Generation
from tests.kernels.made import MadeEntry, MadeKernel


def expected_text(raw: bytes) -> tuple[str | None, bool]:
    """(as JSON has it, whether bytes of it were spelled out): up to the first NUL."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        said = raw.decode("utf-8", "surrogateescape").replace("\\", "\\\\")
        return re.sub("[\udc80-\udcff]", lambda m: f"\\x{ord(m[0]) - 0xDC00:02x}", said), True


def expected_columns(made: MadeField, contents: list[bytes], generation: Generation) -> dict[str, tuple[Any, bool]]:
    """{column: (value in JSON, whether it is escaped)} of a field: one, but for an array of strings."""
    shape = made.shape
    if shape.means == "text":
        names = [f"{made.name}[{i}]" for i in range(shape.strings)] if shape.strings else [made.name]
        fault = shape.place in ("data_loc", "rel_loc")
        return {name: (None, False) if fault and not raw else expected_text(raw)
                for name, raw in zip(names, contents, strict=True)}  # fmt: skip
    raw = contents[0]
    if shape.means == "number":
        return {made.name: (int.from_bytes(raw, generation.byte_order, signed=shape.signed), False)}
    if shape.means not in ("numbers", "stack", "counted"):
        return {made.name: (list(raw), False)}
    size = shape.element
    if len(raw) % size:
        return {made.name: (raw.hex(), False)}
    signed = shape.signed and shape.means == "numbers"
    parts = [raw[i : i + size] for i in range(0, len(raw), size)]
    values = [int.from_bytes(part, generation.byte_order, signed=signed) for part in parts]
    return {made.name: (values[1 : 1 + values[0]] if shape.means == "counted" else values, False)}


def expected_fields(entry: MadeEntry, generation: Generation) -> tuple[dict[str, Any], set[str]]:
    """(`fields` of the entry's line, names of those that are escaped), in their order."""
    if entry.made is None:
        return {"raw": entry.record.hex()}, set()
    values: dict[str, Any] = {f.name: entry.head[f.name] for f in generation.head if f not in HEAD}
    escaped = set()
    for f in entry.made.fields:
        for name, (value, is_escaped) in expected_columns(f, entry.contents[f.name], generation).items():
            values[name] = value
            if is_escaped:
                escaped.add(name)
    return values, escaped


class Differences:
    """What came back otherwise than it was written, each with all that is needed to see why."""

    def __init__(self, kernel: MadeKernel) -> None:
        self.kernel = kernel
        self.found: dict[str, str] = {}  # {kind of difference: one of them}
        self.count = 0

    def add(self, where: str, entry: MadeEntry, about: str, expected: object, got: object) -> None:
        self.count += 1
        of = self.kernel.generation
        made = entry.made
        base = re.sub(r"\[\d+\]$", "", about)
        line = next((f.line for f in made.fields if f.name == base), "") if made else ""
        key = f"{where} {re.sub(r'[0-9]+', 'N', line) or about}"
        self.found.setdefault(key, (
            f"--- {where}: {about} of {made.name if made else 'no format'}, CPU {entry.cpu}, at {entry.ts}\n"
            f"generation: {of.name} (words of {of.word_size} bytes, {of.byte_order}-endian), seed {self.kernel.seed}\n"
            f"field:    {line.strip()}\nwritten:  {entry.contents.get(base)}\nrecord:   {entry.record.hex(' ', 4)}\n"
            f"expected: {expected!r}\ngot:      {got!r}\n{made.text if made else ''}"
        ))  # fmt: skip

    def compare(self, where: str, entry: MadeEntry, about: str, expected: object, got: object) -> None:
        if expected != got or type(expected) is not type(got):
            self.add(where, entry, about, expected, got)

    def check(self) -> None:
        if self.found:
            shown = list(self.found.values())
            more = f"\n... and {len(shown) - 6} more kinds" if len(shown) > 6 else ""
            pytest.fail(
                f"{self.count} differences of {len(shown)} kinds\n" + "\n".join(shown[:6]) + more, pytrace=False
            )


def compare_maps(found: Differences, where: str, entry: MadeEntry, want: dict[str, Any], have: dict[str, Any]) -> None:
    for name in want.keys() | have.keys():
        if name not in have or name not in want:
            found.add(where, entry, name, want.get(name, "no such field"), have.get(name, "no such field"))
        else:
            found.compare(where, entry, name, want[name], have[name])
    if want.keys() == have.keys():
        found.compare(where, entry, "order of the fields", list(want), list(have))
