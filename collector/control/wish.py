"""What an instance should be, what it is, and the writes between the two: the words that the others use. Pure.

The writes are made in planner.py and done in executor.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from collector.errors import UsageError
from collector.tracefs.cpus import format_cpu_list
from collector.tracefs.dynamic import ListedEvent, ProbeEvent
from collector.tracefs.events import EventName
from collector.tracefs.snapshots import SWAPPING_TRACERS, SnapshotState
from collector.tracefs.tracers import SHARED_KEYS, explain_unheeded_shared

SUBBUF_SIZES_KB = (64, 32, 16, 4)  # tried in this order: 64 KiB are order-4 pages, which can run out
MAX_SUBBUF_KB = 512
MANY_RINGS = 32  # from more than so many on, the sub-buffers are smaller
MANY_RINGS_SUBBUF_KB = 16
DEFAULT_CLOCK = "mono"  # comparable over CPUs, with wall-clock pairs
DEFAULT_BUFFER_KB = 8192  # per CPU
_MEMORY_SHARE = 100  # all rings together take at most 1/100 of memory
_MIN_BUFFER_KB = 64
_MIN_SUBBUFS = 8  # a ring of fewer is read too seldom or too often, whatever the watermark

NO_TRACER = "nop"

# How a file reads after the write:
#   equal      the value                                 at_least   a number not below the value
#   cpus       a mask of the same CPUs                   words      among others, all words of the value
#   functions  at least one function of the pattern      listed     a line that begins with the value
#   trigger    a line of the same command                allocated  a snapshot's ring
#   none       is not looked at
Verify = Literal["equal", "at_least", "cpus", "words", "functions", "listed", "trigger", "allocated", "none"]
Mode = Literal["write", "append", "clear", "replace"]
Scope = Literal["instance", "top"]
Read = Literal["raw", "text", "text-merged", "snapshot"]  # what the collector reads of an instance


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """The instance that is wished for."""

    name: str
    events: tuple[EventName, ...]  # (system, event), as `TracefsDir.match_events` gives them
    clock: str = DEFAULT_CLOCK
    buffer_size_kb: int | None = None  # per CPU; None: see `default_buffer_size_kb`
    subbuf_size_kb: int | None = None  # None: see `default_subbuf_size_kb`, less where the ring would have too few
    cpus: tuple[int, ...] | None = None  # None: all
    buffer_percent: int = 50  # fill at which poll reports a ring
    overwrite: bool = True  # a full ring drops its oldest entries, not the newest
    notrace_pids: tuple[int, ...] = ()  # thread ids that must not be traced: the collector's own
    keep: bool = False  # leave it in place at the end
    read: Read = "raw"
    cpu_buffer_sizes_kb: Mapping[int, int] = field(default_factory=dict)  # {cpu: KiB}, where it is not the common one
    tracer: str = NO_TRACER
    options: Mapping[str, bool] = field(default_factory=dict)  # {option: on}; all others stay
    event_pids: tuple[int, ...] = ()  # only these threads' events
    hidden_pids: tuple[int, ...] = ()  # not these threads' events, beside notrace_pids
    event_fork: bool | None = None  # children are added to both lists; None: as it is
    functions: tuple[str, ...] = ()  # patterns, see functions.py; none: all
    notrace_functions: tuple[str, ...] = ()
    graph_functions: tuple[str, ...] = ()  # function_graph begins at these
    graph_notrace_functions: tuple[str, ...] = ()
    max_graph_depth: int | None = None
    function_pids: tuple[int, ...] = ()
    notrace_function_pids: tuple[int, ...] = ()
    probes: tuple[ProbeEvent, ...] = ()  # made, and enabled here
    filters: Mapping[EventName, str] = field(default_factory=dict)
    triggers: Mapping[EventName, tuple[str, ...]] = field(default_factory=dict)  # written in this order
    tracing_thresh_us: int | None = None
    saved_cmdlines_size: int | None = None
    stack_tracer: bool | None = None
    ftrace_enabled: bool | None = None
    allow_top_level: bool = False  # files that all instances share may be changed
    consent_mmiotrace: bool = False  # mmiotrace may take all CPUs but one offline
    top_level: bool = False  # the top-level buffer itself; `name` is what the archive calls it
    block_devices: tuple[str, ...] = ()  # that the tracer blk follows, as /sys/block names them

    @property
    def pattern_lists(self) -> Mapping[str, tuple[str, ...]]:
        """{file: patterns} of all lists of functions that are wished for."""
        lists = {
            FUNCTIONS_FILE: self.functions,
            NOTRACE_FUNCTIONS_FILE: self.notrace_functions,
            GRAPH_FUNCTIONS_FILE: self.graph_functions,
            GRAPH_NOTRACE_FILE: self.graph_notrace_functions,
        }
        return {file: patterns for file, patterns in lists.items() if patterns}


@dataclass(frozen=True, slots=True)
class Probe:
    """What the kernel has, and how the instance is set up now."""

    files: frozenset[str]  # those of OPTIONAL_FILES that exist
    clock: str
    clocks: tuple[str, ...]
    buffer_size_kb: int | None  # None: CPUs differ
    subbuf_size_kb: int  # from the layout, so it is known on kernels that can't change it
    buffer_percent: int | None  # None: no such file
    overwrite: bool
    tracing_on: bool
    cpumask: tuple[int, ...]
    possible_cpus: tuple[int, ...]
    cpu_count: int  # rings that will be allocated: CPUs that run now
    memory_total_bytes: int
    enabled: frozenset[EventName]
    systems: Mapping[str, frozenset[str]]  # {system: all its events}
    unread: int  # entries in the rings
    existed: bool = False  # it was there before this process
    tracers: tuple[str, ...] = (NO_TRACER,)  # that this instance takes
    top_tracers: tuple[str, ...] = (NO_TRACER,)  # that the top level takes
    option_names: tuple[str, ...] = ()  # of the instance
    values: Mapping[str, str] = field(default_factory=dict)  # {file: text} of what the spec names, where it exists
    top_values: Mapping[str, str] = field(default_factory=dict)  # the same of the top level, and of /proc/sys/kernel
    matches: Mapping[str, frozenset[str]] = field(default_factory=dict)  # {pattern of functions: what it means}
    cpu_buffer_sizes_kb: Mapping[int, int] = field(default_factory=dict)  # {cpu: KiB}
    dynamic: tuple[ListedEvent, ...] = ()  # dynamic events of all groups
    filters: Mapping[EventName, str] = field(default_factory=dict)  # those that are set
    triggers: Mapping[EventName, tuple[str, ...]] = field(default_factory=dict)  # lines as the kernel prints them
    snapshot: SnapshotState = "none"
    top_clock: str | None = None  # of the top level; None: not looked at
    owned: frozenset[EventName] = frozenset()  # dynamic events that earlier runs of this instance have made
    other_tracers: Mapping[str, str] = field(default_factory=dict)  # {other buffer, "" the top level: its tracer}

    @property
    def tracer(self) -> str:
        return self.values.get(TRACER_FILE, NO_TRACER).strip()


@dataclass(frozen=True, slots=True)
class Undo:
    """A write that takes another one back."""

    file: str
    value: str
    mode: Mode = "write"
    scope: Scope = "instance"

    def __str__(self) -> str:
        return f"clear {self.file}" if self.mode == "clear" else f"{self.file} {self.value}"


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a file of the instance, or of the top level."""

    file: str  # below the instance or the top level; from / on for /proc/sys and /sys/block
    value: str
    mode: Mode = "write"
    verify: Verify = "none"  # how the file reads afterwards
    sizes_memory: bool = False  # ENOMEM means: try with smaller sub-buffers
    scope: Scope = "instance"
    undo: tuple[Undo, ...] = ()  # in this order; none: it goes with the instance

    @property
    def undone_by(self) -> str:
        """For people: what takes it back."""
        return "; ".join(map(str, self.undo)) or "removing the instance"


