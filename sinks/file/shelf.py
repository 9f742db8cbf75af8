"""The sealed segments in the archive's folder: what they come to, removing those that go, and the disk's room."""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from collector.archive import disk
from collector.archive.pins import Pin, is_pinned, read_pins, read_removed_up_to, write_removed_up_to
from collector.archive.reserve import give_up_reserve, hold_reserve
from collector.archive.segment import SUFFIX, start_ns_of
from collector.errors import ArchiveError
from sinks.contract.base import Acknowledgements, Follower
from sinks.file.retention import Choice, Limits, Sealed, choose

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Room:
    """What the archive leaves to others."""

    min_free_bytes: int  # on the filesystem
    reserve_bytes: int = 0  # of the file that is given up so that a full disk stops neither sealing nor deleting


class Shelf:
    """Knows and removes sealed segments. All of its paths are in one folder.

    Args:
      acknowledgements: those that must have a segment before it goes.
      followers: those that are told when one goes.
    """

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        room: Room,
        acknowledgements: Sequence[Acknowledgements] = (),
        followers: Sequence[Follower] = (),
    ) -> None:
        self.segments: list[Sealed] = []  # oldest first
        self.removed = 0  # by retention, in this run
        self.pinned_bytes = 0
        self.waiting_bytes = 0  # of segments that would go, but are not acknowledged
        self.free_bytes: int | None = None  # on the filesystem, at the last look
        self._folder = folder
        self._limits = limits
        self._room = room
        self._acknowledgements = acknowledgements
        self._followers = followers

    @property
    def total_bytes(self) -> int:
        """Of all sealed segments."""
        return sum(segment.size_bytes for segment in self.segments)

    @property
    def newest_ns(self) -> int:
        """Wall time in the name of the newest segment, also of one that was removed; 0 without one.

        Segments up to a removed one's name are removed too: what is written behind it must not get an earlier name.
        """
        removed_ns = start_ns_of(Path(read_removed_up_to(self._folder))) or 0
        return max(removed_ns, *(segment.start_ns for segment in self.segments), 0)

    @property
    def oldest_ns(self) -> int | None:
        """Wall time at which the oldest segment began."""
        return self.segments[0].start_ns if self.segments else None

    def fill(self) -> None:
        """Look what the folder has."""
        self.segments = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # somebody removed it just now
            start_ns = start_ns_of(path)
            start_ns = stat.st_mtime_ns if start_ns is None else start_ns
            self.segments.append(Sealed(path, stat.st_size, start_ns, max(start_ns, stat.st_mtime_ns)))

    def add(self, segment: Sealed) -> None:
        """A segment was sealed, and is the newest."""
        self.segments.append(segment)

    def forget_gone(self) -> None:
        """The folder was removed, and with it segments."""
        self.segments = [segment for segment in self.segments if os.path.exists(segment.path)]

    def retain(self, open_bytes: int, now_ns: int) -> bool:
        """Remove what goes; False when the disk has too little room even then.

        Args:
          open_bytes: of the segment that is being written.
          now_ns: wall time.
        Raises:
          OSError: the folder is gone.
        """
        while True:
            self.free_bytes = disk.free_bytes(self._folder)
            missing_bytes = max(0, self._room.min_free_bytes - self.free_bytes)
            if not self._remove(self._choose(open_bytes, missing_bytes, now_ns)) or not missing_bytes:
                break
        return missing_bytes == 0

    def hold_reserve(self) -> None:
        """Make the reserve where there is none and there is room for it; archiving goes without."""
        try:
            hold_reserve(self._folder, self._room.reserve_bytes, self._room.min_free_bytes)
        except OSError as e:
            logger.warning("cannot make the archive's reserve of disk space", extra={"fields": {"error": str(e)}})

    def give_up_reserve(self) -> bool:
        """False when there was none."""
        given_up = give_up_reserve(self._folder)
        if given_up:
            logger.warning(
                "gave up the archive's reserve of disk space", extra={"fields": {"folder": str(self._folder)}}
            )
        return given_up

    def let_go(self) -> None:
        """Nothing is open any more: an archive that nobody writes needs no reserve."""
        give_up_reserve(self._folder)

    def _choose(self, open_bytes: int, missing_bytes: int, now_ns: int) -> Choice:
        pins: list[Pin] | None
        try:
            pins = read_pins(self._folder)
        except ArchiveError as e:
            logger.error("no segment is removed before this is put right", extra={"fields": {"error": str(e)}})
            pins = None
        choice = choose(
            self.segments,
            self._limits,
            open_bytes=open_bytes,
            missing_bytes=missing_bytes,
            now_ns=now_ns,
            removed_up_to=read_removed_up_to(self._folder),
            is_pinned=lambda segment: pins is None or is_pinned(pins, segment.start_ns, segment.end_ns),
            is_acknowledged=lambda segment: all(a.is_acknowledged(segment) for a in self._acknowledgements),
        )
        self.pinned_bytes, self.waiting_bytes = choice.pinned_bytes, choice.waiting_bytes
        return choice

    def _remove(self, choice: Choice) -> int:
        """Removes what was chosen; gives how many it was."""
        removed = 0
        try:
            if choice.passed_over:
                self._do(partial(write_removed_up_to, self._folder, choice.remove[-1].name))
            for segment in choice.remove:
                for follower in self._followers:  # before it is gone: who finds it missing has been told why
                    follower.note_removal(segment)
                self._do(partial(disk.unlink, segment.path))
                self.segments.remove(segment)
                removed += 1
                disk.fsync_folder(self._folder)  # else a crash could bring it back without the one that goes next
        except OSError as e:
            logger.error("cannot remove the oldest segments", extra={"fields": {"error": str(e)}})
        self.removed += removed
        return removed

    def _do(self, step: Callable[[], None]) -> None:
        """Takes a step that may need room on the disk; some filesystems need it to remove a file."""
        try:
            step()
        except OSError as e:
            if e.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.give_up_reserve():
                raise
            step()
