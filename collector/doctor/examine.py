"""What `doctor` does: looks at the kernel, at the disk and at the network for one configuration, and judges."""

import errno
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from collector.archive.lock import LOCK_NAME, is_locked
from collector.config.models import Config
from collector.config.text import split_listen
from collector.config.trace import TraceConfig
from collector.control.desired import preview
from collector.control.journal import Journals
from collector.control.leftovers import find_leftovers
from collector.control.neighbours import read_neighbours
from collector.doctor.demands import SHARED_SETTINGS
from collector.doctor.judge import Report, judge
from collector.doctor.survey import SYSTEM, Roots, parse_mount, read_host, read_mount, read_tree, remove_orphans
from collector.errors import CollectorError
from collector.tracefs.facts import OK, Facts, NeighbourFacts, PlaceFacts, PlanFacts, Wanted
from collector.tracefs.files import TracefsDir

# {kind of a probe, as its line begins: capability}
_PROBE_NEEDS = {
    "p": "kprobe", "r": "kprobe", "f": "fprobe", "t": "tprobe", "u": "uprobe", "ur": "uprobe", "e": "eprobe",
    "s": "synthetic", "user": "user_events",
}  # fmt: skip
# {command of a trigger: capability}; the others need nothing
_TRIGGER_NEEDS = {
    "hist": "histogram triggers", "enable_hist": "histogram triggers", "disable_hist": "histogram triggers",
    "snapshot": "snapshot",
}  # fmt: skip


def examine(config: Config) -> Report:
    """Everything about this machine that the configuration needs.

    Raises:
      TracefsError: a file of tracefs can't be read although tracefs can, or the probing instance stays behind.
    """
    mount = read_mount()
    tree, neighbours, plans = None, NeighbourFacts(), dict[str, PlanFacts]()
    if mount.path is not None and mount.access == OK:
        tracefs = TracefsDir(Path(mount.path))
        remove_orphans(tracefs)
        journals = Journals.of_system()
        leftovers = find_leftovers(tracefs, journals)
        neighbours = replace(read_neighbours(tracefs), leftovers=leftovers)
        with _exit_on_terminate():
            tree = read_tree(tracefs)
        plans = {trace.instance: _plan(trace, tracefs, journals) for trace in config.instances()}
    facts = Facts(read_host(), mount, tree, neighbours, read_place(config), plans)
    return judge(facts, wants_of(config))


def wants_of(config: Config) -> tuple[Wanted, ...]:
    """What each instance of the configuration needs of the kernel."""
    return tuple(_wanted(trace) for trace in config.instances())


def read_place(config: Config, roots: Roots = SYSTEM) -> PlaceFacts:
    """The archive's folder and the address of the metrics; nothing is made."""
    folder = Path(config.archive.folder).absolute()
    nearest = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    size_bytes = free_bytes = 0
    access = _folder_access(folder, nearest)
    try:
        status = os.statvfs(nearest)
        size_bytes, free_bytes = status.f_frsize * status.f_blocks, status.f_frsize * status.f_bavail
        if status.f_flag & os.ST_RDONLY:
            access = "EROFS"
    except OSError as error:
        access = errno.errorcode.get(error.errno or 0, str(error))
    return PlaceFacts(
        folder=str(folder),
        folder_access=access,
        filesystem=_filesystem(nearest, roots),
        free_bytes=free_bytes,
        size_bytes=size_bytes,
        min_free_bytes=config.archive.min_free_of(size_bytes),
        locked_by=_archive_writer(folder),
        listen=config.http.listen,
        listen_access=_try_listen(config.http.listen) if config.http.listen else OK,
    )


def _wanted(trace: TraceConfig) -> Wanted:
    return Wanted(
        instance=trace.instance,
        events=trace.events,
        clock=trace.clock or "",
        buffer_kb=trace.buffer_size_kb,
        subbuf_kb=trace.subbuf_size_kb,
        cpu_buffers_kb=trace.buffer_size_kb_per_cpu,
        cpus=trace.cpus,
        tracer=trace.tracer,
        text=trace.read in ("text", "text-merged"),
        snapshot=trace.read == "snapshot",
        options=tuple(trace.options),
        needs=tuple(_needs(trace)),
        shared=tuple(key for key in SHARED_SETTINGS if getattr(trace, key) is not None),
        allow_top_level=trace.allow_top_level,
        exclude_self=trace.exclude_self,
        top_level=trace.top_level_buffer,
    )


def _needs(trace: TraceConfig) -> Iterator[str]:
    """Names of the capabilities that single settings need."""
    if trace.functions or trace.notrace_functions:
        yield "function filters"
    if trace.graph_functions or trace.graph_notrace_functions or trace.max_graph_depth is not None:
        yield "graph filters"
    if trace.function_pids or trace.notrace_function_pids:
        yield "function threads"
    if trace.stack_tracer:
        yield "stack tracer"
    for probe in trace.probes:
        yield _PROBE_NEEDS[probe.partition(":")[0].strip().rstrip("0123456789")]
    for lines in trace.triggers.values():
        commands = [re.split(r"[:\s]", line.strip(), maxsplit=1)[0] for line in lines]
        yield from (_TRIGGER_NEEDS[command] for command in commands if command in _TRIGGER_NEEDS)


def _plan(trace: TraceConfig, tracefs: TracefsDir, journals: Journals) -> PlanFacts:
    try:
        return PlanFacts(len(preview(trace, tracefs, journals)))
    except CollectorError as error:
        return PlanFacts(refusal=str(error))


def _folder_access(folder: Path, nearest: Path) -> str:
    if not nearest.is_dir():
        return "ENOTDIR"
    return OK if os.access(nearest, os.W_OK | os.X_OK) else "EACCES"


def _filesystem(path: Path, roots: Roots) -> str:
    try:
        mounts = (roots.proc / "self/mounts").read_text(errors="surrogateescape")
    except OSError:
        return "?"
    mount = parse_mount(mounts, str(path.resolve()))
    return "?" if mount is None else mount.filesystem


def _archive_writer(folder: Path) -> int | None:
    """The process that writes the archive, 0 for one that doesn't say; None: nobody does."""
    if not is_locked(folder):
        return None
    try:
        words = (folder / LOCK_NAME).read_text(errors="replace").split()
    except OSError:
        words = []
    return int(words[0]) if words and words[0].isdecimal() else 0


def _try_listen(listen: str) -> str:
    """Bind the address for a moment."""
    host, port = split_listen(listen)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except socket.gaierror as error:
        return error.strerror or "unknown name"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return OK


@contextmanager
def _exit_on_terminate() -> Iterator[None]:
    """SIGTERM ends this process in order while an instance of its own exists."""
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)
