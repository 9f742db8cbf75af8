"""Any field that a kernel can declare, on any kernel: from its pages through a segment to what a user is shown.

A made kernel has an event for each kind of declaration, with values whose meaning its author knows. Its pages are
replayed; what archive, `show` and the rows of a sink give back is compared with these values and the slow decoder's.
FTC_MADE_KERNELS=200 makes so many kernels of each generation instead of one.
"""

import ipaddress
import json
import os
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest

from collector.archive.fields import unpack
from collector.archive.frame import Kind
from collector.archive.reader import list_segments
from collector.archive.verify import verify_paths
from collector.cli import main
from sinks.forward.records import RecordBuilder
from tests import reference
from tests.kernels.expected import Differences, compare_maps, expected_columns, expected_fields, expected_text
from tests.kernels.formats import MadeField
from tests.kernels.generation import HEAD, Generation
from tests.kernels.made import BIG_ENDIAN, COMM, GENERATIONS, UNKNOWN_ID, MadeEntry, MadeKernel, make_kernel
from tests.oracle.test_replay_against_reference import Row, read_archive
from tests.sinks.parcels import parcels_of

SEEDS = range(int(os.environ.get("FTC_MADE_KERNELS", "1")))

pytestmark = pytest.mark.parametrize("seed", SEEDS)
on_every_kernel = pytest.mark.parametrize("generation", GENERATIONS)
_archives: dict[tuple[str, int], tuple[MadeKernel, Path]] = {}


