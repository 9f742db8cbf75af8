"""How an instance is set up now, and what its kernel has: read, never written."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from collector.control.planner import files_named, files_to_read
from collector.control.wish import BLOCK_FOLDER, OPTIONAL_FILES, PERCENT_FILE, InstanceSpec, Probe
from collector.errors import TracefsError, TracefsPermissionError
from collector.tracefs.cpus import parse_cpu_mask
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import parse_dynamic_events
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir, read_memory_total_bytes
from collector.tracefs.functions import Function, match_patterns, parse_functions
from collector.tracefs.snapshots import SNAPSHOT_FILE, SWAPPING_TRACERS, SnapshotState, parse_snapshot_state

_SYSCTL = "/proc/sys/kernel"
_FUNCTIONS = "available_filter_functions"
# An instance as mkdir makes it.
_NEW = {"tracing_on": "1", "options/overwrite": "1", "current_tracer": "nop"}
_NEW_BUFFER_KB, _NEW_PERCENT = 1410, 50


def sysctl_of(tree: TracefsDir) -> TracefsDir:
    """The kernel's settings outside of tracefs; of a recorded tree, the folder `sysctl` beside it."""
    top = tree.top
    return TracefsDir(Path(_SYSCTL) if top.live else top.path.parent / "sysctl", top=top)


def _block_of(tree: TracefsDir) -> TracefsDir:
    """The block devices; of a recorded tree, the folder `block` beside it."""
    top = tree.top
    return TracefsDir(Path(BLOCK_FOLDER) if top.live else top.path.parent / "block", top=top)


def place_of(tree: TracefsDir, file: str, *, at_top: bool) -> tuple[TracefsDir, str]:
    """(folder, name in it) of a file of a plan."""
    if file.startswith(BLOCK_FOLDER):
        return _block_of(tree), file.removeprefix(BLOCK_FOLDER).lstrip("/")
    if file.startswith("/"):
        return sysctl_of(tree), file.removeprefix(_SYSCTL).lstrip("/")
    return (tree.top if at_top else tree), file


def read_probe(
    tree: TracefsDir,
    spec: InstanceSpec,
    *,
    existed: bool,
    functions: Sequence[Function] | None = None,
    systems: dict[str, frozenset[str]] | None = None,
) -> Probe:
    """How the instance is set up now.

    Args:
      existed: by an earlier run, which may have set what this one doesn't name.
      functions, systems: what `read_functions` and `read_systems` gave, to save reading them again.

    Raises:
      UsageError: a pattern means no function.
      TracefsError: a file can't be read.
    """
    clock, clocks = tree.read_clock()
    percent = tree.try_read_text(PERCENT_FILE)
    named = set(files_named(spec))
    values, top_values = {}, {}
    for file in files_to_read(spec, existed=existed):
        if (text := _read_if_any(tree, file, needed=file in named)) is not None:
            values[file] = text
        elif file in named:
            folder, name = place_of(tree, file, at_top=True)
            if (text := folder.try_read_text(name)) is not None:
                top_values[file] = text
    if functions is None:
        functions = read_functions(tree, spec)
    return Probe(
        files=frozenset(name for name in OPTIONAL_FILES if tree.exists(name)),
        clock=clock,
        clocks=clocks,
        buffer_size_kb=parse_size_kb(tree.read_text("buffer_size_kb")),
        subbuf_size_kb=tree.read_layout().subbuf_size // 1024,
        buffer_percent=int(percent) if percent is not None else None,
        overwrite=tree.read_text("options/overwrite").strip() == "1",
        tracing_on=tree.read_text("tracing_on").strip() == "1",
        cpumask=parse_cpu_mask(tree.read_text("tracing_cpumask")),
        possible_cpus=tree.possible_cpus(),
        cpu_count=len(tree.online_cpus()),
        memory_total_bytes=read_memory_total_bytes(),
        enabled=_read_enabled(tree),
        systems=systems if systems is not None else read_systems(tree),
        unread=count_unread(tree),
        existed=existed,
        tracers=_words(tree.try_read_text("available_tracers")),
        top_tracers=_words(tree.top.try_read_text("available_tracers")),
        option_names=_option_names(tree),
        values=values,
        top_values=top_values,
        matches=_match(spec, functions),
        cpu_buffer_sizes_kb=_read_cpu_sizes(tree) if spec.cpu_buffer_sizes_kb else {},
        dynamic=parse_dynamic_events(tree.top.try_read_text(DYNAMIC_FILE) or ""),
        filters=_read_filters(tree, spec) if existed else {},
        triggers=read_triggers(tree) if existed else {},
        snapshot=read_snapshot_state(tree) if existed or spec.read == "snapshot" else "none",
        top_clock=tree.top.read_clock()[0] if spec.tracer in SWAPPING_TRACERS else None,
    )


