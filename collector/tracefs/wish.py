"""What an instance should be, and the writes that make it so, in the one right order. Pure.

The order, and what goes wrong otherwise:
  tracing off           nothing is written into a ring that is about to be thrown away
  sub-buffer size       changing it discards what is in the ring without counting it
  ring size             counted in sub-buffers, so it follows their size
  watermark, overwrite
  clock                 writing it clears the ring and its counters, also when it is the same one
  CPU mask, own threads before the first event, so that none of the excluded gets in
  events
  tracing on

What is already as wished is not written again: an instance that was left behind by a crash keeps
its entries and its counters, by which the loss is settled.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from collector.errors import UsageError
from collector.tracefs.cpus import format_cpu_list, format_cpu_mask
from collector.tracefs.events import EventName

SUBBUF_SIZES_KB = (64, 32, 16, 4)  # tried in this order: 64 KiB are order-4 pages, which can run out
MAX_SUBBUF_KB = 512
MANY_RINGS = 32  # from more than so many on, the sub-buffers are smaller
MANY_RINGS_SUBBUF_KB = 16
DEFAULT_CLOCK = "mono"  # comparable over CPUs, with wall-clock pairs
DEFAULT_BUFFER_KB = 8192  # per CPU
_MEMORY_SHARE = 100  # all rings together take at most 1/100 of memory
_MIN_BUFFER_KB = 64
_MIN_SUBBUFS = 8  # a ring of fewer is read too seldom or too often, whatever the watermark

Verify = Literal["equal", "at_least", "cpus", "none"]
Mode = Literal["write", "append", "clear", "replace"]


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


@dataclass(frozen=True, slots=True)
class Write:
    """One write to a file of the instance."""

    file: str
    value: str
    mode: Mode = "write"
    verify: Verify = "none"  # how the file reads afterwards
    sizes_memory: bool = False  # ENOMEM means: try with smaller sub-buffers


SUBBUF_FILE = "buffer_subbuf_size_kb"  # since 6.8
PERCENT_FILE = "buffer_percent"
NOTRACE_FILE = "set_event_notrace_pid"
EVENT_FORK_FILE = "options/event-fork"
OPTIONAL_FILES = (SUBBUF_FILE, PERCENT_FILE, NOTRACE_FILE, EVENT_FORK_FILE)


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
    if spec.cpus is not None and (not spec.cpus or not set(spec.cpus) <= set(probe.possible_cpus)):
        raise UsageError(
            "no such CPU", where="cpus", expected=f"some of {format_cpu_list(probe.possible_cpus)}",
            got=format_cpu_list(spec.cpus) or "none",
        )  # fmt: skip


def changes_discard(spec: InstanceSpec, probe: Probe) -> bool:
    """Whether making the instance so would throw unread entries away: they have to be read first."""
    if probe.unread == 0:
        return False
    subbuf_kb = subbuf_sizes_to_try_kb(spec, probe)[0]
    shrinks = probe.buffer_size_kb is None or (
        wanted_buffer_size_kb(spec, probe) < probe.buffer_size_kb and not _same_buffer_size(spec, probe, subbuf_kb)
    )
    return spec.clock != probe.clock or subbuf_kb != probe.subbuf_size_kb or shrinks


def plan_instance(spec: InstanceSpec, probe: Probe, subbuf_size_kb: int | None = None) -> list[Write]:
    """The writes that turn what is into what is wished, in order; the last one starts tracing.

    Args:
      subbuf_size_kb: a size from `subbuf_sizes_to_try_kb`; None takes its first.
    """
    subbuf_kb = subbuf_size_kb if subbuf_size_kb is not None else subbuf_sizes_to_try_kb(spec, probe)[0]
    writes: list[Write] = []
    if SUBBUF_FILE in probe.files and subbuf_kb != probe.subbuf_size_kb:
        writes.append(Write(SUBBUF_FILE, str(subbuf_kb), verify="at_least", sizes_memory=True))
    if not _same_buffer_size(spec, probe, subbuf_kb):
        wanted_kb = wanted_buffer_size_kb(spec, probe)
        writes.append(Write("buffer_size_kb", str(wanted_kb), verify="at_least", sizes_memory=True))
    if probe.buffer_percent is not None and probe.buffer_percent != spec.buffer_percent:
        writes.append(Write(PERCENT_FILE, str(spec.buffer_percent), verify="equal"))
    if probe.overwrite != spec.overwrite:
        writes.append(Write("options/overwrite", str(int(spec.overwrite)), verify="equal"))
    if probe.clock != spec.clock:
        writes.append(Write("trace_clock", spec.clock, verify="equal"))
    cpus = probe.possible_cpus if spec.cpus is None else spec.cpus
    # The mask may name CPUs beyond the possible ones when it is the kernel's default.
    if set(cpus) != set(probe.cpumask) & set(probe.possible_cpus):
        writes.append(Write("tracing_cpumask", format_cpu_mask(cpus), verify="cpus"))
    writes += _plan_own_threads(spec, probe)
    writes += _plan_events(spec, probe)
    if writes or not probe.tracing_on:
        stop = [Write("tracing_on", "0", verify="equal")] if probe.tracing_on else []
        writes = [*stop, *writes, Write("tracing_on", "1", verify="equal")]
    return writes


def plan_exclusion(pids: Iterable[int], files: frozenset[str]) -> list[Write]:
    """The writes that make `pids` (thread ids) the ones that are not traced, with the threads they will start."""
    ordered = sorted(set(pids))
    if NOTRACE_FILE not in files:
        return []
    if not ordered:
        return [Write(NOTRACE_FILE, "", mode="clear")]
    fork = [Write(EVENT_FORK_FILE, "1", verify="equal")] if EVENT_FORK_FILE in files else []
    return [*fork, Write(NOTRACE_FILE, " ".join(map(str, ordered)), mode="replace")]


def _plan_own_threads(spec: InstanceSpec, probe: Probe) -> list[Write]:
    return plan_exclusion(spec.notrace_pids, probe.files) if spec.notrace_pids else []


def _plan_events(spec: InstanceSpec, probe: Probe) -> list[Write]:
    """Disable what is too much, enable what is missing; a whole system in one write."""
    wanted = frozenset(spec.events)
    writes = [Write(f"events/{system}/{name}/enable", "0") for system, name in sorted(probe.enabled - wanted)]
    missing = wanted - probe.enabled
    for system in sorted({system for system, _ in missing}):
        names = frozenset(name for s, name in wanted if s == system)
        if len(names) > 1 and names == probe.systems.get(system):
            writes.append(Write(f"events/{system}/enable", "1"))
        else:
            writes += [Write(f"events/{s}/{name}/enable", "1") for s, name in sorted(missing) if s == system]
    return writes


def _same_buffer_size(spec: InstanceSpec, probe: Probe, subbuf_kb: int) -> bool:
    """Whether the ring has the wished size already; the kernel rounds up to whole sub-buffers, two at least."""
    wanted_kb = wanted_buffer_size_kb(spec, probe)
    return (
        probe.buffer_size_kb is not None
        and subbuf_kb == probe.subbuf_size_kb
        and wanted_kb <= probe.buffer_size_kb <= max(wanted_kb, 2 * subbuf_kb) + subbuf_kb
    )
