"""A spool's segments, oldest first, and which of them go: what is acknowledged, and what must make room.

A segment goes when the receiver has acknowledged all of it; the cursor says how far that is. One with blocks that the
receiver will never take is kept apart, until its room is needed.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

from collector.archive.segment import SUFFIX
from sinks.network.backlog import START, Position
from sinks.spool.cursor import Cursor, write_cursor
from sinks.spool.rejected import FOLDER as REJECTED
from sinks.spool.rejected import Rejected
from sinks.spool.start import Left, remove
from sinks.spool.stored import Stored

logger = logging.getLogger(__name__)


class Segments:
    """See the module.

    Args:
      folder: of the spool.
    """

    def __init__(self, folder: Path) -> None:
        self.open: Stored | None = None  # the last one, while it is written
        self._folder = folder
        self._stored: deque[Stored] = deque()
        self._next_ident = 0
        self._sealed_bytes = 0
        self._rejected = Rejected(folder)
        self._acked = START
        self._cursor: Cursor | None = None  # as it is in the file

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[Stored]:
        return iter(self._stored)

    @property
    def closed_bytes(self) -> int:
        """On disk, without the open one; with those that are kept apart."""
        return self._sealed_bytes + self._rejected.size_bytes

    @property
    def has_sealed(self) -> bool:
        return len(self._stored) > (self.open is not None)

    @property
    def oldest(self) -> int:
        """Ident of the oldest one that is here."""
        return self._stored[0].ident if self._stored else self._next_ident

    def adopt(self, left: Left) -> None:
        """Take over what earlier runs have left."""
        self._rejected.adopt((self._folder / REJECTED).glob(f"*{SUFFIX}"))
        self._cursor = left.cursor
        self._stored.extend(left.segments)
        self._next_ident = len(left.segments)
        self._sealed_bytes = sum(of.size_bytes for of in left.segments)

    def begin(self, path: Path, run: bytes) -> None:
        """Add one that is written from now on."""
        self.open = Stored(self._next_ident, path, run)
        self._stored.append(self.open)
        self._next_ident += 1

    def seal(self, path: Path, size_bytes: int) -> None:
        """The open one has this name and size now, and nothing more is written to it."""
        assert self.open is not None
        self.open.path, self.open.size_bytes = path, size_bytes
        self._sealed_bytes += size_bytes
        self.open = None

    def forget_open(self) -> None:
        """The open one is gone."""
        self._stored.pop()
        self.open = None

    def clear(self) -> None:
        """Forget all: somebody has removed the folder."""
        self._stored.clear()
        self._sealed_bytes = 0
        self.open = None

    # ---- room

    def remove_rejected(self) -> bool:
        """Give up the oldest of those that are kept apart; False when there is none."""
        if not self._rejected:
            return False
        remove(self._rejected.pop_oldest())
        return True

    def pop_oldest(self) -> Stored:
        """Give the oldest sealed one, which does not count any more; its file is the caller's to remove."""
        stored = self._stored.popleft()
        self._sealed_bytes -= stored.size_bytes
        return stored

    # ---- acknowledged

    def is_acknowledged(self, stored: Stored) -> bool:
        """Whether the receiver has all of it, up to now."""
        return self._acked >= (stored.ident, stored.end)

    def acknowledge(self, position: Position, rejected: Sequence[Position]) -> None:
        """Keep what was rejected, write the cursor, and remove the segments before it."""
        refused = {place.segment for place in rejected}
        for stored in self._stored:
            stored.rejected |= stored.ident in refused
        self._acked = max(self._acked, position)
        at = next((stored for stored in self._stored if stored.ident == self._acked.segment), None)
        gone = []  # acknowledged as a whole
        while self.has_sealed and self.is_acknowledged(self._stored[0]):
            gone.append(self.pop_oldest())
        for stored in gone:
            if stored.rejected:  # first of all: what is before the cursor is removed by the next start
                self._rejected.keep(stored.path, stored.size_bytes)
        if at is not None:
            self._write_cursor(Cursor(at.path.name.removesuffix(".part"), self._acked.offset))
        for stored in gone:
            if not stored.rejected:
                remove(stored.path)

    def _write_cursor(self, cursor: Cursor) -> None:
        if cursor != self._cursor:
            try:
                write_cursor(self._folder, cursor)
                self._cursor = cursor
            except OSError as e:
                # The next one may succeed; until then a restart would send more again than it need.
                logger.warning("cannot write a spool's cursor", extra={"fields": {"error": str(e)}})