def read_probe_of_none(top: TracefsDir, spec: InstanceSpec) -> Probe:
    """What `read_probe` would give for an instance that does not exist: as the kernel makes them.

    What only an instance can tell (which tracers it takes, which files it has) is taken from the top level.
    """
    clocks = top.read_clock()[1]
    possible = top.possible_cpus()
    values, top_values = {}, {}
    for file in files_to_read(spec, existed=False):
        folder, name = place_of(top, file, at_top=True)
        text = folder.try_read_text(name)
        if file in _NEW:
            values[file] = _NEW[file]
        elif text is not None and file not in _TOP_ONLY and not file.startswith("/"):
            values[file] = text if file.startswith("options/") else ""  # flags are taken over, lists begin empty
        elif text is not None:
            top_values[file] = text
    tracers = _words(top.try_read_text("available_tracers"))
    return Probe(
        files=frozenset(name for name in OPTIONAL_FILES if top.exists(name)),
        clock=clocks[0],
        clocks=clocks,
        buffer_size_kb=_NEW_BUFFER_KB,
        subbuf_size_kb=os.sysconf("SC_PAGE_SIZE") // 1024,
        buffer_percent=_NEW_PERCENT if top.exists(PERCENT_FILE) else None,
        overwrite=True,
        tracing_on=True,
        cpumask=possible,
        possible_cpus=possible,
        cpu_count=len(top.online_cpus()),
        memory_total_bytes=read_memory_total_bytes(),
        enabled=frozenset(),
        systems=read_systems(top),
        unread=0,
        tracers=tracers,
        top_tracers=tracers,
        option_names=_option_names(top),
        values=values,
        top_values=top_values,
        matches=_match(spec, read_functions(top, spec)),
        cpu_buffer_sizes_kb=dict.fromkeys(possible, _NEW_BUFFER_KB),
        dynamic=parse_dynamic_events(top.try_read_text(DYNAMIC_FILE) or ""),
        snapshot="freed" if top.exists(SNAPSHOT_FILE) else "none",
        top_clock=top.read_clock()[0] if spec.tracer in SWAPPING_TRACERS else None,
    )


# Of the files that a plan may write, those that no instance has.
_TOP_ONLY = frozenset({
    "saved_cmdlines_size", "tracing_thresh", "max_graph_depth", "set_graph_function", "set_graph_notrace",
    DYNAMIC_FILE, "options/record-cmd", "options/trace_printk", "options/printk-msg-only",
})  # fmt: skip


def read_functions(tree: TracefsDir, spec: InstanceSpec) -> list[Function]:
    """The functions that can be traced; read only where the spec has patterns, there are 40,000.

    Raises:
      TracefsError: the kernel doesn't tell.
    """
    return parse_functions(tree.top.read_text(_FUNCTIONS)) if spec.pattern_lists else []


