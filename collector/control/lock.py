"""Making an instance and holding it: one process per instance, by a flock on its folder.

The lock ends with the process, so a crash leaves nothing to clean up.
"""

import contextlib
import fcntl
import os
from pathlib import Path

from collector.control.neighbours import lock_key, read_comm, read_flocks
from collector.errors import InstanceBusyError, TracefsError, TracefsMissingError, TracefsPermissionError, UsageError
from collector.tracefs.files import ROOT_HINT, TracefsDir

_NAME_MAX = 128  # bytes; the kernel's limit is a file name's, this one keeps messages and labels readable
_LOCK_TRIES = 5  # each one means that another process removed the instance between our open and our lock


def check_name(name: str) -> None:
    if not name or name in (".", "..") or "/" in name or "\0" in name or len(os.fsencode(name)) > _NAME_MAX:
        raise UsageError(
            "not a name for an instance", where="instance name", expected=f"1 to {_NAME_MAX} bytes without a slash",
            got=repr(name),
        )  # fmt: skip


def make_and_lock(tree: TracefsDir) -> tuple[int, bool]:
    """Make the instance unless it exists, and lock it.

    Returns: (descriptor of its folder, flocked; whether it existed). Such a descriptor doesn't hinder rmdir.

    Raises:
      InstanceBusyError: another process holds the lock; it says which.
      TracefsPermissionError, TracefsMissingError, TracefsError: it can't be made.
    """
    for _ in range(_LOCK_TRIES):
        existed = _make(tree)
        try:
            fd = os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        _lock(fd, tree, "the instance is in use", "stop it, or give this one another instance name")
        # The one that was locked may have been removed in between, and another made.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(tree.path)):
                return fd, existed
        os.close(fd)
    raise InstanceBusyError(
        "the instance comes and goes", where=str(tree.path), got=f"removed by others {_LOCK_TRIES} times in a row"
    )


def lock_top_level(tree: TracefsDir) -> int:
    """Lock the top-level buffer.

    Returns: the descriptor of tracefs' folder, flocked.

    Raises:
      InstanceBusyError: another process holds the lock; it says which.
      TracefsPermissionError: the folder can't be opened.
    """
    try:
        fd = os.open(tree.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TracefsPermissionError(
            "tracefs can't be opened", where=str(tree.path), got=str(error), hint=ROOT_HINT
        ) from error
    _lock(fd, tree, "the top-level buffer is in use", "stop it: there is one top-level buffer")
    return fd


def find_holder(path: Path) -> str | None:
    """Who holds the lock of an instance or of the top level, in words; None: nobody, as far as /proc/locks shows."""
    try:
        return _find_holder(os.stat(path))
    except OSError:
        return None


def _lock(fd: int, tree: TracefsDir, what: str, hint: str) -> None:
    """Lock the open folder; closes it when that can't be."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = _find_holder(os.fstat(fd)) or "a process that /proc/locks doesn't show here"
        os.close(fd)
        raise InstanceBusyError(
            what, where=str(tree.path), expected="no other collector on it", got=f"a lock of {holder}", hint=hint
        ) from error


def _make(tree: TracefsDir) -> bool:
    """Make the instance; True when it existed."""
    try:
        os.mkdir(tree.path, 0o750)
    except FileExistsError:
        return True
    except PermissionError as error:
        raise TracefsPermissionError(
            "an instance can't be made", where=str(tree.path), got=str(error), hint=ROOT_HINT
        ) from error
    except FileNotFoundError as error:
        raise TracefsMissingError(
            "this kernel has no instances, or this is a recorded tree", where=str(tree.path), got=str(error)
        ) from error
    except OSError as error:
        raise TracefsError("an instance can't be made", where=str(tree.path), got=str(error)) from error
    return False


def _find_holder(status: os.stat_result) -> str | None:
    """Who holds the flock of that folder, in words."""
    pid = read_flocks().get(lock_key(status))
    return None if pid is None else f"process {pid} ({read_comm(pid)})"
