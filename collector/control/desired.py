"""From the settings of an instance to what the kernel is asked for: names looked up, lines parsed, writes planned."""

from collections.abc import Iterable
from dataclasses import replace

from collector.config.trace import TraceConfig
from collector.control.feasible import check_desired
from collector.control.holders import read_rival_tracers
from collector.control.journal import TOP_LEVEL, Journals
from collector.control.planner import events_of_earlier, plan_instance
from collector.control.probing import read_probe, read_probe_of_none, resolve_events
from collector.control.toplevel import check_free_to_plan, plan_top_level, read_top_probe
from collector.control.wish import DEFAULT_CLOCK, InstanceSpec, Write, default_clock
from collector.tracefs.dynamic import parse_probes
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir
from collector.tracefs.snapshots import PAUSE_OPTION, SWAPPING_TRACERS


def build_spec(trace: TraceConfig, tracefs: TracefsDir, own_threads: Iterable[int] = ()) -> InstanceSpec:
    """The instance that the settings describe, on this kernel.

    Args:
      own_threads: thread ids that must not be traced.

    Raises:
      UsageError: an event doesn't exist here, or a line is no probe.
    """
    probes = parse_probes(trace.probes, trace.instance)
    made = [(probe.group, probe.name) for probe in probes]
    events = resolve_events(tracefs, [*trace.filters, *trace.triggers], made)
    return InstanceSpec(
        name=trace.instance,
        events=tuple(tracefs.match_events(trace.events)),
        clock=trace.clock or _default_clock(trace, tracefs),
        buffer_size_kb=trace.buffer_size_kb,
        subbuf_size_kb=trace.subbuf_size_kb,
        cpus=trace.cpus,
        buffer_percent=trace.buffer_percent,
        overwrite=trace.overwrite,
        notrace_pids=tuple(own_threads),
        keep=trace.keep_instance,
        read=trace.read,
        cpu_buffer_sizes_kb=trace.buffer_size_kb_per_cpu,
        tracer=trace.tracer,
        options=_quiet_options(trace, tracefs) | trace.options,
        event_pids=trace.event_pids,
        hidden_pids=trace.notrace_pids,
        event_fork=trace.event_fork,
        functions=trace.functions,
        notrace_functions=trace.notrace_functions,
        graph_functions=trace.graph_functions,
        graph_notrace_functions=trace.graph_notrace_functions,
        max_graph_depth=trace.max_graph_depth,
        function_pids=trace.function_pids,
        notrace_function_pids=trace.notrace_function_pids,
        probes=probes,
        filters={events[name]: expression for name, expression in trace.filters.items()},
        triggers={events[name]: lines for name, lines in trace.triggers.items()},
        tracing_thresh_us=trace.tracing_thresh_us,
        saved_cmdlines_size=trace.saved_cmdlines_size,
        stack_tracer=trace.stack_tracer,
        ftrace_enabled=trace.ftrace_enabled,
        allow_top_level=trace.allow_top_level,
        consent_mmiotrace=trace.consent_mmiotrace,
        top_level=trace.top_level_buffer,
        block_devices=trace.block_devices,
    )


def _default_clock(trace: TraceConfig, tracefs: TracefsDir) -> str:
    current, clocks = tracefs.top.read_clock()
    return DEFAULT_CLOCK if trace.top_level_buffer else default_clock(trace.tracer, current, clocks)


def _quiet_options(trace: TraceConfig, tracefs: TracefsDir) -> dict[str, bool]:
    """What must be off for a latency tracer's text to be read without stopping it."""
    is_needed = trace.tracer in SWAPPING_TRACERS and tracefs.top.exists(f"options/{PAUSE_OPTION}")
    return {PAUSE_OPTION: False} if is_needed else {}


def preview(trace: TraceConfig, tracefs: TracefsDir, journals: Journals | None = None) -> list[Write]:
    """What `run` would write for these settings, as things are now; nothing is written.

    The collector's own threads are not known yet: they are added to those that are not traced.

    Args:
      journals: by which what a killed run has left is known from what others do.

    Raises:
      UsageError, TracefsError: what `run` would end with.
    """
    spec = build_spec(trace, tracefs)
    if spec.top_level:
        check_free_to_plan(tracefs.top, journals)
        tree, probe, exists = tracefs.top, read_top_probe(tracefs.top, spec), False
    else:
        tree = tracefs.instance(spec.name)
        exists = tree.path.is_dir()
        probe = read_probe(tree, spec, existed=True) if exists else read_probe_of_none(tracefs, spec)
    if journals is not None:
        key = TOP_LEVEL if spec.top_level else spec.name
        owned = next((record.events for record in journals.read_all() if record.key == key), frozenset[EventName]())
    else:
        owned = events_of_earlier(spec, exists)
    probe = replace(probe, owned=owned, other_tracers=read_rival_tracers(tree, spec))
    check_desired(spec, probe)
    return plan_top_level(tree, spec, probe) if spec.top_level else plan_instance(spec, probe)


def describe(write: Write) -> dict[str, str]:
    """A write for `plan --json`."""
    return {
        "scope": write.scope,
        "file": write.file,
        "mode": write.mode,
        "value": write.value,
        "verify": write.verify,
        "undone_by": write.undone_by,
    }