@pytest.fixture
def archived(
    generation: str, seed: int, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> tuple[MadeKernel, Path]:
    """(a made kernel, the archive of its replay), one for all tests of it."""
    key = generation, seed
    if key not in _archives:
        if len(_archives) > len(GENERATIONS):
            _archives.clear()
        kernel = make_kernel(GENERATIONS[generation], seed)
        folder = tmp_path_factory.mktemp(generation)
        case = kernel.write(folder / "case")
        status = main(["run", "--replay", str(case), "--output", str(folder / "archive"), "-q"])
        said = capsys.readouterr()
        assert status == 0, f"replay of {generation}, seed {seed}: exit {status}\n{said.err}"
        _archives[key] = kernel, folder / "archive"
    return _archives[key]


@pytest.mark.parametrize("generation", [*GENERATIONS, *BIG_ENDIAN])
def test_the_slow_decoder_reads_what_was_written(generation: str, seed: int) -> None:
    kernel = make_kernel((GENERATIONS | BIG_ENDIAN)[generation], seed)
    found = Differences(kernel)
    for cpu, writer in enumerate(kernel.writers):
        decoded = kernel.decode(cpu)
        assert not decoded.malformed
        assert decoded.gaps == writer.gaps
        written = kernel.of_cpu(cpu)
        assert len(decoded.entries) == len(written)
        for entry, got in zip(written, decoded.entries, strict=True):
            found.compare("slow decoder", entry, "time", entry.ts, got.ts)
            head = got.flags, got.preempt_count, got.pid
            want = tuple(entry.head[name] for name in ("common_flags", "common_preempt_count", "common_pid"))
            found.compare("slow decoder", entry, "head", want, head)
            if entry.made is None or got.fields is None:
                found.compare("slow decoder", entry, "record", entry.record if entry.made is None else None, got.record)
                continue
            values = dict(got.fields)
            for f in kernel.generation.head:
                if f not in HEAD:
                    found.compare("slow decoder", entry, f.name, entry.head[f.name], values.pop(f.name))
            for made in entry.made.fields:
                for name, raw in slow_values(made, entry.contents[made.name], kernel.generation).items():
                    found.compare("slow decoder", entry, name, raw, values.pop(name, "no such field"))
            found.compare("slow decoder", entry, "other fields", {}, values)
    found.check()


def slow_values(made: MadeField, contents: list[bytes], generation: Generation) -> dict[str, Any]:
    """A field as the slow decoder has it: numbers where they are in place, else bytes."""
    if made.shape.strings:
        return {f"{made.name}[{i}]": raw for i, raw in enumerate(contents)}
    is_wide = made.shape.means == "number" or (made.shape.means == "numbers" and made.shape.element > 1)
    if made.shape.place == "fixed" and is_wide:
        return {name: value for name, (value, _) in expected_columns(made, contents, generation).items()}
    return {made.name: contents[0]}


@on_every_kernel
def test_the_archive_has_each_value(generation: str, seed: int, archived: tuple[MadeKernel, Path]) -> None:
    kernel, archive = archived
    assert verify_paths([archive]) == []
    have = read_archive(archive)
    found = Differences(kernel)
    for cpu, writer in enumerate(kernel.writers):
        want = kernel.decode(cpu)
        rows: list[Row] = [(e.ts, e.id, e.flags, e.preempt_count, e.pid, e.record if e.fields is None else e.fields)
                           for e in want.entries]  # fmt: skip
        assert have[cpu].gaps == writer.gaps
        assert len(have[cpu].rows) == len(rows)
        for entry, mine, theirs in zip(kernel.of_cpu(cpu), have[cpu].rows, rows, strict=True):
            found.compare("archive", entry, "head", theirs[:5], mine[:5])
            if isinstance(theirs[5], dict) and isinstance(mine[5], dict):
                compare_maps(found, "archive", entry, theirs[5], mine[5])
            else:
                found.compare("archive", entry, "record", theirs[5], mine[5])
    found.check()


@on_every_kernel
def test_show_prints_each_value_as_json(
    generation: str, seed: int, archived: tuple[MadeKernel, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel, archive = archived
    assert main(["show", str(archive), "--format", "json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isascii() for line in lines)
    found = Differences(kernel)
    for entry, line in zip(kernel.entries, lines, strict=True):
        got = json.loads(line)
        json.dumps(got, ensure_ascii=False).encode()  # fails at a lone surrogate, which not every reader takes
        want, escaped = expected_fields(entry, kernel.generation)
        if entry.head["common_pid"] == 1:
            found.compare("json", entry, "comm", expected_text(COMM)[0], got["comm"])
            escaped.add("common_comm")
        compare_maps(found, "json", entry, want, got["fields"])
        found.compare("json", entry, "escaped", escaped, set(got.get("escaped", ())))
        name = f"{entry.made.system}:{entry.made.name}" if entry.made else f"unknown:event_{UNKNOWN_ID}"
        about = {"ts_ns": entry.ts, "cpu": entry.cpu, "pid": entry.head["common_pid"], "event": name,
                 "flags": entry.head["common_flags"], "preempt_count": entry.head["common_preempt_count"]}  # fmt: skip
        compare_maps(found, "json", entry, about, {key: got.get(key) for key in about})
        for made in entry.made.fields if entry.made else ():
            compare_address(found, entry, made, got.get("readable", {}).get(made.name))
    found.check()


def compare_address(found: Differences, entry: MadeEntry, made: MadeField, got: str | None) -> None:
    """The readable form of an address: two that are spelled differently may be one."""
    raw = entry.contents[made.name][0]
    if made.shape.means == "mac":
        found.compare("json, readable", entry, made.name, raw.hex(":"), got)
    elif made.shape.means in ("ipv4", "ipv6"):
        want = ipaddress.ip_address(raw)
        try:
            same = got is not None and ipaddress.ip_address(got) == want
        except ValueError:
            same = False
        if not same:
            found.add("json, readable", entry, made.name, str(want), got)


@on_every_kernel
def test_show_prints_numbers_texts_and_faults_for_people(
    generation: str, seed: int, archived: tuple[MadeKernel, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    kernel, archive = archived
    assert main(["show", str(archive), "--format", "fields"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("CPU:")]
    found = Differences(kernel)
    for entry, line in zip(kernel.entries, lines, strict=True):
        if entry.made is None:
            continue
        want, _ = expected_fields(entry, kernel.generation)
        named = {
            f.name
            for f in entry.made.fields
            if "*" in f.shape.declaration or "%pS" in f.shape.printed.replace("%ps", "%pS")
        }
        for name, value in want.items():
            if value is None:
                value = "(fault)"
            if (
                name in named
                or isinstance(value, list)
                or (isinstance(value, str) and not re.fullmatch(r"[\w /()]*", value))
            ):
                continue  # as a name, or spelled in a way that is another test's
            if not re.search(rf" {re.escape(name)}={re.escape(str(value))}(?: |$)", line, re.ASCII):
                found.add("fields", entry, name, f"{name}={value}", line)
    found.check()


@on_every_kernel
def test_the_rows_of_a_sink_have_each_value(generation: str, seed: int, archived: tuple[MadeKernel, Path]) -> None:
    kernel, archive = archived
    rows = {(row["cpu"], row["ordinal"]): row for row in read_rows(archive) if "event" in row}
    found = Differences(kernel)
    for cpu in range(len(kernel.writers)):
        for ordinal, entry in enumerate(kernel.of_cpu(cpu)):
            row = rows.pop((cpu, ordinal))
            if entry.made is None:
                found.compare("rows", entry, "raw", {"raw": entry.record}, row["fields"])
                continue
            want, escaped = expected_fields(entry, kernel.generation)
            have = {name: list(v) if isinstance(v, bytes) else v for name, v in row["fields"].items()}
            for name in want:
                if isinstance(row["fields"].get(name), bytes) and (name in escaped or isinstance(want[name], str)):
                    # MessagePack has bytes, so that nothing need be spelled.
                    raw = entry.contents.get(re.sub(r"\[\d+\]$", "", name), [b""])
                    texts = [list(r.partition(b"\0")[0]) for r in raw] + [list(r) for r in raw]
                    have[name] = want[name] if have[name] in texts else have[name]
            compare_maps(found, "rows", entry, want, have)
    assert not rows
    found.check()


def read_rows(archive: Path) -> list[dict[str, Any]]:
    """What the Forward sink would send of an archive."""
    builder = RecordBuilder(1 << 20)
    rows = []
    for parcel in (parcel for path in list_segments([archive]) for parcel in parcels_of(path)):
        for piece in builder.take(parcel, 0):
            unpacker = msgpack.Unpacker(max_buffer_size=1 << 28, strict_map_key=False)
            unpacker.feed(piece.data)
            rows += [row for _, row in unpacker]
    return rows


@on_every_kernel
def test_the_archive_says_the_size_of_a_word(generation: str, seed: int, archived: tuple[MadeKernel, Path]) -> None:
    """It stands in the kernel's own words, in the header of each segment."""
    kernel, archive = archived
    headers = [unpack(parcel.body, "header") for path in list_segments([archive]) for parcel in parcels_of(path)
               if parcel.kind == Kind.HEADER]  # fmt: skip
    assert headers
    texts = {of["header_page"] for header in headers for of in header["instances"].values()}
    assert texts == {kernel.header_page}
    assert reference.read_layout(texts.pop()).commit_size == kernel.generation.word_size


@pytest.mark.parametrize("generation", BIG_ENDIAN)
def test_another_byte_order_is_refused_by_name(
    generation: str, seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before an archive is made: an empty one would say that nothing happened."""
    case = make_kernel(BIG_ENDIAN[generation], seed).write(tmp_path / "case")
    assert main(["run", "--replay", str(case), "--output", str(tmp_path / "archive")]) != 0
    said = capsys.readouterr().err
    assert "big-endian" in said or "byte order" in said, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("archive/*.ftseg*"))
