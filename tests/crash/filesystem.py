"""A filesystem that forgets: each step is done for real and noted; from the notes comes what a power cut may leave.

What a cut leaves is every step that a sync covers, and any choice of the others: writes torn in two, in any order,
sizes without their data, names that were made, moved or removed, or not yet. After a sync that failed, what was
written before it is not covered by a later sync: the kernel takes such pages for clean.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from collector.archive import disk
from tests.crash.sites import SYNCS, sites_above

STEPS = (
    "create", "open_again", "write", "write_at", "truncate", "allocate", *SYNCS, "rename", "unlink", "make_one_folder",
)  # fmt: skip

# Up to so many unsynced steps every choice of survivors is made; above, a sample.
ALL_CHOICES = 4
RANDOM_CHOICES = 6


@dataclass(frozen=True, eq=False)
class Data:
    file: int
    offset: int
    data: bytes


@dataclass(frozen=True, eq=False)
class Cut:
    file: int
    size_bytes: int


@dataclass(frozen=True, eq=False)
class Name:
    """A name appears (old is None), moves, or goes (new is None)."""

    folder: Path
    old: str | None
    new: str | None
    file: int
    before: Path | None = None  # the old name's folder, where that is another one


@dataclass(frozen=True, eq=False)
class Folder:
    folder: Path


@dataclass(frozen=True, eq=False)
class Sync:
    """Of a file (its number) or of a folder."""

    what: int | Path
    succeeded: bool = True


@dataclass(frozen=True, eq=False)
class Mark:
    """Said by the workload between two steps."""

    what: str
    value: Any


Step = Data | Cut | Name | Folder | Sync | Mark
Tree = dict[Path, dict[str, bytes]]  # {folder: {name: content}}


class Recorder:
    """Stands in for disk.py below one folder, whose content at the start is durable.

    Args:
      left_out: a site of sync_sites(); no sync below it is done.
      fail: called with the name of each step before it is done; raises to make it fail.
      on_unlink: called with a file that is about to be removed.
    """

    def __init__(
        self,
        root: Path,
        *,
        left_out: str | None = None,
        fail: Callable[[str], None] = lambda what: None,
        on_unlink: Callable[[Path], None] = lambda path: None,
    ) -> None:
        self.root = root
        self.steps: list[Step] = []
        self.sites: set[str] = set()
        self.fail = fail
        self._left_out = left_out
        self.on_unlink = on_unlink
        self._numbers = itertools.count()
        self._files: dict[Path, int] = {}  # {path: number}
        self._open: dict[int, int] = {}  # {descriptor: number}
        self.base: dict[int, bytes] = {}  # {number: content at the start}
        self.names: dict[Path, dict[str, int]] = {Path(): {}}  # at the start
        for path in sorted(root.rglob("*")):
            if path.is_dir():
                self.names[path.relative_to(root)] = {}
            else:
                number = self._files[path] = next(self._numbers)
                self.base[number] = path.read_bytes()
                self.names[path.parent.relative_to(root)][path.name] = number
        self._real = {name: getattr(disk, name) for name in STEPS}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in STEPS:
            monkeypatch.setattr(disk, name, getattr(self, name))

    def mark(self, what: str, value: Any) -> None:
        self.steps.append(Mark(what, value))

    def create(self, path: Path) -> int:
        self.fail("create")
        fd: int = self._real["create"](path)
        number = self._open[fd] = self._files[path] = next(self._numbers)
        self.steps.append(Name(path.parent.relative_to(self.root), None, path.name, number))
        return fd

    def open_again(self, path: Path) -> int:
        fd: int = self._real["open_again"](path)
        self._open[fd] = self._files[path]
        return fd

    def write(self, fd: int, parts: Sequence[bytes | memoryview]) -> int:
        self.fail("write")
        data = b"".join(parts)
        self.steps.append(Data(self._open[fd], os.lseek(fd, 0, os.SEEK_CUR), data))
        assert self._real["write"](fd, [data]) == len(data)
        return len(data)

    def write_at(self, fd: int, data: bytes | memoryview, offset: int) -> int:
        self.fail("write_at")
        self.steps.append(Data(self._open[fd], offset, bytes(data)))
        assert self._real["write_at"](fd, data, offset) == len(data)
        return len(data)

    def truncate(self, fd: int, size_bytes: int) -> None:
        self.fail("truncate")
        self._real["truncate"](fd, size_bytes)
        self.steps.append(Cut(self._open[fd], size_bytes))

    def allocate(self, fd: int, size_bytes: int) -> None:
        self.fail("allocate")
        self._real["truncate"](fd, size_bytes)
        self.steps.append(Cut(self._open[fd], size_bytes))

    def fdatasync(self, fd: int) -> None:
        self._sync("fdatasync", self._open[fd])

    def fsync(self, fd: int) -> None:
        self._sync("fsync", self._open[fd])

    def fsync_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(2, "No such file or directory")
        if not folder.is_relative_to(self.root):
            self.sites |= sites_above()
            return  # what is above was there before
        self._sync("fsync_folder", folder.relative_to(self.root))

    def _sync(self, name: str, what: int | Path) -> None:
        sites = sites_above()
        self.sites |= sites
        if self._left_out in sites:
            return
        try:
            self.fail(name)
        except OSError:
            self.steps.append(Sync(what, False))
            raise
        self.steps.append(Sync(what))

    def rename(self, old: Path, new: Path) -> None:
        self.fail("rename")
        self._real["rename"](old, new)
        number = self._files[new] = self._files.pop(old)
        before = old.parent.relative_to(self.root) if old.parent != new.parent else None
        self.steps.append(Name(new.parent.relative_to(self.root), old.name, new.name, number, before))

    def unlink(self, path: Path) -> None:
        self.fail("unlink")
        if not path.exists():
            return
        self.on_unlink(path)
        self._real["unlink"](path)
        self.steps.append(Name(path.parent.relative_to(self.root), path.name, None, self._files.pop(path)))

    def make_one_folder(self, folder: Path) -> None:
        self.fail("make_one_folder")
        self._real["make_one_folder"](folder)
        self.steps.append(Folder(folder.relative_to(self.root)))

    # ---- what a cut leaves

    def cuts(self) -> Iterator[int]:
        """Each number of steps after which the power may go; what the workload says after a step counts with it."""
        for at in range(len(self.steps) + 1):
            if at == len(self.steps) or not isinstance(self.steps[at], Mark):
                yield at

    def survivors(self, cut: int, dice: random.Random) -> Iterator[Tree]:
        """What a power cut after so many steps may leave."""
        sure: list[Step] = []
        doubtful: list[Step] = []
        order: dict[int, int] = {}  # {id of a step: its place}
        for at, step in enumerate(self.steps[:cut]):
            if isinstance(step, Sync | Mark):
                continue
            is_sure = self._is_covered(at, step, cut)
            for piece in _halves(step) if not is_sure else [step]:
                order[id(piece)] = len(order)
                (sure if is_sure else doubtful).append(piece)
        for chosen in _choices(doubtful, dice):
            yield self._build(sorted([*sure, *chosen], key=lambda s: order[id(s)]))
        if any(isinstance(step, Data) for step in doubtful):  # sizes, without what was written
            hollow = {id(s): Data(s.file, s.offset, bytes(len(s.data))) for s in doubtful if isinstance(s, Data)}
            everything = sorted([*sure, *doubtful], key=lambda s: order[id(s)])
            yield self._build([hollow.get(id(s), s) for s in everything])

    def _is_covered(self, at: int, step: Step, cut: int) -> bool:
        what: int | Path
        if isinstance(step, Data | Cut):
            what = step.file
        else:
            assert isinstance(step, Name | Folder)
            what = step.folder if isinstance(step, Name) else step.folder.parent
        first = next((s for s in self.steps[at:cut] if isinstance(s, Sync) and s.what == what), None)
        return first is not None and first.succeeded

    def _build(self, steps: Sequence[Step]) -> Tree:
        names = {folder: dict(entries) for folder, entries in self.names.items()}
        data = {number: bytearray(content) for number, content in self.base.items()}
        for step in steps:
            if isinstance(step, Data):
                content = data.setdefault(step.file, bytearray())
                content.extend(bytes(max(0, step.offset - len(content))))
                content[step.offset : step.offset + len(step.data)] = step.data
            elif isinstance(step, Cut):
                content = data.setdefault(step.file, bytearray())
                content.extend(bytes(max(0, step.size_bytes - len(content))))
                del content[step.size_bytes :]
            elif isinstance(step, Folder):
                names.setdefault(step.folder, {})
            elif isinstance(step, Name) and step.folder in names:  # else its folder itself is gone
                if step.old is not None:
                    names[step.before or step.folder].pop(step.old, None)
                if step.new is not None:
                    names[step.folder][step.new] = step.file
        return {
            folder: {name: bytes(data.get(number, b"")) for name, number in entries.items()}
            for folder, entries in names.items()
        }


def _halves(step: Step) -> list[Step]:
    """A write may reach the disk in part."""
    if not isinstance(step, Data) or len(step.data) < 2:
        return [step]
    at = len(step.data) // 2
    return [Data(step.file, step.offset, step.data[:at]), Data(step.file, step.offset + at, step.data[at:])]


def _choices(steps: list[Step], dice: random.Random) -> Iterator[list[Step]]:
    if len(steps) <= ALL_CHOICES:
        for count in range(len(steps) + 1):
            yield from map(list, itertools.combinations(steps, count))
        return
    yield []
    yield steps
    for at in range(len(steps)):
        yield [steps[at]]
        yield steps[:at] + steps[at + 1 :]
        yield steps[:at]  # in the order of the writes, up to some point
    for _ in range(RANDOM_CHOICES):
        yield [step for step in steps if dice.random() < 0.5]


def put_down(tree: Tree, root: Path) -> None:
    """Writes a survivor into an empty folder."""
    for folder in sorted(tree):
        (root / folder).mkdir(exist_ok=True, parents=True)
        for name, content in tree[folder].items():
            (root / folder / name).write_bytes(content)
