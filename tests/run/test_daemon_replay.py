"""`run --replay` as a user sees it: recorded kernels that are whole, that lack files, and that are damaged."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector.archive.reader import open_segment
from collector.capture.evidence import MOST_FILES
from collector.cli import main
from tests import pages as made
from tests import reference


@dataclass
class Run:
    """What a command did."""

    code: int
    out: str
    err: str


class Case:
    """A recorded kernel of its own to spoil, and the archive that a replay of it makes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.archive, self._capsys = folder, folder.parent / "archive", capsys

    @property
    def tracefs(self) -> Path:
        return self.folder / "tracefs"

    def raw(self, cpu: int) -> Path:
        return self.tracefs / f"per_cpu/cpu{cpu}/trace_pipe_raw"

    def remove(self, *names: str) -> None:
        for name in names:
            path = self.folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def set_stats(self, cpu: int, **counts: int) -> None:
        """Changes counts in a stats file; `_` stands for a blank."""
        path = self.tracefs / f"per_cpu/cpu{cpu}/stats"
        lines = [line.partition(":") for line in path.read_text().splitlines()]
        new = {key.replace("_", " "): value for key, value in counts.items()}
        path.write_text("".join(f"{key}: {new.get(key, value.strip())}\n" for key, _, value in lines))

    def command(self, *args: str | Path) -> Run:
        self._capsys.readouterr()
        code = main([str(arg) for arg in args])
        run = Run(code, *self._capsys.readouterr())
        assert "Traceback" not in run.err, run.err
        return run

    def replay(self, *options: str) -> Run:
        return self.command("run", "--replay", self.folder, "--output", self.archive, *options)

    def verify(self) -> Run:
        return self.command("verify", self.archive)

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.command("info", "--json", self.archive).out)
        return found

    def decode_errors(self, cpu: int) -> dict[str, int]:
        """{reason: sub-buffers} as the archive has it."""
        (path,) = self.archive.glob("*.ftseg")
        with open_segment(path) as segment:
            assert segment.footer is not None
            (stream,) = [stream for stream in segment.footer.streams if stream.stream[1] == cpu]
            return dict(stream.closing.decode_errors)

    def show(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.command("show", "--format", "json", self.archive).out.splitlines()]

    def entries(self) -> int:
        """By the slow decoder."""
        layout, formats, per_cpu = reference.read_case(self.folder)
        return sum(len(reference.decode_pages(pages, layout, formats).entries) for pages in per_cpu.values())


MakeCase = Callable[[str], Case]


