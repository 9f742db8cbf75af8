"""What the crashes come to: something that writes durable files, and the one who looks what is left of them."""

import errno
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.archive import disk
from collector.archive.segment import SUFFIX
from sinks.file import sink as file_sink
from tests.crash.filesystem import Mark, Recorder, Tree, put_down
from tests.crash.sites import SYNCS
from tests.crash.workload import Say, blocks_in, unheard

SEED = 20

Said = list[tuple[str, Any]]  # what the one that crashed told others, in order: (what, value)


@dataclass
class Machine:
    """A disk and a clock, as the one that writes has them, and who listens to it."""

    root: Path
    say: Say = unheard
    set_fault: Callable[[Callable[[str], None]], None] = lambda fault: None  # see Recorder.fail
    time: SimpleNamespace = field(default_factory=lambda: _clock())


@dataclass(frozen=True)
class Case:
    """Something that is done to a disk.

    Args:
      before: leaves what is on the disk before, and durable.
      work: does it.
      violations: starts anew with what a crash left; gives what is wrong then.
      go_on: does what the next run does, to the end, after violations() did; gives what is wrong then.
      resume: starts anew on the same disk and goes on for a while, as after a kill.
      is_killed: it needs no fault of the disk, and takes steps that no other case takes.
    """

    before: Callable[[Path], None]
    work: Callable[[Machine], None]
    violations: Callable[[Path, Said], list[str]]
    go_on: Callable[[Path, Said], list[str]]
    resume: Callable[[Machine, Said], None] | None = None
    is_killed: bool = True


def leave_nothing(root: Path) -> None:
    """Before the first run."""


def second_sync_fails() -> Callable[[str], None]:
    """A fault, for Machine.set_fault: the kernel forgets what it could not write, but for what it is told again."""
    left = 2

    def fail(what: str) -> None:
        nonlocal left
        left -= what == "fdatasync"
        if left == 0 and what == "fdatasync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    return fail


def _clock() -> SimpleNamespace:
    time = SimpleNamespace(now_s=100.0)
    time.monotonic = time.time = lambda: time.now_s
    time.time_ns = lambda: int(time.now_s * 10**9)
    return time


@contextmanager
def clock_of(machine: Machine) -> Iterator[None]:
    """The archive's sink has the machine's clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_sink, "time", machine.time)
        yield


def do(case: Case, root: Path, left_out: str | None = None) -> Recorder:
    """Does what a case does on a disk of its own; gives the notes of it."""
    recorder = Recorder(prepare(case, root), left_out=left_out)
    with installed(recorder) as machine:
        case.work(machine)
    return recorder


def prepare(case: Case, root: Path) -> Path:
    """Makes a disk, and what is on it before."""
    root.mkdir()
    with no_waiting():
        case.before(root)
    return root


@contextmanager
def no_waiting() -> Iterator[None]:
    """Where no power is cut syncs would only take their time."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SYNCS:
            patch.setattr(disk, name, lambda of: None)
        yield


@contextmanager
def installed(recorder: Recorder) -> Iterator[Machine]:
    """The machine whose disk a recorder stands in for."""

    def set_fault(fault: Callable[[str], None]) -> None:
        recorder.fail = fault

    def note_removal(path: Path) -> None:
        if path.suffix == SUFFIX:
            recorder.mark("removed", (path.name, blocks_in(path)))

    machine = Machine(recorder.root, recorder.mark, set_fault)
    recorder.on_unlink = note_removal
    with clock_of(machine), pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        yield machine


def crashes(recorder: Recorder, cuts: Iterator[int] | None = None) -> Iterator[tuple[int, Said, Tree]]:
    """(steps done, what was said, what is left) of each power cut that differs from those before."""
    seen = set()
    dice = random.Random(SEED)
    for cut in recorder.cuts() if cuts is None else cuts:
        said = said_in(recorder, cut)
        for tree in recorder.survivors(cut, dice):
            key = (len(said), *((folder, *sorted(entries.items())) for folder, entries in sorted(tree.items())))
            if key not in seen:
                seen.add(key)
                yield cut, said, tree


def said_in(recorder: Recorder, steps: int) -> Said:
    """What was said up to so many steps."""
    return [(step.what, step.value) for step in recorder.steps[:steps] if isinstance(step, Mark)]


def look(case: Case, said: Said, root: Path, *, go_on: bool) -> list[str]:
    """Starts anew with what a crash left, and gives what is wrong then."""
    with no_waiting():
        return case.violations(root, said) or (case.go_on(root, said) if go_on else [])


def look_at(case: Case, tree: Tree, said: Said, root: Path, *, go_on: bool) -> list[str]:
    """As look(), of what a power cut left."""
    root.mkdir()
    put_down(tree, root)
    return look(case, said, root, go_on=go_on)
