"""A flight recorder on two rings made by hand: what is read when, and when its ledger is known."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.archive.history import LeftOff
from collector.batch import Block
from collector.capture.budget import ByteBudget
from collector.capture.flight import SnapshotSource
from collector.capture.source import CaptureSizes, LiveInstance
from collector.capture.visit import Ask, Visit
from collector.ledger import KernelCounts
from collector.tracefs.files import TracefsDir
from tests.capture.rig import MIB, RUN, make_worker, page
from tests.tracefs.tree import event_format, header_page, put, stats

ALL = Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE


class TwoRings(TracefsDir):
    """The counters and the pages of two rings; a snapshot swaps them. One pipe each stands for what is unread."""

    def __init__(self, root: Path) -> None:
        put(root, {
            "trace_clock": "local [mono]\n",
            "events/header_page": header_page(4),
            "per_cpu/cpu0/buffer_size_kb": "64\n",
            "events/sched/sched_switch/format": event_format("sched_switch", 300),
        })  # fmt: skip
        super().__init__(root)
        self.live, self.other = [0, 0, 0], [0, 0, 0]  # entries, read, overrun
        self.pages: dict[int, list[tuple[bytes, int]]] = {id(self.live): [], id(self.other): []}
        self._pipe, self._feed = os.pipe2(os.O_NONBLOCK)
        self.taken = 0
        self._show()

    def record(self, entries: int, overwritten: int = 0) -> None:
        """The kernel writes into the live ring."""
        self.live[0] += entries
        self.live[2] += overwritten
        data = page(entries, lost=bool(overwritten), count=overwritten or None)
        self.pages[id(self.live)].append((data, entries))
        self._show()

    def hand_over(self) -> None:
        """What a read of the other ring would find."""
        for data, entries in self.pages[id(self.other)]:
            os.write(self._feed, data)
            self.other[0] -= entries
            self.other[1] += entries
        self.pages[id(self.other)].clear()
        self._show()

    def open_snapshot(self, cpu: int) -> int:
        assert cpu == 0
        return os.dup(self._pipe)

    def list_event_folders(self, system: str | None = None) -> list[tuple[str, str]]:
        return [("sched", "sched_switch")]

    def _write(self, name: str, value: str, flags: int) -> None:
        assert (name, value) == ("snapshot", "1")
        self.taken += 1
        self.live, self.other = self.other, self.live
        self._show()

    def _show(self) -> None:
        entries, read, overrun = self.live
        text = stats(entries).replace("read events: 0", f"read events: {read}")
        put(self.path, {"per_cpu/cpu0/stats": text.replace("\noverrun: 0", f"\noverrun: {overrun}")})


class Recorder:
    """A source of a new instance, and what its visits brought."""

    def __init__(self, rings: TwoRings, left_off: dict[int, LeftOff] | None = None) -> None:
        self.rings = rings
        self.source = SnapshotSource(
            LiveInstance(rings, "i", (0,), left_off=left_off or {}), RUN, is_new=left_off is None
        )
        sizes = CaptureSizes(MIB, 5.0, 1)
        self.source.open_streams(ByteBudget(64 * MIB), sizes, lambda *kept: None, streams_in_all=1)
        self.blocks: list[Block] = []
        self._worker = make_worker()

    def visit(self, ask: Ask = ALL) -> Visit:
        self.rings.hand_over()
        (stream,) = self.source.streams
        visit = stream.visit(self._worker, ask, MIB)
        self.blocks += [block for block, _ in visit.blocks]
        return visit

    def drain(self) -> Visit:
        visit = self.visit()
        for step in self.source.drain_steps():
            step()
            visit = self.visit()
        return visit


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Recorder]:
    return lambda **keys: Recorder(TwoRings(tmp_path), **keys)


def events(recorder: Recorder) -> int:
    return sum(block.events for block in recorder.blocks)


def test_what_is_live_is_left_alone_until_a_snapshot(make: Callable[..., Recorder]) -> None:
    recorder = make()
    recorder.rings.record(5)
    assert recorder.visit().at_end
    assert events(recorder) == 0
    recorder.source.take()
    recorder.rings.record(2)
    visit = recorder.visit()
    assert (visit.at_end, visit.sample, events(recorder)) == (True, None, 5)
    assert recorder.source.header()["read"] == "snapshot"
    recorder.source.close()


def test_the_end_takes_the_last_one_and_settles_the_ledger_of_both_rings(make: Callable[..., Recorder]) -> None:
    recorder = make()
    recorder.rings.record(5, overwritten=3)
    recorder.source.take()
    recorder.visit()
    recorder.rings.record(7, overwritten=4)
    assert not recorder.source.is_drained
    sample = recorder.drain().sample
    assert sample is not None
    assert recorder.source.is_drained
    assert (sample.settled, sample.balance.total) == (True, 0)
    assert (sample.kernel.read, sample.kernel.overrun, sample.reader.gap_known) == (12, 7, 7)
    assert events(recorder) == 12
    totals = recorder.source.streams[0].totals()
    assert (totals.settled, totals.residual, totals.left_in_kernel) == (True, 0, 0)
    recorder.source.close()


def test_a_snapshot_of_somebody_else_at_the_end_is_read_too(make: Callable[..., Recorder]) -> None:
    recorder = make()
    recorder.rings.record(5)
    steps = recorder.source.drain_steps()
    recorder.visit()
    next(steps)()
    recorder.source.take()  # before anything of the last one was read
    recorder.visit()
    for step in steps:
        step()
        sample = recorder.visit().sample
    assert events(recorder) == 5
    assert recorder.source.is_drained
    assert sample is not None
    assert sample.balance.total == 0
    recorder.source.close()


def test_what_there_was_no_time_for_is_counted(make: Callable[..., Recorder]) -> None:
    recorder = make()
    recorder.rings.record(5)
    recorder.source.give_up()
    (stream,) = recorder.source.streams
    visit = stream.visit(make_worker(), Ask.SAMPLE | Ask.CLOSE, 0)
    assert visit.sample is not None
    assert (visit.sample.kernel.entries, visit.sample.settled, recorder.source.is_drained) == (5, False, False)
    recorder.source.close()


def test_a_run_that_goes_on_begins_at_the_sum_of_both_rings(tmp_path: Path) -> None:
    rings = TwoRings(tmp_path)
    rings.live, rings.other = [0, 10, 2], [0, 20, 1]
    rings.pages = {id(rings.live): [], id(rings.other): []}
    rings._show()
    left = LeftOff(accounted=25, overrun=3, dropped=0, commit_overrun=0, last_ts=None, complete=False)
    recorder = Recorder(rings, {0: left})
    assert recorder.source.base == {0: KernelCounts(overrun=3, read=30)}
    assert recorder.source.crash_lost == {0: 5}
    assert rings.taken == 2
    rings.record(4, overwritten=1)
    sample = recorder.drain().sample
    assert sample is not None
    assert (sample.kernel.read, sample.kernel.overrun, sample.balance.total) == (4, 1, 0)
    recorder.source.close()