@pytest.fixture
def make_case(recorded_case: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> MakeCase:
    def make(name: str) -> Case:
        shutil.copytree(recorded_case(name), tmp_path / "case")
        return Case(tmp_path / "case", capsys)

    return make


def assert_whole(case: Case, run: Run, entries: int) -> None:
    assert run.code == 0, run.err
    assert f"{entries} events in {case.archive}" in run.err
    assert case.verify() == Run(0, "", case.verify().err)
    assert case.info()["events"] == entries


# ---- a recording that is whole


@pytest.mark.parametrize("name", ["6.1/events", "6.12/gaps", "6.12/lost_subbuf8", "6.18/clock_x86-tsc"])
def test_all_entries_are_archived_and_add_up(name: str, make_case: MakeCase) -> None:
    case = make_case(name)
    entries = case.entries()
    assert entries > 0
    assert_whole(case, case.replay(), entries)
    assert case.info()["residual"] == 0
    assert len(case.show()) == entries
    assert list(case.archive.glob("*.part")) == []


def test_only_the_cpus_that_were_asked_for_are_read(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    assert case.replay("--cpu", "1").code == 0
    assert [stream["cpu"] for stream in case.info()["streams"]] == [1]


def test_two_replays_into_one_archive_are_two_runs(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    entries = case.entries()
    case.replay()
    assert case.replay().code == 0
    assert case.info()["events"] == 2 * entries
    assert case.verify().code == 0


# ---- files that a recording may lack


@pytest.mark.parametrize(
    "name",
    [
        "kallsyms",
        "uname",
        "tracefs/buffer_subbuf_size_kb",
        "tracefs/saved_cmdlines",
        "tracefs/saved_tgids",
        "tracefs/printk_formats",
        "tracefs/trace_clock",
        "tracefs/events/header_event",
        "tracefs/per_cpu/cpu0/stats",
    ],
)
def test_file_that_may_be_missing_costs_no_entry(name: str, make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    entries = case.entries()
    case.remove(name)
    assert_whole(case, case.replay(), entries)


@pytest.mark.parametrize("text", [b"", b"\xff\x00\xfe" * 50, b"9" * 5000, b"1 2 3\n: :\n\n-1 x\n0x : y\n"])
@pytest.mark.parametrize(
    "name", ["kallsyms", "uname", "tracefs/buffer_subbuf_size_kb", "tracefs/saved_cmdlines", "tracefs/saved_tgids",
             "tracefs/printk_formats", "tracefs/per_cpu/cpu0/buffer_size_kb"],
)  # fmt: skip
def test_names_that_do_not_read_cost_no_entry(name: str, text: bytes, make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    entries = case.entries()
    (case.folder / name).write_bytes(text)
    assert_whole(case, case.replay(), entries)
    assert len(case.show()) == entries


def test_bare_minimum_is_rings_formats_and_header_page(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    entries = case.entries()
    case.remove("kallsyms", "uname", "meta.json", *(f"tracefs/{p.name}" for p in case.tracefs.iterdir() if p.is_file()))
    case.remove(*(str(p.relative_to(case.folder)) for p in case.tracefs.glob("per_cpu/*/stats")))
    assert_whole(case, case.replay(), entries)
    assert case.info()["residual"] is None  # nobody says how many entries there were
    assert {event["comm"] for event in case.show() if event["pid"]} == {None}


def test_entries_of_events_without_a_format_are_kept_as_bytes(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    entries = case.entries()
    case.remove(*(str(p.relative_to(case.folder)) for p in case.tracefs.glob("events/*") if p.is_dir()))
    assert_whole(case, case.replay(), entries)
    assert {event["event"].split(":")[0] for event in case.show()} == {"unknown"}


def test_names_come_from_the_recording(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    case.replay()
    assert {event["comm"] for event in case.show() if event["pid"]} - {None}


# ---- recordings that are no recordings


def assert_refused(run: Run, code: int, *words: str) -> None:
    assert run.code == code, run.err
    assert run.err.count("error:") == 1, run.err
    for word in words:
        assert word in run.err
    assert run.out == ""


def test_path_that_does_not_exist_is_refused(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    case.remove("")
    assert_refused(case.replay(), 64, str(case.folder), "no such folder")
    assert not list(case.archive.glob("*")), "nothing is made for what cannot be read"


@pytest.mark.parametrize("name", ["file", "folder"])
def test_path_that_is_no_case_is_refused(name: str, make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    case.remove("")
    case.folder.write_text("") if name == "file" else case.folder.mkdir()
    assert_refused(case.replay(), 64, str(case.folder), "expected a folder that has tracefs/ in it")


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_recording_without_a_ring_is_refused(left: str, make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    case.remove("tracefs/per_cpu")
    if left != "nothing":
        (case.tracefs / "per_cpu").mkdir()
    assert_refused(case.replay(), 64, str(case.tracefs), "no rings", "per_cpu")


def test_cpu_that_was_not_recorded_is_refused(make_case: MakeCase) -> None:
    assert_refused(make_case("6.12/gaps").replay("--cpu", "0,7"), 64, "CPU", "7", "0-1")


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("events/header_page", None, 1),
        ("events/header_page", "", 1),
        ("events/header_page", "nonsense\n", 1),
        ("events/header_page", made.HEADER_PAGE.format(data_size=99999999999), 1),
        ("per_cpu/cpu0/trace_pipe_raw", None, 1),
        ("per_cpu/cpu0/stats", "entries: many\n", 1),
        ("trace_clock", "", 1),
    ],
)
def test_file_that_is_needed_and_does_not_read_is_named(
    name: str, text: str | None, code: int, make_case: MakeCase
) -> None:
    case = make_case("6.12/gaps")
    case.remove(f"tracefs/{name}")
    if text is not None:
        (case.tracefs / name).write_text(text)
    assert_refused(case.replay(), code, name.split("/")[-1])


@pytest.mark.parametrize("count", ["-5", str(1 << 64), "9" * 30, "9" * 5000])
def test_count_that_no_kernel_has_is_refused(count: str, make_case: MakeCase) -> None:
    """Sums of it go into records of 64 bits."""
    case = make_case("6.12/gaps")

    path = case.tracefs / "per_cpu/cpu0/stats"
    path.write_text(re.sub(r"read events: \d+", f"read events: {count}", path.read_text()))
    assert_refused(case.replay(), 1, "read events")


def test_largest_counts_are_archived_and_do_not_add_up(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    most = (1 << 64) - 1
    case.set_stats(0, entries=most, overrun=most, commit_overrun=most, dropped_events=most, read_events=most)
    assert case.replay().code == 0
    assert case.verify().code == 1
    assert case.info()["residual"] >= most


def test_sub_buffers_too_large_for_the_budget_say_which_setting(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case("6.12/gaps")
    config = tmp_path / "c.toml"
    config.write_text("[capture]\nmemory_budget_bytes = 1048576\n")
    (case.tracefs / "events/header_page").write_text(made.HEADER_PAGE.format(data_size=(1 << 20) - 16))
    assert_refused(case.replay("-c", str(config)), 78, "memory_budget_bytes")


def test_format_that_does_not_read_keeps_the_entries_as_bytes_or_is_named(make_case: MakeCase) -> None:
    """Damage in one format file must not cost the entries of the others without a word."""
    case = make_case("6.12/gaps")
    entries = case.entries()
    victim = next(iter(sorted(case.tracefs.glob("events/[a-eg-z]*/*/format"))))
    victim.write_text(victim.read_text().replace("size:", "sighs:"))
    run = case.replay()
    if run.code == 0:
        assert case.info()["events"] == entries
    else:
        assert_refused(run, 1, str(victim))


# ---- rings that are empty, cut or damaged


def test_empty_rings_make_an_archive_without_an_event(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    for cpu in (0, 1):
        case.raw(cpu).write_bytes(b"")
        case.set_stats(cpu, read_events=0, overrun=0, entries=0)
    assert_whole(case, case.replay(), 0)
    assert case.info()["residual"] == 0
    assert case.show() == []


@pytest.mark.parametrize("left", [1, 15, 100, 2049, 4095])
def test_ring_cut_inside_a_page_keeps_the_pages_before_it(left: int, make_case: MakeCase) -> None:
    case = make_case("6.12/lost")
    whole = case.raw(0).read_bytes()
    pages = len(whole) // 4096
    assert pages > 1
    case.raw(0).write_bytes(whole[: 4096 * (pages - 1)])
    entries = case.entries()
    case.raw(0).write_bytes(whole[: 4096 * (pages - 1) + left])
    run = case.replay()
    assert (run.code, case.info()["events"]) == (0, entries), run.err
    assert case.verify().code == 1
    assert "1 malformed sub-buffers" in case.verify().out
    assert case.decode_errors(0) == {"short_read": 1}
    (kept,) = (case.archive / "malformed").iterdir()
    assert kept.read_bytes() == whole[4096 * (pages - 1) :][:left]


def test_entries_that_the_ring_lacks_are_a_residual_that_verify_tells(make_case: MakeCase) -> None:
    case = make_case("6.12/lost")
    case.raw(0).write_bytes(case.raw(0).read_bytes()[:-4096])
    assert case.replay().code == 0
    run = case.verify()
    assert run.code == 1
    assert "residual" in run.out
    assert case.info()["residual"] > 0


@pytest.mark.parametrize("unread", [0, 100, 3966])
def test_counts_that_were_taken_before_the_last_read_add_up_all_the_same(unread: int, make_case: MakeCase) -> None:
    """As trace-cmd stores them: what was unread then is in the file too."""
    case = make_case("6.12/events")
    read = sum(len(reference.decode_pages(of, *reference.read_case(case.folder)[:2]).entries)
               for cpu, of in reference.read_case(case.folder)[2].items() if cpu == 0)  # fmt: skip
    unread = min(unread, read)
    case.set_stats(0, entries=unread, read_events=read - unread)
    run = case.replay()
    assert (run.code, "reset" in run.err) == (0, False)
    assert (case.info()["residual"], case.info()["unexplained"], case.verify().code) == (0, 0, 0)
    assert "cleared" not in case.command("show", case.archive).out


def test_counts_that_are_older_than_the_entries_prove_nothing(make_case: MakeCase) -> None:
    case = make_case("6.12/events")
    case.set_stats(0, entries=0, read_events=5)
    run = case.replay()
    assert (run.code, "reset" in run.err) == (0, False)
    info = case.info()
    assert (info["residual"], info["streams"][0]["residual"], case.verify().code) == (None, None, 0)
    assert "cleared" not in case.command("show", case.archive).out


def test_malformed_pages_are_counted_and_a_bounded_number_is_kept(make_case: MakeCase) -> None:
    case = make_case("6.12/events")
    raw = bytearray(case.raw(0).read_bytes())
    pages = len(raw) // 4096
    assert pages > MOST_FILES
    for at in range(0, len(raw), 4096):
        raw[at + 8 : at + 11] = b"\xff\xff\x3f"  # the commit, but not the flag of a loss
    case.raw(0).write_bytes(raw)
    assert case.replay().code == 0
    assert case.verify().code == 1, "what they held nobody has seen"
    assert case.decode_errors(0) == {"commit": pages}
    assert [stream["decode_errors"] for stream in case.info()["streams"]] == [{"commit": pages}, {}]
    assert len(list((case.archive / "malformed").iterdir())) == MOST_FILES


def test_malformed_pages_are_few_lines_on_the_terminal(make_case: MakeCase) -> None:
    case = make_case("6.12/events")
    case.raw(0).write_bytes(made.build_page(b"", commit=0x3FFFFFFF) * 200)
    assert len(case.replay().err.splitlines()) < 30


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_never_stop_a_replay_nor_make_an_archive_that_does_not_read(
    seed: int, make_case: MakeCase
) -> None:
    """What is decoded equals what the slow decoder makes of the same bytes."""
    case = make_case(["6.12/gaps", "6.12/lost", "6.18/marker", "6.1/bprint"][seed % 4])
    dice = random.Random(seed)
    for path in case.tracefs.glob("per_cpu/*/trace_pipe_raw"):
        raw = bytearray(path.read_bytes())
        for _ in range(dice.choice([1, 10, 300]) if raw else 0):
            at = dice.choice([dice.randrange(len(raw)), dice.randrange(len(raw)) // 4096 * 4096 + dice.randrange(20)])
            raw[at % len(raw)] ^= 1 << dice.randrange(8)
        path.write_bytes(raw)
    run = case.replay()
    assert run.code == 0, run.err
    assert len(case.show()) == case.entries() == case.info()["events"]
    assert all(
        "residual" in line or "overwrote" in line or "malformed" in line for line in case.verify().out.splitlines()
    )
    if (case.archive / "malformed").exists():
        assert len(list((case.archive / "malformed").iterdir())) <= MOST_FILES


# ---- an archive that cannot be used


def test_archive_that_is_a_file_is_refused(make_case: MakeCase) -> None:
    case = make_case("6.12/gaps")
    case.archive.write_text("")
    assert_refused(case.replay(), 1, str(case.archive), "--output")


def test_archive_that_another_process_writes_is_refused(make_case: MakeCase) -> None:
    from collector.archive.lock import ArchiveLock

    case = make_case("6.12/gaps")
    case.archive.mkdir()
    with ArchiveLock(case.archive):
        assert_refused(case.replay(), 1, str(case.archive), "another process writes this archive", "--output")
