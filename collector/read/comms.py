"""Which name a thread had, and which process it was of, at the time of an event.

A record has a thread's id alone. Its name comes from, in this order:

1. the events of the same segment that mention it: the last mention before, or at the latest then; where there is none
   before, the next one behind, unless a birth lies between (the id then was another thread's);
2. the names that the capture saved for the blocks from there on: saved_cmdlines, then /proc.

Looked up per block: few threads change their names while a block lasts, all others cost one lookup.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from collector.archive.block import PickedFields
from collector.tracefs.cmdlines import SAVED_CMDLINES

EVENT, SAVED, PROC = "event", SAVED_CMDLINES, "proc"

IDLE = b"<idle>"

_RENAME = "task:task_rename"
_NEWTASK = "task:task_newtask"
_FORK = "sched:sched_process_fork"
_EXEC = "sched:sched_process_exec"
_CLONE_THREAD = 0x00010000

# {event: (field of the thread's id, field of its name)}. Not sched_process_wait, which has the id of another thread
# than the name, nor sched_process_free: by then the id may be a new thread's.
_MENTIONS = {
    "sched:sched_switch": (("prev_pid", "prev_comm"), ("next_pid", "next_comm")),
    "sched:sched_wakeup": (("pid", "comm"),),
    "sched:sched_wakeup_new": (("pid", "comm"),),
    "sched:sched_waking": (("pid", "comm"),),
    "sched:sched_process_exit": (("pid", "comm"),),
    _FORK: (("parent_pid", "parent_comm"), ("child_pid", "child_comm")),
    _NEWTASK: (("pid", "comm"),),
}

# {event: fields}: what must be decoded of a segment.
WANTED: dict[str, tuple[str, ...]] = {
    **{event: tuple(name for pair in pairs for name in pair) for event, pairs in _MENTIONS.items()},
    _NEWTASK: ("pid", "comm", "clone_flags"),
    _RENAME: ("pid", "oldcomm", "newcomm"),
    _EXEC: ("pid",),
}


# Events whose times always matter; a block without them seldom has a thread that changes its name.
CHANGES = frozenset({_RENAME, _NEWTASK, _FORK, _EXEC})


@dataclass(frozen=True, slots=True)
class Thread:
    """What is known of a thread at one moment."""

    comm: bytes | None  # up to 15 bytes of any kind but NUL
    source: str | None  # EVENT, SAVED, PROC; None: no name, or the idle thread
    tgid: int | None


@dataclass(slots=True)
class Saved:
    """Names that the capture stored: {pid: [(offset of the object in the segment, value)]}."""

    comms: dict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    proc_comms: dict[int, list[tuple[int, bytes]]] = field(default_factory=lambda: defaultdict(list))
    tgids: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


@dataclass(slots=True)
class _Line:
    """The names of one thread over time."""

    times: list[int]
    comms: list[bytes | None]  # from that time on; None: renamed, to what no event says
    born: bool  # begins with the thread's birth


class Mentions:
    """The names that the events of a segment tell, of all its streams whose clocks compare."""

    def __init__(self) -> None:
        self._points: dict[int, list[tuple[int, bytes | None]]] = defaultdict(list)
        self._names: dict[int, set[bytes]] = defaultdict(set)  # of blocks whose times were not looked at
        self._births: dict[int, list[int]] = defaultdict(list)
        self._tasks: list[tuple[int, int, int, bool]] = []  # (ts, pid, creator, is a thread of the creator's process)
        self._execs: list[tuple[int, int]] = []  # (ts, pid)
        self._tgids: dict[int, list[tuple[int, int | None]]] = {}
        self._lines: dict[int, _Line] = {}
        self._renames = False  # task_rename is recorded: an exec says nothing that it does not

    def add(self, fields: PickedFields, only: Collection[int] | None = None) -> None:
        """Takes one event's entries of one block, with their times.

        Args:
          only: of these threads, each mention.
        """
        name, columns, times = fields.format.full_name, fields.columns, fields.ts
        if times is None or any(wanted not in columns for wanted in WANTED[name]):
            return  # a kernel whose format has other fields
        for pid_field, comm_field in _MENTIONS.get(name, ()):
            if only is None:
                self._add_mentions(times, columns[pid_field], columns[comm_field])
            else:
                for ts, pid, comm in zip(times, columns[pid_field], columns[comm_field], strict=True):
                    if pid in only:
                        self._points[pid].append((ts, _cut(comm)))
        if only is not None:
            return
        if name == _RENAME:
            self._renames = True
            for ts, pid, old, new in zip(times, *map(columns.__getitem__, WANTED[name]), strict=True):
                self._points[pid] += ((ts, _cut(old)), (ts + 1, _cut(new)))  # traced before the name is set
        elif name == _EXEC:
            self._execs += zip(times, columns["pid"], strict=True)
        elif name == _NEWTASK and fields.pid is not None:
            rows = zip(times, columns["pid"], fields.pid, columns["clone_flags"], strict=True)
            self._tasks += [(ts, pid, creator, bool(flags & _CLONE_THREAD)) for ts, pid, creator, flags in rows]
        if name in (_NEWTASK, _FORK):
            for ts, pid in zip(times, columns["pid" if name == _NEWTASK else "child_pid"], strict=True):
                self._births[pid].append(ts)

    def add_names(self, fields: PickedFields) -> set[int]:
        """Takes one event's entries of one block without their times; gives the threads they mention."""
        pids = set()
        for pid_field, comm_field in _MENTIONS.get(fields.format.full_name, ()):
            if pid_field in fields.columns and comm_field in fields.columns:
                for pid, comm in set(zip(fields.columns[pid_field], fields.columns[comm_field], strict=True)):
                    self._names[pid].add(_cut(comm))
                    pids.add(pid)
        return pids

    def find_changing(self) -> set[int]:
        """Gives the threads whose names differ over the segment: where they were mentioned, times matter."""
        changing = {pid for pid, points in self._points.items() if len({comm for _, comm in points}) > 1}
        changing |= {pid for pid, names in self._names.items() if len(names) > 1}
        changing |= {
            pid for pid, names in self._names.items() if pid in self._points and self._points[pid][0][1] not in names
        }
        return (changing | self._births.keys() | {pid for _, pid in self._execs}) - {0}

    def find_returning(self) -> dict[int, tuple[int, int]]:
        """Gives the threads that seem to have had a name twice, with another one between, and from when to when.

        There each mention matters: those between the first and the last of a row were left out. Where renames are
        recorded they say it all.
        """
        found: dict[int, tuple[int, int]] = {}
        if self._renames:
            return found
        for pid, points in self._points.items():
            points.sort(key=itemgetter(0))
            changes = [at for at in range(1, len(points)) if points[at][1] != points[at - 1][1]]
            if pid and len(changes) + 1 > len({comm for _, comm in points}):
                found[pid] = points[changes[0] - 1][0], points[changes[-1]][0]
        return found

    def _add_mentions(self, times: Sequence[int], pids: Sequence[int], comms: Sequence[bytes]) -> None:
        """Keeps, of a row of mentions by one name, the first and the last."""
        last: dict[int, tuple[int, int, bytes]] = {}
        points = self._points
        for row in zip(times, pids, comms, strict=True):
            before = last.get(row[1])
            if before is None or before[2] != row[2]:
                if before is not None:
                    points[row[1]].append((before[0], _cut(before[2])))
                points[row[1]].append((row[0], _cut(row[2])))
            last[row[1]] = row
        for ts, pid, comm in last.values():
            points[pid].append((ts, _cut(comm)))

    def finish(self, tgid_of: Callable[[int], int | None]) -> None:
        """Brings what was added into order; nothing may be added afterwards.

        Args:
          tgid_of: the process of a thread that no event tells.
        """
        for ts, pid in () if self._renames else self._execs:
            self._points[pid].append((ts, None))
        for pid, names in self._names.items():
            if pid not in self._points:
                self._points[pid] = [(0, next(iter(names)))]
        self._points.pop(0, None)
        for pid, points in self._points.items():
            self._lines[pid] = _draw_line(points, self._births.get(pid, ()))
        self._points.clear()
        self._names.clear()
        self._find_tgids(tgid_of)

    def _find_tgids(self, tgid_of: Callable[[int], int | None]) -> None:
        found = self._tgids
        rows: list[tuple[int, int, int | None]] = [(ts, pid, None) for ts, pid in self._execs]
        rows += [(ts, pid, creator if is_thread else None) for ts, pid, creator, is_thread in self._tasks]
        born = {pid for _, pid, _, _ in self._tasks}
        for ts, pid, creator in sorted(rows, key=itemgetter(0)):
            tgid: int | None = pid  # a process of its own, or a thread that has become its process by exec
            if creator is not None:
                known = found.get(creator)
                tgid = known[-1][1] if known else tgid_of(creator)
            # Before a birth the id was another thread's; before an exec the leader's, as behind it.
            found.setdefault(pid, [(0, None if pid in born else pid)]).append((ts, tgid))

    def times(self, pid: int) -> list[int]:
        """Gives when the name or the process of a thread changes."""
        line = self._lines.get(pid)
        return sorted([*(line.times if line is not None else ()), *(ts for ts, _ in self._tgids.get(pid, ()))])

    def comm(self, pid: int, low: int, high: int) -> tuple[bytes | None, bool]:
        """Gives the name from low to high, and whether it is the same all that time; None: no event tells it."""
        line = self._lines.get(pid)
        if line is None:
            return None, True
        at = bisect_right(line.times, low) - 1
        if at < 0:
            comm = None if line.born else line.comms[0]
            steady = line.times[0] > high or not line.born
            at = 0
        else:
            comm, steady = line.comms[at], True
        return comm, steady and (at + 1 >= len(line.times) or line.times[at + 1] > high)

    def tgid(self, pid: int, ts: int) -> tuple[bool, int | None]:
        """Gives whether events tell the process of a thread, and which it is then."""
        known = self._tgids.get(pid)
        if known is None:
            return False, None
        return True, known[bisect_right(known, ts, key=itemgetter(0)) - 1][1]


