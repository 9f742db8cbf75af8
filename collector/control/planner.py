"""From what an instance is to what is wished for: the writes, in the one right order. Pure.

The order, and what goes wrong otherwise:
  tracing off           nothing is written into a ring that is about to be thrown away
  sub-buffer size       changing it discards what is in the ring without counting it
  ring size             counted in sub-buffers, so it follows their size
  watermark, overwrite
  clock                 writing it clears the ring and its counters, also when it is the same one
  triggers left over    an event that has any can't be removed
  probes                their events are enabled, filtered and triggered further down
  what all share        sizes, thresholds and switches of the top level
  filters of tracers    before the tracer, which else starts with all functions of the kernel
  tracer                setting it clears the ring too
  block devices         the tracer blk has them only while it runs
  options               those of the current tracer exist only now
  snapshot's ring       of the rings' sizes, and older kernels free it with each tracer that is set
  CPU mask, threads     before the first event, so that none of the excluded gets in
  events, filters
  triggers              last: they may refer to all the others
  tracing on

What is already as wished is not written again: an instance that was left behind by a crash keeps
its entries and its counters, by which the loss is settled. What would outlive the instance is
taken back in the reverse order: each write says how.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from collector.control.wish import (
    BLOCK_FOLDER,
    EVENT_FORK_FILE,
    EVENT_PIDS_FILE,
    FUNCTIONS_FILE,
    GRAPH_FUNCTIONS_FILE,
    GRAPH_NOTRACE_FILE,
    NO_TRACER,
    NOTRACE_FILE,
    NOTRACE_FUNCTIONS_FILE,
    PERCENT_FILE,
    SUBBUF_FILE,
    TRACER_FILE,
    InstanceSpec,
    Probe,
    Scope,
    Undo,
    Verify,
    Write,
    subbuf_sizes_to_try_kb,
    wanted_buffer_size_kb,
)
from collector.tracefs.cpus import format_cpu_mask
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import ListedEvent, group_of, same_definition
from collector.tracefs.events import EventName
from collector.tracefs.functions import parse_functions
from collector.tracefs.snapshots import LATENCY_FILE, LATENCY_TRACERS, SNAPSHOT_FILE, SWAPPING_TRACERS

FUNCTION_PIDS_FILE, NOTRACE_FUNCTION_PIDS_FILE = "set_ftrace_pid", "set_ftrace_notrace_pid"
LIST_FILES = (FUNCTIONS_FILE, NOTRACE_FUNCTIONS_FILE, GRAPH_FUNCTIONS_FILE, GRAPH_NOTRACE_FILE)
PID_FILES = (EVENT_PIDS_FILE, FUNCTION_PIDS_FILE, NOTRACE_FUNCTION_PIDS_FILE)
CMDLINES_SIZE_FILE = "saved_cmdlines_size"


def changes_discard(spec: InstanceSpec, probe: Probe) -> bool:
    """Whether making the instance so would throw unread entries away: they have to be read first."""
    if leaves_snapshots(spec, probe):
        return True
    if probe.unread == 0 and probe.snapshot != "full":
        return False
    subbuf_kb = subbuf_sizes_to_try_kb(spec, probe)[0]
    return (
        spec.clock != probe.clock
        or subbuf_kb != probe.subbuf_size_kb
        or spec.tracer != probe.tracer
        or bool(_stale_probes(spec, probe))  # removing an event clears the rings that it was enabled in
        or _shrinks(spec, probe, subbuf_kb)
    )


def leaves_snapshots(spec: InstanceSpec, probe: Probe) -> bool:
    """Whether an earlier run read snapshots and this one doesn't: the ring that is not live has its entries too."""
    return spec.read != "snapshot" and probe.snapshot in ("empty", "full") and probe.tracer not in SWAPPING_TRACERS


