"""Who is tracing on this machine: the state of every buffer, who holds it, and who has its pipes open."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from collector.control.probing import count_unread
from collector.errors import TracefsError, TracefsFormatError, TracefsMissingError
from collector.tracefs.events import EventName
from collector.tracefs.facts import NeighbourFacts, PipeReader, TracingState
from collector.tracefs.files import TracefsDir

PROC = Path("/proc")

_PIPE = re.compile(r"(?:/instances/([^/]+))?(?:/per_cpu/cpu\d+)?/trace_pipe(?:_raw)?$")
_INSTANCES = "instances"


def read_neighbours(tracefs: TracefsDir, proc: Path = PROC) -> NeighbourFacts:
    """Everything that can be seen of other users, without touching what they do."""
    readers, hidden = read_pipe_readers(proc)
    dynamic = tracefs.try_read_text("dynamic_events") or ""
    return NeighbourFacts(
        states=read_states(tracefs, proc),
        readers=readers,
        hidden_processes=hidden,
        dynamic_events=sum(1 for line in dynamic.splitlines() if line.strip()),
    )


def list_instances(tracefs: TracefsDir) -> list[str]:
    """Names of the instances, sorted; [] where the kernel has none."""
    try:
        return tracefs.list_names(_INSTANCES)
    except TracefsMissingError:
        return []


def read_states(tracefs: TracefsDir, proc: Path = PROC) -> tuple[TracingState, ...]:
    """The state of the top level and of each instance; one that is removed meanwhile is left out."""
    holders = read_flocks(proc)
    states: list[TracingState] = []
    for name in ("", *list_instances(tracefs)):
        tree = tracefs.instance(name) if name else tracefs
        try:
            states.append(_read_state(tree, name, holders, proc))
        except TracefsError:
            if name and not tree.exists(""):
                continue
            raise
    return tuple(states)


def read_enabled(tree: TracefsDir) -> list[EventName]:
    """The events that are on in one buffer."""
    return parse_enabled(tree.try_read_text("set_event") or "")


def parse_enabled(text: str) -> list[EventName]:
    """Parse set_event: a line `SYSTEM:EVENT` for each event that is on; `:mod:NAME` lines wait for a module."""
    pairs = (line.strip().split(":", 1) for line in text.splitlines() if ":" in line)
    return [(system, name) for system, name in pairs if system]


def parse_flocks(text: str) -> dict[str, int]:
    """Parse /proc/locks: {"MAJOR:MINOR:INODE" of a flocked file: the process that holds it}.

    Lines with an arrow wait for the lock and hold none.
    """
    held: dict[str, int] = {}
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[4].lstrip("-").isdecimal():
            held[fields[5]] = int(fields[4])
    return held


def lock_key(status: os.stat_result) -> str:
    """How /proc/locks names a file."""
    return f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"


def read_flocks(proc: Path = PROC) -> dict[str, int]:
    """What is locked now, as `parse_flocks` has it; {} where nobody may see it."""
    try:
        return parse_flocks((proc / "locks").read_text())
    except OSError:
        return {}


def parse_pipe_target(target: str) -> str | None:
    """The instance whose pipe a link in /proc/PID/fd names, "" for the top level; None: it is no such pipe."""
    found = _PIPE.search(target)
    return None if found is None else found[1] or ""


def read_pipe_readers(proc: Path = PROC) -> tuple[tuple[PipeReader, ...], int]:
    """(processes other than this one that have a pipe of a buffer open, how many don't show their files)."""
    found: dict[tuple[int, str], int] = {}  # {(pid, instance): open pipes}
    hidden = 0
    for pid in _pids(proc):
        if pid == os.getpid():
            continue
        try:
            descriptors = os.listdir(proc / str(pid) / "fd")
        except PermissionError:
            hidden += 1
            continue
        except OSError:  # it has ended
            continue
        for descriptor in descriptors:
            try:
                instance = parse_pipe_target(os.readlink(proc / str(pid) / "fd" / descriptor))
            except OSError:
                continue
            if instance is not None:
                found[pid, instance] = found.get((pid, instance), 0) + 1
    return tuple(PipeReader(pid, read_comm(pid, proc), name, count) for (pid, name), count in found.items()), hidden


def read_comm(pid: int, proc: Path = PROC) -> str:
    """A process's name, "?" when it is gone."""
    try:
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    except OSError:
        return "?"


def _read_state(tree: TracefsDir, name: str, holders: dict[str, int], proc: Path) -> TracingState:
    try:
        pid = holders.get(lock_key(os.stat(tree.path)))
    except OSError:
        pid = None  # it goes, as the next read will say
    return TracingState(
        name=name,
        tracer=(tree.try_read_text("current_tracer") or "nop").strip(),
        clock=tree.read_clock()[0],
        tracing_on=tree.read_text("tracing_on").strip() == "1",
        events=len(read_enabled(tree)),
        buffer_kb=_first_number(tree.try_read_text("buffer_size_kb") or ""),
        subbuf_kb=_subbuf_kb(tree),
        unread=count_unread(tree),
        holder=None if pid is None else f"{read_comm(pid, proc)} ({pid})",
        holder_pid=pid,
    )


def _subbuf_kb(tree: TracefsDir) -> int | None:
    try:
        return tree.read_layout().subbuf_size // 1024
    except (TracefsFormatError, TracefsMissingError):
        return None


def _first_number(text: str) -> int | None:
    """`7 (expanded: 1408)` is 7; `X`, which means that CPUs differ, is None."""
    word = next(iter(text.split()), "")
    return int(word) if word.isdecimal() and len(word) < 16 else None


def _pids(proc: Path) -> Iterable[int]:
    try:
        return sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError:
        return []
