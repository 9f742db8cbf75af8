"""The archive's folder, locked for as long as somebody writes there, and made again where it was removed."""

from pathlib import Path

from collector.archive import disk
from collector.archive.lock import ArchiveLock
from collector.errors import ArchiveError, ArchiveFullError


class HeldFolder:
    """Makes and locks a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: ArchiveLock | None = None

    def hold(self) -> None:
        """Make the folder where it is missing, and lock it.

        Raises:
          ArchiveLockedError: another daemon writes here.
          ArchiveFullError: it cannot be made or written.
        """
        try:
            disk.make_folder(self.path)
            self._lock = ArchiveLock(self.path)
        except OSError as e:
            raise ArchiveFullError(
                f"cannot use the archive folder: {e.strerror}",
                where=str(self.path),
                hint="choose another with --output",
            ) from e

    def hold_again(self) -> bool:
        """Make and lock the folder again where it was removed; whether it was.

        Without the lock `recover` would seal what is being written, and a second daemon would start.

        Raises:
          ArchiveFullError: it cannot be made, or another daemon has it now.
        """
        if self._lock is None:
            return False
        try:
            if self._lock.path.exists():
                return False
            disk.make_folder(self.path)
            lock = ArchiveLock(self.path)
        except (OSError, ArchiveError) as e:
            raise ArchiveFullError(f"the archive folder was removed, and cannot be used again: {e}") from e
        self._lock.close()
        self._lock = lock
        return True

    def let_go(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