BLOCK_FOLDER = "/sys/block"
SUBBUF_FILE = "buffer_subbuf_size_kb"  # since 6.8
PERCENT_FILE = "buffer_percent"
NOTRACE_FILE = "set_event_notrace_pid"
EVENT_FORK_FILE = "options/event-fork"
EVENT_PIDS_FILE = "set_event_pid"
TRACER_FILE = "current_tracer"
FUNCTIONS_FILE = "set_ftrace_filter"
NOTRACE_FUNCTIONS_FILE = "set_ftrace_notrace"
GRAPH_FUNCTIONS_FILE = "set_graph_function"
GRAPH_NOTRACE_FILE = "set_graph_notrace"
# {file that older kernels do not have: what that costs}
OPTIONAL_FILES = {
    SUBBUF_FILE: "sub-buffers are one page, which costs more calls",
    PERCENT_FILE: "poll wakes for any entry",
    NOTRACE_FILE: "the collector's own threads are traced too",
    EVENT_FORK_FILE: "threads of the collector that start later are traced",
}


def default_clock(tracer: str, top_clock: str, clocks: Sequence[str]) -> str:
    """The clock of an instance that none is wished for.

    The tracers that swap the rings date the start of a latency by the top level's clock (ftrace_now()), and what comes
    later by the instance's: with two clocks their texts are empty, or cut. Before 3.17 there is no `mono`.

    Args:
      top_clock: the top level's.
      clocks: that this kernel has.
    """
    if tracer in SWAPPING_TRACERS:
        return top_clock
    return next((clock for clock in (DEFAULT_CLOCK, "global") if clock in clocks), top_clock)