def _cut(comm: bytes) -> bytes:
    """Fields are of 16 bytes or as long as the name: compare what is before the NUL."""
    return comm.partition(b"\0")[0]


def _draw_line(points: list[tuple[int, bytes | None]], births: Iterable[int]) -> _Line:
    """Orders points by time and leaves out those that change nothing."""
    points.sort(key=itemgetter(0))
    born = set(births)
    # An unknown name is the one that is mentioned next, if the thread lives until then.
    comms = [comm for _, comm in points]
    for at in range(len(points) - 1):
        if comms[at] is None and points[at + 1][0] not in born:
            comms[at] = comms[at + 1]
    line = _Line([], [], bool(points) and points[0][0] in born)
    for (ts, _), comm in zip(points, comms, strict=True):
        if not line.times or line.comms[-1] != comm:
            line.times.append(ts)
            line.comms.append(comm)
    return line


class Threads:
    """The threads of one block.

    Args:
      mentions: of the segment; None where its events tell no names.
      saved: of the segment.
      offset: of the block.
    """

    def __init__(self, mentions: Mentions | None, saved: Saved, offset: int) -> None:
        self._mentions = mentions
        self._saved = saved
        self._offset = offset

    def over(self, pid: int, low: int, high: int) -> Thread | None:
        """Gives what is known of a thread from low to high; None where its name changes between them."""
        if pid == 0:
            return Thread(IDLE, None, None)
        comm: bytes | None = None
        tgid: int | None = None
        told = False
        if self._mentions is not None:
            comm, steady = self._mentions.comm(pid, low, high)
            if not steady:
                return None
            told, tgid = self._mentions.tgid(pid, low)
            if told and self._mentions.tgid(pid, high)[1] != tgid:
                return None
        source: str | None = EVENT
        if comm is None:
            comm, source = self._find_saved(pid)
        if not told:
            tgid = _at_offset(self._saved.tgids, pid, self._offset)
        return Thread(comm, source, tgid)

    def steps(self, pid: int, low: int, high: int) -> list[tuple[int, Thread]]:
        """Gives (from when on, what is known then) of a thread, from low to high."""
        times = [] if self._mentions is None else self._mentions.times(pid)
        starts = [low, *(ts for ts in times if low < ts <= high)]
        found = [(ts, self.over(pid, ts, ts)) for ts in starts]
        return [(ts, thread) for ts, thread in found if thread is not None]  # nothing changes within one moment

    def _find_saved(self, pid: int) -> tuple[bytes | None, str | None]:
        for of, source in ((self._saved.comms, SAVED), (self._saved.proc_comms, PROC)):
            comm = _at_offset(of, pid, self._offset)
            if comm is not None:
                return comm, source
        return None, None


def _at_offset(of: dict[int, list[tuple[int, Any]]], pid: int, offset: int) -> Any:
    """Gives the value that holds for a block at this offset: of the last object before it, else of the first one."""
    known = of.get(pid)
    if not known:
        return None
    return known[max(bisect_left(known, offset, key=itemgetter(0)) - 1, 0)][1]
