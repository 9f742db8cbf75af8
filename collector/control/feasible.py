"""What this kernel, or a rule of ours, does not allow: found before anything is changed. Pure."""

import difflib

from collector.control.planner import block_file, files_named, scope_of
from collector.control.wish import BLOCK_FOLDER, EVENT_FORK_FILE, NO_TRACER, InstanceSpec, Probe, check_spec
from collector.errors import InstanceBusyError, UsageError
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import KERNEL_GROUPS, USER_GROUP, same_definition
from collector.tracefs.snapshots import FEEDING_TRACERS, SNAPSHOT_FILE, SWAPPING_TRACERS, takes_snapshot
from collector.tracefs.tracers import excludes, family_of

# Options that have a key of their own, or that the collector needs as they are. {option: what to do}
_OWN_OPTIONS = {"overwrite": "use the key overwrite", "event-fork": "use the key event_fork"}

# {file: how a kernel gets it}
_ORIGIN = {
    "set_graph_function": "CONFIG_FUNCTION_GRAPH_TRACER",
    "set_graph_notrace": "CONFIG_FUNCTION_GRAPH_TRACER",
    "max_graph_depth": "CONFIG_FUNCTION_GRAPH_TRACER",
    "set_ftrace_filter": "CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE",
    "set_ftrace_notrace": "CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE",
    "/proc/sys/kernel/stack_tracer_enabled": "CONFIG_STACK_TRACER",
    "/proc/sys/kernel/ftrace_enabled": "CONFIG_FUNCTION_TRACER",
    DYNAMIC_FILE: "CONFIG_DYNAMIC_EVENTS",
}
_SHARED_ALWAYS = (DYNAMIC_FILE,)  # what is written there is ours alone, by its group


def check_desired(spec: InstanceSpec, probe: Probe) -> None:
    """Find what would be refused half-way.

    Raises:
      UsageError: this kernel can't do it, or it needs a consent that is not given.
    """
    check_spec(spec, probe)
    _check_tracer(spec, probe)
    _check_block_devices(spec, probe)
    _check_options(spec, probe)
    for file in files_named(spec):
        if file not in probe.values and file not in probe.top_values:
            origin = _ORIGIN.get(file)
            raise UsageError(
                "this kernel has no such file", where=file, expected="a file of the instance or of the top level",
                got="none", hint=f"{origin} makes it" if origin else None,
            )  # fmt: skip
        if scope_of(file, probe) == "top" and file not in _SHARED_ALWAYS and not spec.allow_top_level:
            raise UsageError(
                "this file is shared by all users of tracing", where=file, expected="allow_top_level = true",
                got="false", hint="it is restored at exit; or leave the key that sets it out",
            )  # fmt: skip
    _check_probes(spec, probe)
    _check_snapshots(spec, probe)
    _check_latency_tracer(spec, probe)


def _check_tracer(spec: InstanceSpec, probe: Probe) -> None:
    if spec.tracer == NO_TRACER:
        return
    everywhere = dict.fromkeys([*probe.tracers, *probe.top_tracers])
    if spec.tracer not in everywhere:
        raise UsageError(
            "this kernel has no such tracer", where="tracer", expected=f"one of {' '.join(everywhere)}",
            got=repr(spec.tracer),
        )  # fmt: skip
    if spec.tracer == "mmiotrace" and not spec.consent_mmiotrace:
        raise UsageError(
            "mmiotrace takes all CPUs but one offline", where="tracer", expected="consent_mmiotrace = true",
            got="false",
        )  # fmt: skip
    if spec.tracer not in probe.tracers:
        others = [tracer for tracer in probe.tracers if tracer != NO_TRACER]
        raise UsageError(
            "this kernel runs this tracer at the top level only", where="tracer",
            expected=f"one that runs in an instance: {' '.join(others) or 'none here'}", got=repr(spec.tracer),
            hint="top_level_buffer = true, with allow_top_level = true, collects from the top level"
            + ("; function_graph runs in instances from Linux 6.12 on" if spec.tracer == "function_graph" else ""),
        )  # fmt: skip
    for name, other in probe.other_tracers.items():
        if excludes(spec.tracer, other):
            place = f"instance {name}" if name else "the top level"
            raise InstanceBusyError(
                "the kernel doesn't run this tracer beside another of its kind", where="tracer",
                expected=f"one of {' '.join(sorted(family_of(spec.tracer)))} at a time",
                got=f"{spec.tracer}, while {place} has {other}",
                hint=f"`ftrace-collector list instances` says who holds it; or `echo nop > "
                f"{f'instances/{name}/' if name else ''}current_tracer` in tracefs",
            )  # fmt: skip


