"""Power cuts at every step of the archive's writing, with every choice of what the filesystem had not synced."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.archive.pins import Pin, add_pin
from collector.archive.recover import recover_folder
from collector.archive.segment import start_ns_of
from sinks.file import sink as sink_module
from tests.crash.filesystem import Mark, Recorder, Tree, put_down, sync_sites
from tests.crash.workload import LATER_RUN, Writer, blocks_in, restart, violations

SEED = 20


@dataclass
class Machine:
    """A disk, a clock and the notes of what is done to the disk."""

    recorder: Recorder
    archive: Path
    time: SimpleNamespace

    def say(self, what: str, value: Any) -> None:
        self.recorder.mark(what, value)

    def wait(self, writer: Writer, seconds: int) -> None:
        for _ in range(seconds):
            self.time.now_s += 1
            writer.tick()


Workload = Callable[[Machine], None]


def deliver_durably(machine: Machine) -> None:
    """Each delivery is synced; segments rotate, and the oldest go."""
    writer = Writer(machine.archive, machine.say, sync_interval_s=0.0, segment_bytes=1800, max_bytes=4000)
    writer.open()
    for blocks in (1, 2, 1, 3, 2, 2, 1):
        writer.deliver(blocks)
    writer.close()


def deliver_by_interval(machine: Machine) -> None:
    """Synced once a second, rotated by age."""
    writer = Writer(machine.archive, machine.say, sync_interval_s=1.0, segment_age_s=3.0)
    writer.open()
    for _ in range(4):
        writer.deliver(1)
        machine.wait(writer, 1)
        writer.deliver(1)
    machine.wait(writer, 1)
    writer.close()


def remove_several_at_once(machine: Machine) -> None:
    """The limit was lowered: one look takes them all, and no cut may leave a hole in their run."""
    writer = Writer(machine.archive, machine.say, LATER_RUN, segment_bytes=1, max_bytes=1)
    writer.open()
    writer.deliver(1)
    writer.close()


def remove_around_a_pin(machine: Machine) -> None:
    """The second segment is pinned: those behind it go, and the hole is told."""
    writer = Writer(machine.archive, machine.say, LATER_RUN, segment_bytes=1, max_bytes=1)
    writer.open()
    second = sorted(machine.archive.glob("*.ftseg"))[1]
    pin = Pin("incident", start_ns_of(second) or 0, start_ns_of(second) or 0, 1)
    os.utime(second, ns=(pin.to_ns, pin.to_ns))
    writer.sink._shelf.fill()
    add_pin(machine.archive, pin)
    machine.say("pinned", pin)
    writer.deliver(1)
    writer.close()


def seal_with_the_reserve(machine: Machine) -> None:
    """The disk gets full before the segment is sealed; the reserve has the room for that."""
    writer = Writer(machine.archive, machine.say, reserve_bytes=4096)
    writer.open()
    writer.deliver(1)
    machine.wait(writer, 3)
    reserve = machine.archive / ".reserve"
    assert reserve.stat().st_size == 4096

    def fail(what: str) -> None:
        if what == "write" and reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine.recorder.fail = fail
    writer.sink.rotate()
    writer.tick()
    assert writer.sink.last_path is not None
    writer.deliver(1)
    writer.close()


def deliver_to_a_failing_disk(machine: Machine) -> None:
    """One sync fails; the kernel forgets what it could not write, but for what it is told again."""
    writer = Writer(machine.archive, machine.say, sync_interval_s=0.0)
    left = 2

    def fail(what: str) -> None:
        nonlocal left
        left -= what == "fdatasync"
        if left == 0 and what == "fdatasync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    machine.recorder.fail = fail
    writer.open()
    writer.deliver(2)
    writer.deliver(2)  # fails
    machine.wait(writer, 3)
    writer.deliver(1)
    writer.close()


def recover(machine: Machine) -> None:
    """A crash is recovered, and then comes the cut."""
    for result in recover_folder(machine.archive):
        if result.path.suffix == ".ftseg":
            machine.say("durable", blocks_in(result.path))
            machine.say("sealed", result.path.name)


def leave_a_torn_segment(archive: Path) -> None:
    writer = Writer(archive, lambda what, value: None, segment_bytes=1800)
    writer.open()
    for _ in range(5):
        writer.deliver(1)
    writer.sink._sync()
    writer.sink.unlock()
    (part,) = archive.glob("*.part")
    with open(part, "ab") as file:
        file.write(part.read_bytes()[-500:-100])


def leave_a_run_without_an_end(archive: Path) -> None:
    writer = Writer(archive, lambda what, value: None, segment_bytes=1)
    writer.open()
    writer.deliver(1)
    writer.sink.unlock()


def leave_a_whole_run(archive: Path) -> None:
    writer = Writer(archive, lambda what, value: None, segment_bytes=1)
    writer.open()
    for _ in range(3):
        writer.deliver(1)
    writer.close()


def leave_nothing(archive: Path) -> None:
    pass


# {name: (what is there before, what is done)}
WORKLOADS: dict[str, tuple[Callable[[Path], None], Workload]] = {
    "durably": (leave_nothing, deliver_durably),
    "by interval": (leave_nothing, deliver_by_interval),
    "removal around a pin": (leave_a_whole_run, remove_around_a_pin),
    "reserve": (leave_nothing, seal_with_the_reserve),
    "removal": (leave_a_whole_run, remove_several_at_once),
    "failing disk": (leave_nothing, deliver_to_a_failing_disk),
    "recovery of a torn segment": (leave_a_torn_segment, recover),
    "recovery of a run without an end": (leave_a_run_without_an_end, recover),
}


def do(name: str, root: Path, left_out: str | None = None) -> Recorder:
    """Runs a workload; gives the notes of it."""
    before, workload = WORKLOADS[name]
    root.mkdir()
    time = SimpleNamespace(now_s=100.0)
    time.monotonic = time.time = lambda: time.now_s
    time.time_ns = lambda: int(time.now_s * 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sink_module, "time", time)
        before(root / "archive")
        recorder = Recorder(root, left_out=left_out)
        recorder.on_unlink = lambda path: note_removal(recorder, path)
        recorder.install(patch)
        workload(Machine(recorder, root / "archive", time))
    return recorder


def note_removal(recorder: Recorder, path: Path) -> None:
    if path.suffix == ".ftseg":
        recorder.mark("removed", (path.name, blocks_in(path)))


def crashes(recorder: Recorder) -> Iterator[tuple[int, list[tuple[str, Any]], Tree]]:
    """(steps done, what was said, what is left) of each crash that differs from those before."""
    seen = set()
    dice = random.Random(SEED)
    for cut in recorder.cuts():
        said = [(step.what, step.value) for step in recorder.steps[:cut] if isinstance(step, Mark)]
        for tree in recorder.survivors(cut, dice):
            key = (len(said), *((folder, *sorted(entries.items())) for folder, entries in sorted(tree.items())))
            if key not in seen:
                seen.add(key)
                yield cut, said, tree


def look(tree: Tree, said: list[tuple[str, Any]], root: Path, *, write_on: bool) -> list[str]:
    root.mkdir()
    put_down(tree, root)
    return violations(root / "archive", said) or (restart(root / "archive") if write_on else [])


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_was_durable_is_there_after_every_power_cut(name: str, tmp_path: Path) -> None:
    recorder = do(name, tmp_path / "disk")
    cuts = set()
    for at, (cut, said, tree) in enumerate(crashes(recorder)):
        found = look(tree, said, tmp_path / str(at), write_on=cut not in cuts)
        assert found == [], f"after step {cut}, {recorder.steps[cut - 1] if cut else 'none'}"
        cuts.add(cut)
    assert len(cuts) > 3


@pytest.mark.parametrize("site", sync_sites())
def test_each_sync_is_needed(site: str, tmp_path: Path) -> None:
    """Without it some power cut does harm."""
    reached = False
    for name in WORKLOADS:
        recorder = do(name, tmp_path / f"disk of {name}", left_out=site)
        if site not in recorder.sites:
            continue
        reached = True
        for at, (_, said, tree) in enumerate(crashes(recorder)):
            if look(tree, said, tmp_path / f"{name} {at}", write_on=False):
                return
    assert reached, f"no workload comes to {site}"
    raise AssertionError(f"{site} can be left out, and nothing is lost")
