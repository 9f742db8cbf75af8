"""Names of threads: saved_cmdlines and saved_tgids. Pure.

    saved_cmdlines = *(PID " " COMM NL)      ; COMM: up to 15 bytes, any but NUL, newlines included
    saved_tgids    = *(SPACES PID SPACES TGID NL)

A process names itself, and may put a newline and something that looks like a line of its own into
its name. One line per thread is what the kernel prints, so a second line for a thread that would
still fit into the name before it is taken for a part of that name; a forged line for a thread that
has none of its own can't be told from a real one.

Source: kernel/trace/trace_sched_switch.c, saved_cmdlines_show(), saved_tgids_show().
"""

import re
from dataclasses import dataclass

SAVED_CMDLINES = "saved_cmdlines"  # how an archive's reader names this source

_COMM_MAX = 15  # bytes: TASK_COMM_LEN without the NUL
_LINE = re.compile(rb"(\d{1,10}) (.*)", re.DOTALL)


@dataclass(slots=True)
class _Line:
    raw: bytes
    pid: int | None  # None: the line doesn't start like one, so it goes on with the name before
    could_be_tail: bool  # would still fit into the name before it


def parse_saved_cmdlines(data: bytes) -> dict[int, bytes]:
    """Parse saved_cmdlines: {pid: name}.

    Names are bytes as the kernel has them: they need not be UTF-8.
    """
    lines = _split(data)
    counts: dict[int, int] = {}
    for line in lines:
        if line.pid is not None:
            counts[line.pid] = counts.get(line.pid, 0) + 1
    comms: dict[int, bytes] = {}
    last: int | None = None
    for line in lines:
        pid = line.pid
        forged = pid is not None and line.could_be_tail and counts[pid] > 1
        if pid is None or forged:
            if forged and pid is not None:
                counts[pid] -= 1
            if last is not None:
                comms[last] += b"\n" + line.raw
            continue
        comms[pid] = line.raw.partition(b" ")[2]
        last = pid
    return comms


def parse_saved_tgids(text: str) -> dict[int, int]:
    """Parse saved_tgids: {thread id: process id}. Threads whose process the kernel doesn't know (0) are left out."""
    tgids: dict[int, int] = {}
    for line in text.splitlines():
        parts = line.split()
        if len(parts) == 2 and all(map(_is_pid, parts)) and int(parts[1]):
            tgids[int(parts[0])] = int(parts[1])
    return tgids


def _is_pid(text: str) -> bool:
    return text.isdecimal() and len(text) <= 10


def _split(data: bytes) -> list[_Line]:
    lines: list[_Line] = []
    room = 0  # bytes that the name before could still hold
    for raw in data.removesuffix(b"\n").split(b"\n") if data else ():
        match = _LINE.fullmatch(raw)
        could_be_tail = bool(lines) and len(raw) + 1 <= room
        if match and len(match[2]) <= _COMM_MAX:
            lines.append(_Line(raw, int(match[1]), could_be_tail))
            # A line that may be a tail leaves the smaller room of the two readings, to stay careful.
            room = _COMM_MAX - len(match[2])
        else:
            lines.append(_Line(raw, None, could_be_tail))
            room -= len(raw) + 1
    return lines