def plan_instance(spec: InstanceSpec, probe: Probe, subbuf_size_kb: int | None = None) -> list[Write]:
    """The writes that turn what is into what is wished, in order; the last one starts tracing.

    Args:
      subbuf_size_kb: a size from `subbuf_sizes_to_try_kb`; None takes its first.
    """
    subbuf_kb = subbuf_size_kb if subbuf_size_kb is not None else subbuf_sizes_to_try_kb(spec, probe)[0]
    writes: list[Write] = []
    if SUBBUF_FILE in probe.files and subbuf_kb != probe.subbuf_size_kb:
        writes.append(Write(SUBBUF_FILE, str(subbuf_kb), verify="at_least", sizes_memory=True))
    writes += _plan_sizes(spec, probe, subbuf_kb)
    if probe.buffer_percent is not None and probe.buffer_percent != spec.buffer_percent:
        writes.append(Write(PERCENT_FILE, str(spec.buffer_percent), verify="equal"))
    if probe.overwrite != spec.overwrite:
        writes.append(Write("options/overwrite", str(int(spec.overwrite)), verify="equal"))
    if probe.clock != spec.clock:
        writes.append(Write("trace_clock", spec.clock, verify="equal"))
    stale = _stale_probes(spec, probe)
    removed = {(listed.group, listed.name) for listed in stale}
    writes += _plan_trigger_removals(spec, probe, removed)
    writes += _plan_probes(spec, probe, stale)
    writes += _plan_settings(spec, probe)
    for file in LIST_FILES:
        writes += _plan_functions(file, spec.pattern_lists.get(file, ()), probe)
    writes += _plan_pids(FUNCTION_PIDS_FILE, spec.function_pids, probe)
    writes += _plan_pids(NOTRACE_FUNCTION_PIDS_FILE, spec.notrace_function_pids, probe)
    if spec.tracer != probe.tracer:
        undo = () if spec.tracer == NO_TRACER else (Undo(TRACER_FILE, NO_TRACER),)
        writes.append(Write(TRACER_FILE, spec.tracer, verify="equal", undo=undo))
    now = probe.values.get(LATENCY_FILE, "").strip()
    if spec.tracer != probe.tracer and now not in ("", "0"):  # the largest of this run counts
        writes.append(Write(LATENCY_FILE, "0", undo=(Undo(LATENCY_FILE, now),)))
    writes += _plan_block_devices(spec, probe)
    for option, on in spec.options.items():
        writes += _plan_option(f"options/{option}", on, probe)
    if spec.read == "snapshot" and (probe.snapshot == "freed" or spec.tracer != probe.tracer):
        # The first snapshot allocates the ring, a trigger alone couldn't.
        undo = (Undo(SNAPSHOT_FILE, "0"),)
        writes.append(Write(SNAPSHOT_FILE, "1", verify="allocated", sizes_memory=True, undo=undo))
    if leaves_snapshots(spec, probe):
        writes.append(Write(SNAPSHOT_FILE, "0"))
    cpus = probe.possible_cpus if spec.cpus is None else spec.cpus
    # The mask may name CPUs beyond the possible ones when it is the kernel's default.
    if set(cpus) != set(probe.cpumask) & set(probe.possible_cpus):
        writes.append(Write("tracing_cpumask", format_cpu_mask(cpus), verify="cpus"))
    writes += _plan_threads(spec, probe)
    writes += _plan_events(spec, probe, probe.enabled - removed)
    writes += _plan_filters(spec, probe)
    writes += _plan_triggers(spec, probe, removed)
    if writes or not probe.tracing_on:
        stop = [Write("tracing_on", "0", verify="equal")] if probe.tracing_on else []
        # A trigger may turn it off again before it is read back.
        writes = [*stop, *writes, Write("tracing_on", "1", verify="none" if switches_tracing(spec) else "equal")]
    return writes


