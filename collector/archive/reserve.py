"""A file of free blocks in the archive's folder, given up when a full disk stands in the way of sealing or deleting."""

import contextlib
import os
from pathlib import Path

from collector.archive import disk

RESERVE_NAME = ".reserve"


def hold_reserve(folder: Path, size_bytes: int, leave_bytes: int) -> None:
    """Makes the reserve where it is missing, or of another size, and there is room.

    Args:
      size_bytes: 0 for none.
      leave_bytes: what must stay free beside it.
    Raises:
      OSError: but not for want of room.
    """
    path = folder / RESERVE_NAME
    try:
        held_bytes = path.stat().st_size
    except FileNotFoundError:
        held_bytes = 0
    if held_bytes == size_bytes:
        return
    give_up_reserve(folder)
    if disk.free_bytes(folder) < leave_bytes + size_bytes:
        return
    fd = disk.create(path)
    try:
        disk.allocate(fd, size_bytes)
    except OSError:
        give_up_reserve(folder)
    finally:
        os.close(fd)


def give_up_reserve(folder: Path) -> bool:
    """Gives the reserve's blocks back to the filesystem; False when there was none."""
    path = folder / RESERVE_NAME
    with contextlib.suppress(OSError):
        held = path.exists()
        disk.unlink(path)
        return held and not path.exists()
    return False
