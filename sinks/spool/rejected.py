"""Segments with blocks that a receiver will never take: kept until their room is needed."""

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from collector.archive import disk

logger = logging.getLogger(__name__)

FOLDER = "rejected"


class Rejected:
    """The folder of them, in a spool's.

    Args:
      folder: of the spool.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER
        self._files: deque[tuple[Path, int]] = deque()  # (file, size in bytes), oldest first

    def __bool__(self) -> bool:
        return bool(self._files)

    @property
    def size_bytes(self) -> int:
        return sum(size_bytes for _, size_bytes in self._files)

    def adopt(self, paths: Iterable[Path]) -> None:
        """Take over what earlier runs have kept."""
        self._files.extend((path, path.stat().st_size) for path in sorted(paths))

    def keep(self, path: Path, size_bytes: int) -> None:
        """Move a segment here, durably; one that can't be moved stays where it is."""
        kept = self._folder / path.name
        try:
            disk.make_folder(self._folder)
            disk.rename(path, kept)
            disk.fsync_folder(self._folder)
        except OSError as e:
            logger.error("cannot keep a segment with rejected blocks",
                         extra={"fields": {"path": str(path), "error": str(e)}})  # fmt: skip
            return
        self._files.append((kept, size_bytes))

    def pop_oldest(self) -> Path:
        """Gives the file that goes first."""
        return self._files.popleft()[0]