def read_systems(tree: TracefsDir) -> dict[str, frozenset[str]]:
    """{system: its events}"""
    systems: dict[str, set[str]] = {}
    for system, name in tree.list_events():
        systems.setdefault(system, set()).add(name)
    return {system: frozenset(names) for system, names in systems.items()}


def read_triggers(tree: TracefsDir) -> dict[EventName, tuple[str, ...]]:
    """{event: its triggers as the kernel prints them} of all events that have any. Reads some 2,000 files."""
    found = {}
    for system, name in tree.list_event_folders():
        try:
            text = tree.try_read_text(f"events/{system}/{name}/trigger")
        except TracefsError:
            continue  # events whose files only root can open, under lockdown
        lines = tuple(line.strip() for line in (text or "").splitlines() if line.strip() and not line.startswith("#"))
        if lines:
            found[(system, name)] = lines
    return found


def read_snapshot_state(tree: TracefsDir) -> SnapshotState:
    """Whether there is a second ring, and something in it."""
    return parse_snapshot_state(tree.read_head(SNAPSHOT_FILE)) if tree.exists(SNAPSHOT_FILE) else "none"


def count_unread(tree: TracefsDir) -> int:
    """Entries in the rings."""
    return sum(stats.entries for cpu in tree.possible_cpus() if (stats := tree.try_read_stats(cpu)) is not None)


def parse_size_kb(text: str) -> int | None:
    """The first number of buffer_size_kb ("7 (expanded: 1408)" on a ring not yet used); None for "X": CPUs differ."""
    word = text.split()[0] if text.split() else ""
    return int(word) if word.isdecimal() else None


def _read_if_any(tree: TracefsDir, file: str, *, needed: bool) -> str | None:
    """A file of the instance; None where it has none."""
    if file.startswith("/"):
        return None
    try:
        return tree.try_read_text(file)
    except TracefsPermissionError:
        if needed:
            raise
        return None  # what nobody may read, an earlier run can't have written


def _match(spec: InstanceSpec, functions: Sequence[Function]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for file, patterns in spec.pattern_lists.items():
        found.update(match_patterns(patterns, functions, file))
    return found


def _read_enabled(tree: TracefsDir) -> frozenset[EventName]:
    pairs = (line.strip().split(":", 1) for line in tree.read_text("set_event").splitlines() if ":" in line)
    return frozenset((system, name) for system, name in pairs)


def _read_filters(tree: TracefsDir, spec: InstanceSpec) -> dict[EventName, str]:
    """{event: filter} of the events that are wished for and have one."""
    found = {}
    for system, name in dict.fromkeys([*spec.events, *spec.filters]):
        text = (tree.try_read_text(f"events/{system}/{name}/filter") or "").strip()
        if text not in ("", "none"):
            found[(system, name)] = text
    return found


def _read_cpu_sizes(tree: TracefsDir) -> dict[int, int]:
    sizes = {cpu: parse_size_kb(tree.read_text(f"per_cpu/cpu{cpu}/buffer_size_kb")) for cpu in tree.possible_cpus()}
    return {cpu: size for cpu, size in sizes.items() if size is not None}


def _option_names(tree: TracefsDir) -> tuple[str, ...]:
    try:
        return tuple(tree.list_names("options"))
    except TracefsError:
        return ()  # for messages only


def _words(text: str | None) -> tuple[str, ...]:
    return tuple((text or "").split())


def resolve_events(tree: TracefsDir, names: Iterable[str], probes: Iterable[tuple[str, str]]) -> dict[str, EventName]:
    """{name: event} of exact names SYSTEM:EVENT; `probes:NAME` is a probe of ours.

    Args:
      probes: (group, name) of those that will be made.

    Raises:
      UsageError: there is no such event; it says what comes near.
    """
    ours = {f"{group}:{name}": (group, name) for group, name in probes}
    ours.update({f"probes:{name}": (group, name) for group, name in probes})
    return {name: ours[name] if name in ours else tree.match_events([name])[0] for name in names}