def default_buffer_size_kb(cpus: int, memory_total_bytes: int) -> int:
    """KiB of each CPU's ring: 8 MiB, but all together at most 1 % of memory."""
    return max(_MIN_BUFFER_KB, min(DEFAULT_BUFFER_KB, memory_total_bytes // _MEMORY_SHARE // max(cpus, 1) // 1024))


def default_subbuf_size_kb(rings: int) -> int:
    """KiB of a sub-buffer: 64, or 16 where many rings are read.

    A full sub-buffer is handed over at the price of a copy, one that the writer is on entry by entry; of many
    rings most are flushed before they fill one. 128 rings at 1,600 entries a second each: 0.19 CPU s per million
    with 64 KiB, 0.14 with 16 (bench/, Linux 6.18).
    """
    return SUBBUF_SIZES_KB[0] if rings <= MANY_RINGS else MANY_RINGS_SUBBUF_KB


def wanted_buffer_size_kb(spec: InstanceSpec, probe: Probe) -> int:
    """KiB of each CPU's ring that the spec means on this machine."""
    if spec.buffer_size_kb is not None:
        return spec.buffer_size_kb
    cpus = probe.cpu_count if spec.cpus is None else len(spec.cpus)
    return default_buffer_size_kb(max(cpus, probe.cpu_count), probe.memory_total_bytes)


def subbuf_sizes_to_try_kb(spec: InstanceSpec, probe: Probe) -> tuple[int, ...]:
    """Sub-buffer sizes, the best first; the present one alone where the kernel can't change it."""
    if SUBBUF_FILE not in probe.files:
        return (probe.subbuf_size_kb,)
    buffer_kb = wanted_buffer_size_kb(spec, probe)
    first = spec.subbuf_size_kb
    if first is None:
        rings = probe.cpu_count if spec.cpus is None else len(spec.cpus)
        most = default_subbuf_size_kb(rings)
        fitting = [size for size in SUBBUF_SIZES_KB if size <= most and size * _MIN_SUBBUFS <= buffer_kb]
        first = fitting[0] if fitting else SUBBUF_SIZES_KB[-1]
    # The kernel rounds up to a power of two of pages of 4 KiB.
    rounded = max(4, 1 << (first - 1).bit_length())
    return (rounded, *(size for size in SUBBUF_SIZES_KB if size < rounded))


def check_spec(spec: InstanceSpec, probe: Probe) -> None:
    """Find what this kernel would refuse, before anything is changed.

    Raises:
      UsageError: a clock, a size, a CPU or the watermark is not possible here.
    """
    if spec.clock not in probe.clocks:
        raise UsageError(
            "this kernel has no such clock", where="clock", expected=f"one of {' '.join(probe.clocks)}",
            got=repr(spec.clock),
        )  # fmt: skip
    if spec.buffer_size_kb is not None:
        most_kb = probe.memory_total_bytes // 2 // 1024 // max(probe.cpu_count, 1)
        if not 1 <= spec.buffer_size_kb <= most_kb:
            raise UsageError(
                "the rings' size is not possible", where="buffer_size_kb",
                expected=f"1 to {most_kb} KiB per CPU (half of memory)",
                got=f"{spec.buffer_size_kb} KiB for each of {probe.cpu_count} CPUs",
            )  # fmt: skip
    if spec.subbuf_size_kb is not None and not 1 <= spec.subbuf_size_kb <= MAX_SUBBUF_KB:
        raise UsageError(
            "the sub-buffers' size is not possible", where="subbuf_size_kb", expected=f"4 to {MAX_SUBBUF_KB} KiB",
            got=f"{spec.subbuf_size_kb} KiB",
        )  # fmt: skip
    if not 0 <= spec.buffer_percent <= 100:
        raise UsageError("not a percentage", where="buffer_percent", expected="0 to 100", got=str(spec.buffer_percent))
    unknown = set(spec.cpu_buffer_sizes_kb) - set(probe.possible_cpus)
    if unknown:
        raise UsageError(
            "no such CPU", where="buffer_size_kb_per_cpu", expected=f"some of {format_cpu_list(probe.possible_cpus)}",
            got=format_cpu_list(unknown),
        )  # fmt: skip
    if spec.cpus is not None and (not spec.cpus or not set(spec.cpus) <= set(probe.possible_cpus)):
        raise UsageError(
            "no such CPU", where="cpus", expected=f"some of {format_cpu_list(probe.possible_cpus)}",
            got=format_cpu_list(spec.cpus) or "none",
        )  # fmt: skip


def explain_unheeded(spec: InstanceSpec) -> list[str]:
    """What is wished for and has no effect, in words: no error, for it does no harm, or is meant for others."""
    notes = explain_unheeded_shared(spec.tracer, {key: getattr(spec, key) for key in SHARED_KEYS})
    collected = {*spec.events, *((event.group, event.name) for event in spec.probes)}
    unused = [f"{system}:{name}" for system, name in spec.filters if (system, name) not in collected]
    return notes + [f"the filter of {event} has no effect: events doesn't mean it" for event in unused]
