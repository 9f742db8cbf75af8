"""Makes durable what obstore writes into a folder: it syncs nothing, and a retention that waits for us believes us."""

import contextlib
import errno
import os
from pathlib import Path

from collector.archive import disk


def sync_object(root: Path, key: str) -> None:
    """Make an object durable: its content, its name, and the folders that were made for it.

    A file that could not be synced is removed: the kernel takes its pages for written from then on, so that another
    sync would say yes to what the disk does not have. It is put there again.

    Args:
      root: the store's folder, whose own name is durable.
    Raises:
      OSError
    """
    path = root / key
    try:
        _sync_file(path)
    except OSError:
        with contextlib.suppress(OSError):
            disk.unlink(path)
        raise
    for folder in path.parents:
        _sync_folder(folder)
        if folder == root:
            return


def _sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        disk.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(folder: Path) -> None:
    try:
        disk.fsync_folder(folder)
    except OSError as e:
        if e.errno not in (errno.EINVAL, errno.ENOTSUP):  # CIFS: the server has made a name when it answers
            raise