def plan_exclusion(pids: Iterable[int], files: frozenset[str], *, fork: bool = True) -> list[Write]:
    """The writes that make `pids` (thread ids, some) those that are not traced, with the threads they will start."""
    if NOTRACE_FILE not in files:
        return []
    add_children = [Write(EVENT_FORK_FILE, "1", verify="equal")] if fork and EVENT_FORK_FILE in files else []
    return [*add_children, Write(NOTRACE_FILE, " ".join(map(str, sorted(set(pids)))), mode="replace")]


def plan_owned(spec: InstanceSpec, probe: Probe) -> list[Undo]:
    """What takes back what a crashed run has left as wished: no write is needed, but its undo is."""
    stale = {(listed.group, listed.name) for listed in _stale_probes(spec, probe)}
    present = {(listed.group, listed.name) for listed in probe.dynamic} - stale
    group = group_of(spec.name)
    ours = [p for p in spec.probes if p.group == group or (p.group, p.name) in probe.owned]
    return [_remove_probe(p.removal) for p in ours if (p.group, p.name) in present]


def events_of_earlier(spec: InstanceSpec, existed: bool) -> frozenset[EventName]:
    """Events that earlier runs have made, where no journal says it: those of an instance that is there already."""
    return frozenset((p.group, p.name) for p in spec.probes) if existed else frozenset()


def named_values(spec: InstanceSpec) -> dict[str, tuple[str, Verify]]:
    """{file: (value, how it reads)} of the single values that the spec names, in the order of writing."""
    values: dict[str, tuple[int | bool | None, Verify]] = {
        CMDLINES_SIZE_FILE: (spec.saved_cmdlines_size, "at_least"),
        "tracing_thresh": (spec.tracing_thresh_us, "equal"),
        "max_graph_depth": (spec.max_graph_depth, "equal"),
        "/proc/sys/kernel/ftrace_enabled": (spec.ftrace_enabled, "equal"),
        "/proc/sys/kernel/stack_tracer_enabled": (spec.stack_tracer, "equal"),
    }
    return {file: (str(int(value)), verify) for file, (value, verify) in values.items() if value is not None}


def files_named(spec: InstanceSpec) -> list[str]:
    """Files that the spec wants something of, besides those that every instance has."""
    pids = {
        EVENT_PIDS_FILE: spec.event_pids,
        FUNCTION_PIDS_FILE: spec.function_pids,
        NOTRACE_FUNCTION_PIDS_FILE: spec.notrace_function_pids,
        NOTRACE_FILE: spec.hidden_pids,
    }
    files = [*named_values(spec), *spec.pattern_lists, *(file for file, wanted in pids.items() if wanted)]
    files += [f"options/{name}" for name in spec.options]
    files += [block_file(device) for device in spec.block_devices]
    if spec.event_fork is not None:
        files.append(EVENT_FORK_FILE)
    if spec.probes:
        files.append(DYNAMIC_FILE)
    return files


def files_to_read(spec: InstanceSpec, *, existed: bool) -> list[str]:
    """Files whose present value the plan needs; of an earlier run's instance also lists that it may have set."""
    left = [*LIST_FILES[:2], *PID_FILES, NOTRACE_FILE] if existed else []
    latency = [LATENCY_FILE] if spec.tracer in LATENCY_TRACERS else []
    return list(dict.fromkeys([TRACER_FILE, *latency, *files_named(spec), *left]))


def switches_tracing(spec: InstanceSpec) -> bool:
    """Whether triggers of the settings turn tracing on and off: it is then as they left it."""
    return any(line.strip().startswith(("traceoff", "traceon")) for lines in spec.triggers.values() for line in lines)


def scope_of(file: str, probe: Probe) -> Scope:
    """Whose file it is: the instance's where it has it."""
    return "instance" if file in probe.values or file not in probe.top_values else "top"


