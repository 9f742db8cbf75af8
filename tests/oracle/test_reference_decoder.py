"""The reference decoder against what the kernel itself printed for the same records."""

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import reference
from tests.conftest import RECORDED_CASES


def kernel_records(path: Path) -> dict[int, list[tuple[int, int]]]:
    """{cpu: [(pid, ts), ...]} in the order of the kernel's own `raw` text."""
    found: dict[int, list[tuple[int, int]]] = {}
    if not path.exists():  # the function graph cases have none: that tracer prints no such lines
        return found
    for line in path.read_bytes().split(b"\n"):
        if m := re.match(rb"\s*(-?\d+)\s+(\d+)\s+(\d+)\s", line):
            found.setdefault(int(m[2]), []).append((int(m[1]), int(m[3])))
    return found


def decode_case(case: Path) -> tuple[dict[int, reference.Format], dict[int, reference.Decoded]]:
    layout, formats, pages = reference.read_case(case)
    return formats, {cpu: reference.decode_pages(data, layout, formats) for cpu, data in pages.items()}


def test_every_recorded_kernel_is_there() -> None:
    assert len(RECORDED_CASES) == 40


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_decodes_what_the_kernel_printed(name: str, recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case(name)
    meta = json.loads((case / "meta.json").read_text())
    formats, decoded = decode_case(case)

    entries = [e for d in decoded.values() for e in d.entries]
    assert len(entries) == meta["records"]
    assert Counter(formats[e.id].name for e in entries) == meta["records_by_event"]
    assert not [formats[e.id].name for e in entries if e.fields is None]
    assert not any(d.malformed or d.skipped for d in decoded.values())

    gaps = [count for d in decoded.values() for _, count in d.gaps]
    assert len(gaps) == meta["missed_pages"]
    assert sum(c is not None for c in gaps) == meta["missed_pages_with_count"]
    assert sum(c or 0 for c in gaps) == meta["missed_sum"]

    allowed = meta["kernel_text_time_errors"]
    for cpu, want in kernel_records(case / "trace.raw.txt").items():
        have = [(e.pid, e.ts) for e in decoded[cpu].entries]
        if len(have) == len(want):
            allowed -= sum(w != h for w, h in zip(want, have, strict=True))
        else:  # events that the raw text prints in another form are not in `want`
            rest = iter(have)
            assert all(any(r == h for h in rest) for r in want), f"cpu {cpu}"
    assert allowed >= 0


def entries_of(case: Path, event: str) -> list[reference.Entry]:
    formats, decoded = decode_case(case)
    return [e for d in decoded.values() for e in d.entries if formats[e.id].name == event]


def test_values_of_fixed_and_located_arrays(recorded_case: Callable[[str], Path]) -> None:
    """The kernel's text: len=16 hex=01 06 0b ... arr16={0x10,0x3f8,0x7e0,0xbc8} ... ip4=1.6.11.16 ..."""
    case = recorded_case("6.12/module_events")
    text = [line for line in (case / "trace.txt").read_text().splitlines() if " h6_arrays: " in line]
    entries = sorted(entries_of(case, "h6_arrays"), key=lambda e: e.ts)
    assert len(text) == len(entries) == 5
    for line, entry in zip(text, entries, strict=True):
        f = entry.fields
        assert f is not None
        assert f"len={f['len']} hex={f['bytes'].hex(' ')} hexs={f['bytes'].hex()} " in line
        words = [int.from_bytes(f["words"][i : i + 4], "little") for i in range(0, len(f["words"]), 4)]
        assert f" arr16={{{','.join(hex(v) for v in f['fixed'])}}} " in line
        assert f" arr32={{{','.join(hex(v) for v in words)}}} " in line
        assert f" ip4={'.'.join(map(str, f['ip4']))} " in line
        assert f" mac={f['mac'].hex(':')} " in line


def test_values_of_strings_and_their_locations(recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case("6.12/module_events")
    text = [line for line in (case / "trace.txt").read_text().splitlines() if " h6_strings: " in line]
    entries = sorted(entries_of(case, "h6_strings"), key=lambda e: e.ts)
    assert len(text) == len(entries) == 5
    for line, entry in zip(text, entries, strict=True):
        f = entry.fields
        assert f is not None
        assert len(f["fixed"]) == 12
        fixed, dyn, rel = (f[k].split(b"\0")[0].decode() for k in ("fixed", "dyn", "rel"))
        assert f"n={f['n']} fixed={fixed} dyn={dyn} rel={rel} [" in line


def test_stack_has_all_its_callers(recorded_case: Callable[[str], Path]) -> None:
    """The format says caller[8], the record holds `size` of them."""
    entries = entries_of(recorded_case("6.12/event_stack"), "kernel_stack")
    sizes = {e.fields["size"] for e in entries}
    assert all(len(e.fields["caller"]) == 8 * e.fields["size"] for e in entries)
    assert max(sizes) > 8


def test_signed_integers_keep_their_sign(recorded_case: Callable[[str], Path]) -> None:
    """The kernel prints sys_exit_* failures as 0xffff...; the field is signed, so ENOENT is -2."""
    assert -2 in {e.fields["ret"] for e in entries_of(recorded_case("6.18/events"), "sys_exit_openat")}
