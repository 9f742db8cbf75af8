"""Whether the disk has room for what a sender brings."""

import os
from pathlib import Path

from collector.archive.segment import disk_error
from collector.errors import ArchiveFullError


class NoRoomError(ArchiveFullError):
    """Less is free on the disk than has to stay free; nothing was touched."""


def check_room(folder: Path, min_free_bytes: int) -> None:
    """Look before anything is opened or written.

    Args:
      folder: need not be there: it is made where there is room.
    Raises:
      NoRoomError: too little is free.
      ArchiveFullError: nobody can say how much.
    """
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        stat = os.statvfs(there)
    except OSError as e:
        raise disk_error(there, e, "look at the folder") from e
    free_bytes = stat.f_bavail * stat.f_frsize
    if free_bytes < min_free_bytes:
        raise NoRoomError(
            "the disk has no room", where=str(folder), expected=f"{min_free_bytes} bytes free", got=str(free_bytes),
            hint="free space; the sender keeps what it has and tries again",
        )  # fmt: skip