def normal_trigger(line: str) -> str:
    """A trigger in words that compare: counts written out; of a histogram, by its keys alone."""
    command, _, condition = line.strip().removesuffix("[active]").partition(" if ")
    command = command.strip()
    words = command.split(":")
    if words[0] == "hist":
        return next((word for word in words if word.startswith("keys=")), command)
    if len(words) > 1 and words[-1].startswith("count="):  # as 6.18 prints some
        words[-1] = words[-1].removeprefix("count=")
    elif words[-1] != "unlimited" and not (len(words) > 1 and words[-1].isdecimal()):
        words.append("unlimited")
    return f"{':'.join(words)} if {condition.strip()}".removesuffix(" if ")


def trigger_name(line: str) -> str:
    """A trigger without how often it may still act, which the kernel counts down."""
    command, _, condition = normal_trigger(line).partition(" if ")
    words = command.split(":")
    if words[0] != "hist" and len(words) > 1 and (words[-1] == "unlimited" or words[-1].isdecimal()):
        words.pop()
    return f"{':'.join(words)} if {condition}".removesuffix(" if ")


def _plan_sizes(spec: InstanceSpec, probe: Probe, subbuf_kb: int) -> list[Write]:
    if _same_buffer_size(spec, probe, subbuf_kb):
        return []
    size_kb = str(wanted_buffer_size_kb(spec, probe))
    common = Write("buffer_size_kb", size_kb, verify="at_least", sizes_memory=True)
    own = [
        Write(f"per_cpu/cpu{cpu}/buffer_size_kb", str(kb), verify="at_least", sizes_memory=True)
        for cpu, kb in sorted(spec.cpu_buffer_sizes_kb.items())
    ]
    return [common, *own]


def _plan_settings(spec: InstanceSpec, probe: Probe) -> list[Write]:
    writes = []
    for file, (value, verify) in named_values(spec).items():
        scope = scope_of(file, probe)
        now = _value(file, probe).strip()
        if now != value and not (verify == "at_least" and now.isdecimal() and int(now) >= int(value)):
            undo = (Undo(file, now, scope=scope),) if scope == "top" else ()
            writes.append(Write(file, value, verify=verify, scope=scope, undo=undo))
    return writes


def block_file(device: str) -> str:
    """The file that lets the tracer blk have a device's requests."""
    return f"{BLOCK_FOLDER}/{device}/trace/enable"


def _plan_block_devices(spec: InstanceSpec, probe: Probe) -> list[Write]:
    files = [block_file(device) for device in spec.block_devices]
    return [
        Write(file, "1", verify="equal", scope="top", undo=(Undo(file, "0", scope="top"),))
        for file in files
        if _value(file, probe).strip() != "1"
    ]


def _plan_option(file: str, on: bool, probe: Probe) -> list[Write]:
    now = _value(file, probe).strip()
    if now == str(int(on)):
        return []
    scope = scope_of(file, probe)
    # A tracer's own options belong to the tracer: they outlive the instance.
    return [Write(file, str(int(on)), verify="equal", scope=scope, undo=(Undo(file, now, scope=scope),) if now else ())]


def _plan_functions(file: str, patterns: tuple[str, ...], probe: Probe) -> list[Write]:
    """One word per write: the kernel takes no more of it."""
    now = [name for name, _ in parse_functions(_value(file, probe))]
    scope = scope_of(file, probe)
    wanted = frozenset[str]().union(*(probe.matches.get(pattern, frozenset()) for pattern in patterns))
    if wanted == set(now) and (not patterns or wanted):
        return []
    undo: tuple[Undo, ...] = ()
    if scope == "top":
        before = [Undo(file, name, "append", "top") for name in dict.fromkeys(now)]
        undo = (Undo(file, "", "clear", "top"), *before)
    if not patterns:
        return [Write(file, "", mode="clear", scope=scope, undo=undo)]
    first = Write(file, patterns[0], mode="replace", verify="functions", scope=scope, undo=undo)
    more = [Write(file, word, mode="append", verify="functions", scope=scope) for word in patterns[1:]]
    return [first, *more]


