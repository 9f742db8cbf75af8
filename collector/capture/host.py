"""What /proc says that names need: threads that are alive, and the modules that are loaded."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")

_INITIAL_PID_NAMESPACE = 4026531836  # PROC_PID_INIT_INO of include/linux/proc_ns.h
_COMM_BYTES = 15
_KTHREADD = 2

# A kernel worker's file has what it works on behind its name: "kworker/1:2-events".
_WORKER = re.compile(rb"kworker/u?\d+:\d+[A-Z]?")


def reads_kernel_pids(proc: Path) -> bool:
    """Whether ids there are those of the trace, which are of the initial pid namespace."""
    try:
        return (proc / "self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE and (
            os.readlink(proc / "self") == str(os.getpid())
        )
    except OSError:
        return False


def read_threads(proc: Path, pids: Iterable[int]) -> dict[int, tuple[bytes, int]]:
    """{thread id: (name, process id)} of those that live; their names as of now."""
    found = {}
    for pid in pids:
        try:
            comm = (proc / str(pid) / "comm").read_bytes()
            status = (proc / str(pid) / "status").read_bytes()
        except OSError:  # it has ended, or is hidden from us
            continue
        tgid, parent = _parse_number(status, b"Tgid:"), _parse_number(status, b"PPid:")
        if tgid is not None:
            found[pid] = parse_comm(comm, is_kernel=_KTHREADD in (pid, parent)), tgid
    return found


def parse_comm(data: bytes, *, is_kernel: bool) -> bytes:
    """Parse /proc/PID/comm: the name as records have it. It may contain newlines of its own."""
    comm = data.removesuffix(b"\n")
    worker = _WORKER.match(comm) if is_kernel else None
    return worker[0] if worker else comm[:_COMM_BYTES]


def read_modules(proc: Path) -> frozenset[tuple[bytes, ...]]:
    """(name, size, state, address) of each module; empty where the file can't be read."""
    try:
        lines = (proc / "modules").read_bytes().splitlines()
    except OSError:
        return frozenset()
    rows = (line.split() for line in lines)
    # How often a module is used changes all the time.
    return frozenset((row[0], row[1], row[4], row[5]) for row in rows if _is_module(row))


def _is_module(row: list[bytes]) -> bool:
    return len(row) > 5 and row[1].isdigit() and re.fullmatch(rb"0x[0-9a-f]{1,16}", row[5]) is not None


def _parse_number(status: bytes, key: bytes) -> int | None:
    """The number behind a key of /proc/PID/status; the name stands there escaped, so it can't forge a line."""
    at = status.find(b"\n" + key)
    words = status[at + 1 + len(key) : at + 40].split(None, 1) if at >= 0 else []
    return int(words[0]) if words and words[0].isdigit() else None
