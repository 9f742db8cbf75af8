"""Who it is that the kernel means with EBUSY: buffers that run a tracer, and users of an event."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from collector.control.neighbours import (
    PROC,
    list_instances,
    lock_key,
    read_comm,
    read_enabled,
    read_flocks,
    read_pipe_readers,
)
from collector.control.probing import read_triggers
from collector.control.wish import NO_TRACER, TRACER_FILE, InstanceSpec
from collector.errors import TracefsError
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import USER_GROUP, parse_dynamic_events
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir
from collector.tracefs.snapshots import SWAPPING_TRACERS, takes_on_condition
from collector.tracefs.tracers import family_of

TOP = ""  # as a name of a buffer

_PROFILE_FILE = "function_profile_enabled"
_USER_DATA = "user_events_data"  # programs that write user events have it open


def read_other_tracers(tree: TracefsDir, *, of_this_process: bool) -> dict[str, str]:
    """{buffer: its tracer} of all other buffers that have one; the top level's name is "".

    Args:
      of_this_process: also of those that this process has locked: they will be as its configuration says.
    """
    flocks = {} if of_this_process else read_flocks()
    found = {}
    for name, other in _buffers(tree.top):
        if other.path == tree.path or (not of_this_process and _holder(other, flocks) == os.getpid()):
            continue
        tracer = _read_tracer(other)
        if tracer != NO_TRACER:
            found[name] = tracer
    return found


def read_rival_tracers(tree: TracefsDir, spec: InstanceSpec) -> dict[str, str]:
    """The same, of other processes alone, and only where the spec's tracer doesn't run beside all others."""
    return read_other_tracers(tree, of_this_process=False) if family_of(spec.tracer) else {}


def place_of_buffer(name: str) -> str:
    """A buffer, in words."""
    return f"instance {name}" if name else "the top level"


def why_tracer_is_busy(tree: TracefsDir, tracer: str) -> str:
    """What keeps the kernel from setting a tracer, as far as it can be found, in words."""
    found = []
    family, flocks = family_of(tracer), read_flocks()
    for name, other in read_other_tracers(tree, of_this_process=True).items():
        if other in family:
            pid = _holder(tree.top.instance(name) if name else tree.top, flocks)
            held = "" if pid is None else f", which process {pid} ({read_comm(pid)}) holds"
            found.append(f"{place_of_buffer(name)} has the tracer {other}{held}")
    name = "" if tree is tree.top else tree.path.name
    readers = read_pipe_readers()[0] if tree.top.live else ()
    found += [f"process {r.pid} ({r.comm}) has a pipe of this buffer open" for r in readers if r.instance == name]
    if tracer in SWAPPING_TRACERS:
        lines = (line for lines in read_triggers(tree).values() for line in lines)
        found += [f"this buffer has the trigger {line}, which needs its second ring" for line in lines
                  if takes_on_condition(line)]  # fmt: skip
    if tracer == "function_graph" and (tree.top.try_read_text(_PROFILE_FILE) or "0").strip() != "0":
        found.append(f"{_PROFILE_FILE} is on, and before Linux 6.11 the kernel has one user of the graph at a time")
    if found:
        rule = f"one of {', '.join(sorted(family))} runs at a time: " if len(family) > 1 and len(found) == 1 else ""
        return rule + "; ".join(found)
    return "a pipe or a mapping of this buffer is open, or another buffer has a tracer of its kind"


def find_users(top: TracefsDir, event: EventName) -> list[str]:
    """Who uses an event that was made, in words; perf and bpf are not seen."""
    group, name = event
    found = [f"{place_of_buffer(buffer)}, where it is on" for buffer, tree in _buffers(top) if _is_on(tree, event)]
    for other in parse_dynamic_events(top.try_read_text(DYNAMIC_FILE) or ""):
        if other.line.startswith("e:") and re.search(rf"\s{re.escape(group)}[./]{re.escape(name)}(\s|$)", other.line):
            found.append(f"the probe {other.group}/{other.name}")
    if group == USER_GROUP:
        found += [f"process {pid} ({read_comm(pid)}), which may write it" for pid in _user_event_writers(top)]
    return found or _find_triggers(top, event)  # which are in thousands of files


def _is_on(tree: TracefsDir, event: EventName) -> bool:
    try:
        return event in read_enabled(tree)
    except TracefsError:
        return False  # it is being removed


def _find_triggers(top: TracefsDir, event: EventName) -> list[str]:
    """Triggers of the event, and histograms that feed it."""
    named = re.compile(rf"\b{re.escape(event[1])}\b")
    found = []
    for buffer, tree in _buffers(top):
        try:
            triggers = read_triggers(tree)
        except TracefsError:
            continue  # it is being removed
        for where, lines in triggers.items():
            if where == event or any(named.search(line.partition(":on")[2]) for line in lines):
                found.append(f"{place_of_buffer(buffer)}, by a trigger of {':'.join(where)}")
    return found


def _buffers(top: TracefsDir) -> Iterator[tuple[str, TracefsDir]]:
    yield TOP, top
    for name in list_instances(top):
        yield name, top.instance(name)


def _read_tracer(tree: TracefsDir) -> str:
    try:
        return (tree.try_read_text(TRACER_FILE) or NO_TRACER).strip()
    except TracefsError:
        return NO_TRACER  # it is being removed


def _holder(tree: TracefsDir, flocks: dict[str, int]) -> int | None:
    """The process that has a buffer locked."""
    try:
        return flocks.get(lock_key(os.stat(tree.path)))
    except OSError:
        return None


def _user_event_writers(top: TracefsDir, proc: Path = PROC) -> list[int]:
    """Processes that have the file of user events open; which events they write the kernel doesn't tell."""
    found = []
    for folder in proc.glob("[0-9]*"):
        try:
            links = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue  # it has ended, or may not be looked at
        if any(link.endswith(f"/{_USER_DATA}") for link in links):
            found.append(int(folder.name))
    return sorted(found) if top.live else []