def _plan_pids(file: str, pids: tuple[int, ...], probe: Probe) -> list[Write]:
    now = {int(word) for word in _value(file, probe).split() if word.isdecimal()}
    if now == set(pids):
        return []
    if not pids:
        return [Write(file, "", mode="clear")]
    return [Write(file, " ".join(map(str, sorted(set(pids)))), mode="replace", verify="words")]


def _plan_threads(spec: InstanceSpec, probe: Probe) -> list[Write]:
    writes = _plan_pids(EVENT_PIDS_FILE, spec.event_pids, probe)
    hidden = {*spec.notrace_pids, *spec.hidden_pids}
    if hidden:
        writes += plan_exclusion(hidden, probe.files, fork=spec.event_fork is None)
    else:
        writes += _plan_pids(NOTRACE_FILE, (), probe)
    if spec.event_fork is not None:
        writes += [replace(w, undo=()) for w in _plan_option(EVENT_FORK_FILE, spec.event_fork, probe)]
    return writes


def _stale_probes(spec: InstanceSpec, probe: Probe) -> list[ListedEvent]:
    """Events that an earlier run has made and that are not wished for, or not so."""
    wanted = {(p.group, p.name): p.definition for p in spec.probes}
    group = group_of(spec.name)
    stale = []
    for listed in probe.dynamic:
        event = (listed.group, listed.name)
        wish = wanted.get(event)
        if wish is None:
            # What was made in the kernel's groups goes at the end: somebody else's program may have it still.
            is_stale = listed.group == group
        else:
            is_stale = (listed.group == group or event in probe.owned) and not same_definition(wish, listed.line)
        if is_stale:
            stale.append(listed)
    return stale


def _plan_probes(spec: InstanceSpec, probe: Probe, stale: list[ListedEvent]) -> list[Write]:
    writes = []
    for listed in reversed(stale):  # a later one may be attached to an earlier one
        if (listed.group, listed.name) in probe.enabled:
            writes.append(Write(f"events/{listed.group}/{listed.name}/enable", "0"))
        # Nothing takes this back: what is removed was left over.
        writes.append(Write(DYNAMIC_FILE, listed.removal, mode="append", scope="top"))
    removed = {(listed.group, listed.name) for listed in stale}
    present = {(listed.group, listed.name) for listed in probe.dynamic} - removed
    for wish in spec.probes:
        if (wish.group, wish.name) not in present:
            undo = (_remove_probe(wish.removal),)
            writes.append(Write(DYNAMIC_FILE, wish.definition, "append", "listed", scope="top", undo=undo))
    return writes


def _remove_probe(removal: str) -> Undo:
    return Undo(DYNAMIC_FILE, removal, "append", "top")


def _plan_events(spec: InstanceSpec, probe: Probe, enabled: frozenset[EventName]) -> list[Write]:
    """Disable what is too much, enable what is missing; a whole system in one write."""
    group = group_of(spec.name)  # a pattern may have found probes that an earlier run left
    probes = {(p.group, p.name) for p in spec.probes}
    wanted = frozenset(event for event in spec.events if event[0] != group) | probes
    writes = [Write(f"events/{system}/{name}/enable", "0") for system, name in sorted(enabled - wanted)]
    missing = wanted - enabled
    for system in sorted({system for system, _ in missing}):
        names = frozenset(name for s, name in wanted if s == system)
        if len(names) > 1 and names == probe.systems.get(system):
            writes.append(Write(f"events/{system}/enable", "1"))
        else:
            writes += [Write(f"events/{s}/{name}/enable", "1") for s, name in sorted(missing) if s == system]
    return writes


def _plan_filters(spec: InstanceSpec, probe: Probe) -> list[Write]:
    writes = [
        Write(f"events/{system}/{name}/filter", "0")
        for system, name in sorted(probe.filters)
        if (system, name) not in spec.filters
    ]
    for (system, name), expression in spec.filters.items():
        if probe.filters.get((system, name), "").strip() != expression.strip():
            writes.append(Write(f"events/{system}/{name}/filter", expression.strip(), verify="equal"))
    return writes


