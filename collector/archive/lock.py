"""The archive folder's lock: who writes here, and whether an open segment is being written or was left behind."""

import fcntl
import os
import sys
from pathlib import Path
from types import TracebackType

from collector.errors import ArchiveLockedError

LOCK_NAME = ".lock"


class ArchiveLock:
    """Holds the folder's lock until closed; the kernel lets go of it when the process dies.

    Raises:
      ArchiveLockedError: another process holds it.
      OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOCK_NAME
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip()
            os.close(fd)
            raise ArchiveLockedError(
                "another process writes this archive",
                where=str(folder),
                got=f"held by process {holder}" if holder else "held",
                hint="stop it, or use another --output",
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {' '.join(sys.argv)[:160]}\n".encode(errors="replace"), 0)

    def close(self) -> None:
        """Lets go; the file stays, since removing it would let two processes each lock a different one."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> "ArchiveLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def is_locked(folder: Path) -> bool:
    """Whether a live process writes this archive.

    Takes the lock shared for a moment, which needs only the right to read. False where there is no lock file.
    """
    try:
        fd = os.open(folder / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        return False  # then the segments cannot be read either, and that gives the better message
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
