"""Where the next run goes on after one that was killed, wherever that was."""

from pathlib import Path
from typing import Any

from collector.archive.history import find_left_off
from collector.archive.info import summarise
from collector.archive.recover import recover_folder
from collector.archive.segment import SegmentWriter
from collector.archive.tally import CRASH
from collector.archive.totals import Totals
from collector.batch import Missed, Note, NoteKind, StreamKey
from tests.archive.encoder import Maps, build_block, header, ledger, make_rows, sample

CPU = 0
STREAM = ("main", CPU)


class Run:
    """A run of one CPU in an archive: what it found in the kernel, what it wrote, and whether it was killed."""

    def __init__(self, folder: Path, number: int, base: tuple[int, int] = (0, 0)) -> None:
        """Args:
        base: (entries read, overrun) as it began.
        """
        self.id = bytes([number]) * 16
        head: dict[str, Any] = header(0, {STREAM: Totals()}, run=self.id)
        head["instances"]["main"]["base"] = [[CPU, *base, 0, 0]]
        head["created_ns"] += number * 10**9
        self.writer = SegmentWriter.create(folder, head)

    def tell_crash(self, lost: int) -> "Run":
        body = {"no": 0, "cause": CRASH, "count": lost, "from_ts": None, "to_ts": None, "detail": ""}
        self.writer.write_note(Note(NoteKind.GAP, StreamKey(self.id, "main", CPU), body))
        return self

    def archive(self, overwritten: int = 0) -> "Run":
        """A block of six entries, before which some were lost."""
        gaps = [Missed(0, overwritten, "page")] if overwritten else []
        self.writer.write_block(build_block(make_rows(0, 6, 100), stream=STREAM, gaps=gaps, run=self.id), Maps())
        return self

    def sample(self, totals: Totals) -> "Run":
        self.writer.write_record(6, sample(STREAM, totals, self.id))
        return self

    def end(self, folder: Path, *, killed: bool = True) -> None:
        if killed:
            self.writer.abandon()
            recover_folder(folder)
        else:
            self.writer.seal({STREAM: ledger(6, 1, 4096)}, "shutdown", True)


def left_off(folder: Path) -> tuple[int, int, bool]:
    """(entries that are accounted for, overrun that was told, whether the run ended well)"""
    found = find_left_off(folder, "main", "b")
    assert list(found) == [CPU]
    return found[CPU].accounted, found[CPU].overrun, found[CPU].complete


def test_nothing_is_known_of_an_empty_archive_or_of_another_boot(tmp_path: Path) -> None:
    assert find_left_off(tmp_path, "main", "b") == {}
    Run(tmp_path, 1).archive().end(tmp_path)
    assert find_left_off(tmp_path, "main", "another") == {}
    assert find_left_off(tmp_path, "other", "b") == {}


def test_a_run_that_ended_well(tmp_path: Path) -> None:
    Run(tmp_path, 1, (100, 7)).archive().end(tmp_path, killed=False)
    assert left_off(tmp_path) == (106, 7, True)


def test_killed_before_its_first_entry_it_has_told_where_it_began(tmp_path: Path) -> None:
    Run(tmp_path, 1, (100, 7)).end(tmp_path)
    assert left_off(tmp_path) == (100, 7, False)


def test_killed_at_its_start_after_a_run_that_ended_well(tmp_path: Path) -> None:
    """What somebody read between the two is none of theirs."""
    Run(tmp_path, 1).archive().end(tmp_path, killed=False)
    Run(tmp_path, 2, (10, 3)).end(tmp_path)
    assert left_off(tmp_path) == (10, 3, False)


def test_killed_twice_before_the_loss_was_told(tmp_path: Path) -> None:
    """The first one's loss is told from where that left off."""
    Run(tmp_path, 1).archive().end(tmp_path)
    Run(tmp_path, 2, (50, 3)).end(tmp_path)
    Run(tmp_path, 3, (70, 4)).end(tmp_path)
    assert left_off(tmp_path) == (6, 0, False)


def test_killed_after_the_loss_was_told(tmp_path: Path) -> None:
    Run(tmp_path, 1).archive().end(tmp_path)
    Run(tmp_path, 2, (50, 3)).tell_crash(44).end(tmp_path)
    assert left_off(tmp_path) == (50, 3, False)
    Run(tmp_path, 3, (80, 5)).tell_crash(30).archive().end(tmp_path, killed=False)
    info = summarise([tmp_path])
    assert [of["crash_lost_events"] for of in info["streams"]] == [44, 30, 0]
    assert info["residual"] == 0


def test_what_several_killed_runs_read_is_one_loss(tmp_path: Path) -> None:
    """The run that tells of it closes the ledger of all of them."""
    Run(tmp_path, 1).archive().end(tmp_path)
    Run(tmp_path, 2, (50, 3)).end(tmp_path)
    Run(tmp_path, 3, (90, 5)).tell_crash(84).archive().end(tmp_path, killed=False)
    info = summarise([tmp_path])
    assert [of["crash_lost_events"] for of in info["streams"]] == [84, 0, 0]
    assert info["residual"] == 0


def test_gaps_tell_of_a_loss_before_the_kernel_is_asked(tmp_path: Path) -> None:
    """Killed between a block and the next look at the counters."""
    Run(tmp_path, 1).archive(overwritten=307_772).sample(Totals()).end(tmp_path)
    info = summarise([tmp_path])
    assert (info["lost_events"], info["gap_known_events"]) == (307_772, 307_772)
    assert left_off(tmp_path) == (6, 307_772, False)