def _plan_trigger_removals(spec: InstanceSpec, probe: Probe, removed: set[EventName]) -> list[Write]:
    """Those that are not wished for, and all of events that are removed, which have to be without."""
    writes = []
    for event, present in sorted(probe.triggers.items()):
        triggers = spec.triggers.get(event, ()) if event not in removed else ()
        wanted = {normal_trigger(trigger) for trigger in triggers}
        too_many = [line for line in present if normal_trigger(line) not in wanted]
        # The kernel lists the newest first, and a newer one may refer to an older one.
        writes += [Write(_trigger_file(event), untrigger(line), "append") for line in too_many]
    return writes


def _plan_triggers(spec: InstanceSpec, probe: Probe, removed: set[EventName]) -> list[Write]:
    writes = []
    for event, triggers in spec.triggers.items():
        present = probe.triggers.get(event, ()) if event not in removed else ()
        have = {normal_trigger(line) for line in present}
        for trigger in (t.strip() for t in triggers):
            if normal_trigger(trigger) not in have:
                # A histogram holds on to its instance, and to the synthetic event that it feeds.
                undo = (Undo(_trigger_file(event), untrigger(trigger), "append"),)
                writes.append(Write(_trigger_file(event), trigger, "append", "trigger", undo=undo))
    return writes


def plan_untrigger(triggers: Mapping[EventName, tuple[str, ...]]) -> list[Undo]:
    """What removes triggers that the kernel lists; to be done from the last to the first."""
    return [
        Undo(_trigger_file(event), untrigger(line), "append")
        for event, lines in sorted(triggers.items())
        for line in reversed(lines)
    ]


def _trigger_file(event: EventName) -> str:
    return f"events/{event[0]}/{event[1]}/trigger"


def untrigger(line: str) -> str:
    """The write that removes a trigger, from the line that made it or that the kernel prints."""
    return "!" + line.strip().removesuffix("[active]").strip()


def _value(file: str, probe: Probe) -> str:
    return probe.values.get(file, probe.top_values.get(file, ""))


def _same_buffer_size(spec: InstanceSpec, probe: Probe, subbuf_kb: int) -> bool:
    """Whether the rings have the wished sizes already."""
    if subbuf_kb != probe.subbuf_size_kb:
        return False
    wanted_kb = wanted_buffer_size_kb(spec, probe)
    if not spec.cpu_buffer_sizes_kb:
        return probe.buffer_size_kb is not None and _fits(wanted_kb, probe.buffer_size_kb, subbuf_kb)
    return all(
        _fits(spec.cpu_buffer_sizes_kb.get(cpu, wanted_kb), probe.cpu_buffer_sizes_kb.get(cpu, 0), subbuf_kb)
        for cpu in probe.possible_cpus
    )


def _fits(wanted_kb: int, now_kb: int, subbuf_kb: int) -> bool:
    """The kernel rounds up to whole sub-buffers, two at least."""
    return wanted_kb <= now_kb <= max(wanted_kb, 2 * subbuf_kb) + subbuf_kb


def _shrinks(spec: InstanceSpec, probe: Probe, subbuf_kb: int) -> bool:
    """Whether a ring would get smaller, or is of a size that can't be told."""
    if _same_buffer_size(spec, probe, subbuf_kb):
        return False
    wanted_kb = wanted_buffer_size_kb(spec, probe)
    if not spec.cpu_buffer_sizes_kb:
        return probe.buffer_size_kb is None or wanted_kb < probe.buffer_size_kb
    # Some may pass through the common size on their way.
    sizes_kb = probe.cpu_buffer_sizes_kb.values()
    return not sizes_kb or min(wanted_kb, *spec.cpu_buffer_sizes_kb.values()) < max(sizes_kb)