def _check_block_devices(spec: InstanceSpec, probe: Probe) -> None:
    for device in spec.block_devices:
        now = probe.top_values.get(block_file(device))
        if now is None:
            raise UsageError(
                "no such block device, or none that can be traced", where=f"block_devices: {device}",
                expected=f"{block_file(device)}, which CONFIG_BLK_DEV_IO_TRACE makes", got="no such file",
                hint=f"`ls {BLOCK_FOLDER}` shows the devices",
            )  # fmt: skip
        if now.strip() != "0":
            raise InstanceBusyError(
                "somebody else traces this block device", where=block_file(device), expected="0", got=now.strip(),
                hint="end blktrace, or whoever it is",
            )  # fmt: skip


def _check_options(spec: InstanceSpec, probe: Probe) -> None:
    for option in spec.options:
        if option in _OWN_OPTIONS:
            raise UsageError("not an option to set here", where=f"options.{option}", hint=_OWN_OPTIONS[option])
        file = f"options/{option}"
        if file not in probe.values and file not in probe.top_values:
            near = difflib.get_close_matches(option, probe.option_names, 3, 0.6)
            raise UsageError(
                "this kernel has no such option", where=f"options.{option}", expected="a file of options/",
                got=repr(option),
                hint=f"did you mean {', '.join(near)}?" if near else f"there are: {' '.join(probe.option_names)}",
            )  # fmt: skip
    if spec.event_fork is not None and EVENT_FORK_FILE not in probe.files:
        raise UsageError("this kernel has no such option", where="event_fork", expected=EVENT_FORK_FILE, got="none")


def _check_probes(spec: InstanceSpec, probe: Probe) -> None:
    """Names in the kernel's own groups may be somebody else's.

    A user event with the same fields is the same one, whoever was first, and is left to whoever made it; a synthetic
    event is fed by its maker's triggers.
    """
    listed = {(event.group, event.name): event for event in probe.dynamic}
    for wish in spec.probes:
        other = listed.get((wish.group, wish.name))
        if other is None or wish.group not in KERNEL_GROUPS or (wish.group, wish.name) in probe.owned:
            continue
        if wish.group == USER_GROUP and same_definition(wish.definition, other.line):
            continue
        collect = f'events = ["{wish.group}:{wish.name}"] collects it'
        raise UsageError(
            "there is an event of this name already, made by somebody else", where="probes",
            expected="a name that is free" + (", or the same fields" if wish.group == USER_GROUP else ""),
            got=other.line,
            hint=f"{collect}; if nobody uses it, `echo '{other.removal}' >> {DYNAMIC_FILE}` in tracefs removes it",
        )  # fmt: skip


def _check_latency_tracer(spec: InstanceSpec, probe: Probe) -> None:
    """The kernel dates the start of a latency by the top level's clock, and the entries by the instance's."""
    if spec.tracer not in SWAPPING_TRACERS:
        return
    if probe.top_clock not in (None, spec.clock) and not spec.top_level:
        raise UsageError(
            "with another clock than the top level's the texts of this tracer are empty or cut", where="clock",
            expected=f"{probe.top_clock}, the top level's, or none", got=f"{spec.clock} with tracer = {spec.tracer}",
            hint="leave `clock` out: the top level's is taken",
        )  # fmt: skip
    if spec.read != "raw" and spec.tracer in FEEDING_TRACERS:
        raise UsageError(
            "the kernel prints lines with interrupts off, which is what this tracer traces: it would feed on itself",
            where="read", expected="raw", got=f"{spec.read} with tracer = {spec.tracer}",
        )  # fmt: skip


def _check_snapshots(spec: InstanceSpec, probe: Probe) -> None:
    """A snapshot takes the ring away from whoever reads it as it is written."""
    if spec.read != "snapshot":
        taking = [line for lines in spec.triggers.values() for line in lines if takes_snapshot(line)]
        if taking:
            raise UsageError(
                "a snapshot swaps the rings under their reader", where="triggers", expected='read = "snapshot"',
                got=f"{taking[0]} with read = {spec.read}",
            )  # fmt: skip
        return
    if probe.snapshot == "none":
        raise UsageError(
            "this kernel has no snapshots", where="read", expected=f"a file {SNAPSHOT_FILE} in each instance",
            got="none", hint="CONFIG_TRACER_SNAPSHOT makes it",
        )  # fmt: skip
    if spec.tracer in SWAPPING_TRACERS:
        raise UsageError(
            "this tracer keeps its longest trace where a snapshot would be", where="read", expected="raw or text",
            got=f"snapshot with tracer = {spec.tracer}",
        )  # fmt: skip
