"""What the archive and the sinks do to a filesystem: one function for each step that a crash can come before or after.

What is written is durable when its file was synced, and a file's name when its folder was synced after it was made or
renamed; until then a crash of the machine may leave any part of it, in any order. Tests replace these functions to
crash between them, so both call them as `disk.NAME` and nothing of `os` that writes.
"""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

Bytes = bytes | memoryview


def create(path: Path) -> int:
    """Makes a file that is not there yet, and gives its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)


def open_again(path: Path) -> int:
    """Opens a file that is there, to read and write."""
    return os.open(path, os.O_RDWR | os.O_CLOEXEC)


def write(fd: int, parts: Sequence[Bytes]) -> int:
    """Writes at the descriptor's place, and gives how many bytes it took."""
    return os.writev(fd, parts)


def write_at(fd: int, data: Bytes, offset: int) -> int:
    """Writes at an offset, and gives how many bytes it took."""
    return os.pwrite(fd, data, offset)


def truncate(fd: int, size_bytes: int) -> None:
    os.ftruncate(fd, size_bytes)


def allocate(fd: int, size_bytes: int) -> None:
    """Gives the file blocks of the disk up to this size, and this size."""
    os.posix_fallocate(fd, 0, size_bytes)


def fdatasync(fd: int) -> None:
    """Makes what was written to the file durable."""
    os.fdatasync(fd)


def fsync(fd: int) -> None:
    """As fdatasync, with the file's times."""
    os.fsync(fd)


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: files made in it, renamed and removed."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def rename(old: Path, new: Path) -> None:
    os.rename(old, new)


def unlink(path: Path) -> None:
    """Removes a file; one that is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, each durably, where they are missing.

    One that is there may be of a process that was killed before it synced the name.
    """
    if folder.is_dir():
        with contextlib.suppress(OSError):  # who may not even read the folder above did not make this one
            fsync_folder(folder.parent)
        return
    make_folder(folder.parent)
    with contextlib.suppress(FileExistsError):
        make_one_folder(folder)
    fsync_folder(folder.parent)


def make_one_folder(folder: Path) -> None:
    os.mkdir(folder, 0o750)


def free_bytes(folder: Path) -> int:
    """What the folder's filesystem has left for users without privileges."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def replace_file(path: Path, data: bytes) -> None:
    """Makes or replaces a small file durably, so that at any moment the old or the new one is there, whole."""
    new = path.with_name(path.name + ".new")
    unlink(new)
    fd = create(new)
    try:
        write_whole(fd, data, 0)
        fsync(fd)
    finally:
        os.close(fd)
    rename(new, path)
    fsync_folder(path.parent)


def write_whole(fd: int, data: Bytes, offset: int) -> None:
    """Writes all of the data at an offset."""
    left = memoryview(data)
    while left:
        done = write_at(fd, left, offset)
        left, offset = left[done:], offset + done
