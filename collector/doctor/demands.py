"""What a configuration needs, against what the facts say: a finding for each demand. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from collector.control.wish import default_buffer_size_kb
from collector.doctor.findings import Finding
from collector.tracefs.events import matching_events, near_matches
from collector.tracefs.facts import OK, Facts, TracingState, TreeFacts, Wanted
from collector.tracefs.snapshots import SWAPPING_TRACERS

TOP_LEVEL_REMEDY = (
    "top_level_buffer = true and allow_top_level = true, another tracer, or a newer kernel (6.12 runs function_graph "
    "in instances)"
)

# Settings whose files all users of tracing share.
SHARED_SETTINGS = ("tracing_thresh_us", "saved_cmdlines_size", "stack_tracer", "ftrace_enabled")

Capabilities = Mapping[str, Finding]  # {name: the kernel's finding}


def judge_wanted(facts: Facts, capabilities: Capabilities, wanted: Wanted) -> list[Finding]:
    """The demands of one instance, all of them needed; and its plan, where nothing else is in the way."""
    findings = list(_judge_demands(facts, capabilities, wanted))
    plan = facts.plans.get(wanted.instance)
    if plan is not None and not any(finding.is_obstacle for finding in findings):
        group = f"instance {wanted.instance}"
        if plan.refusal is None:
            findings.append(Finding(group, "plan", "ok", f"{plan.writes} writes, `plan` prints them", needed=True))
        else:
            findings.append(Finding(group, "plan", "missing", plan.refusal, "change this setting", needed=True))
    return findings


def _judge_demands(facts: Facts, capabilities: Capabilities, wanted: Wanted) -> Iterator[Finding]:
    group = f"instance {wanted.instance}"
    tree = facts.tree
    if tree is None:
        yield Finding(group, "tracefs", "missing", "it can't be entered, see above", "", needed=True)
        return
    yield _need(capabilities, group, "instances")
    yield _need(capabilities, group, "text pipes" if wanted.text else "snapshot" if wanted.snapshot else "raw pipes")
    yield from _judge_events(tree, group, wanted)
    yield _judge_clock(tree, group, wanted)
    if wanted.tracer != "nop":
        yield _judge_tracer(tree, capabilities, group, wanted)
    for name in dict.fromkeys(wanted.needs):
        yield _need(capabilities, group, name)
    yield from _judge_options(tree, group, wanted)
    if wanted.shared and not wanted.allow_top_level:
        yield Finding(group, "top level", "missing", f"shared by all users of tracing: {', '.join(wanted.shared)}",
                      "allow_top_level = true; the old values are put back at exit", needed=True)  # fmt: skip
    yield from _judge_cpus(facts, group, wanted)
    if wanted.subbuf_kb is not None and tree.instance and tree.instance.files.get("buffer_subbuf_size_kb", OK) != OK:
        yield Finding(group, "sub-buffer size", "note", f"{wanted.subbuf_kb} KiB are asked for; they stay one page")
    if wanted.exclude_self:
        yield _judge_exclusion(facts, capabilities, group)
    yield _judge_holder(facts, group, wanted)


def judge_memory(facts: Facts, wants: Sequence[Wanted]) -> Finding:
    """The rings of all instances, and what memory there is."""
    host = facts.host
    total_bytes = sum(ring_bytes(facts, wanted) for wanted in wants)
    text = f"{_mib(total_bytes)} for {len(host.online_cpus)} CPUs"
    available = host.memory_available_bytes
    if available is None:
        return Finding("memory", "rings", "unknown", f"{text}; what is free is not readable")
    evidence = f"{text}, {_mib(available)} of {_mib(host.memory_total_bytes)} are free"
    if total_bytes > available:
        remedy = "a smaller trace.buffer_size_kb, or fewer CPUs"
        return Finding("memory", "rings", "missing", evidence, remedy, needed=True)
    if total_bytes * 100 > host.memory_total_bytes * 10:
        return Finding("memory", "rings", "note", f"{evidence}: more than a tenth of all memory")
    return Finding("memory", "rings", "ok", evidence, needed=True)


def ring_bytes(facts: Facts, wanted: Wanted) -> int:
    """Bytes of all rings of an instance: the kernel allocates one for each CPU, traced or not."""
    cpus = facts.host.online_cpus
    size_kb = wanted.buffer_kb or default_buffer_size_kb(len(cpus), facts.host.memory_total_bytes)
    rings = 2 if wanted.snapshot else 1
    return rings * sum(wanted.cpu_buffers_kb.get(cpu, size_kb) for cpu in cpus) * 1024


def holder_of(facts: Facts, instance: str) -> TracingState | None:
    """The state of an instance that another process has locked; None: nobody has."""
    for state in facts.neighbours.states:
        if state.name == instance and state.holder is not None:
            return state
    return None


def _need(capabilities: Capabilities, group: str, name: str) -> Finding:
    found = capabilities.get(name)
    if found is None:
        return Finding(group, name, "unknown", "not looked at", needed=True)
    return replace(found, group=group, needed=True)


def _judge_events(tree: TreeFacts, group: str, wanted: Wanted) -> Iterator[Finding]:
    found = 0
    for pattern in wanted.events:
        matching = len(matching_events(pattern, tree.events))
        found += matching
        if not matching:
            near = near_matches(pattern, tree.events)
            remedy = f"did you mean {', '.join(near)}?" if near else "`list events` shows all of them"
            yield Finding(group, f"events {pattern}", "missing", "this kernel has none", remedy, needed=True)
    if found:
        yield Finding(group, "events", "ok", f"{found} of {len(tree.events)}", needed=True)


def _judge_clock(tree: TreeFacts, group: str, wanted: Wanted) -> Finding:
    if not wanted.clock:
        chosen = (
            "the top level's, by which this tracer dates" if wanted.tracer in SWAPPING_TRACERS else "mono if there is"
        )
        return Finding(group, "clock", "ok", f"none is asked for: {chosen}", needed=True)
    if wanted.clock in tree.clocks:
        return Finding(group, f"clock {wanted.clock}", "ok", "trace_clock has it", needed=True)
    remedy = f"this kernel has: {' '.join(tree.clocks)}"
    return Finding(group, f"clock {wanted.clock}", "missing", "trace_clock doesn't have it", remedy, needed=True)


def _judge_tracer(tree: TreeFacts, capabilities: Capabilities, group: str, wanted: Wanted) -> Finding:
    name = wanted.tracer
    found = capabilities.get(name)
    if found is None:
        remedy = f"this kernel has: {' '.join(tree.tracers)}"
        return Finding(group, f"tracer {name}", "missing", "not in available_tracers", remedy, needed=True)
    found = replace(found, group=group, name=f"tracer {name}", needed=True)
    made = tree.instance is not None and tree.instance.made == OK
    if wanted.top_level:
        return found
    if found.status == "ok" and made and tree.instance and name not in tree.instance.tracers:
        return replace(found, status="missing", remedy=TOP_LEVEL_REMEDY)
    return found


def _judge_options(tree: TreeFacts, group: str, wanted: Wanted) -> Iterator[Finding]:
    known = tree.options | (tree.instance.options if tree.instance else frozenset())
    for name in wanted.options:
        if known and name not in known:
            yield Finding(group, f"option {name}", "missing", "no such file in options/",
                          "`list options` shows all of them", needed=True)  # fmt: skip


def _judge_cpus(facts: Facts, group: str, wanted: Wanted) -> Iterator[Finding]:
    offline = set(wanted.cpus or ()) - set(facts.host.online_cpus)
    if offline:
        yield Finding(group, "CPUs", "note", f"offline now: {', '.join(map(str, sorted(offline)))}")


def _judge_exclusion(facts: Facts, capabilities: Capabilities, group: str) -> Finding:
    exclusion = capabilities.get("thread exclusion")
    if exclusion is not None and exclusion.status == "missing":
        return replace(exclusion, group=group, status="note")
    if not facts.host.initial_pid_namespace:
        return Finding(group, "thread exclusion", "note",
                       "this pid namespace doesn't know the ids that the kernel compares: the collector traces itself",
                       "run in the host's pid namespace, or exclude_self = false")  # fmt: skip
    return Finding(group, "thread exclusion", "ok", "set_event_notrace_pid")


def _judge_holder(facts: Facts, group: str, wanted: Wanted) -> Finding:
    name = "" if wanted.top_level else wanted.instance
    held = holder_of(facts, name)
    if held is not None:
        if held.holder_pid is not None and held.holder_pid == facts.place.locked_by:
            return Finding(group, "lock", "note", f"already running, as {held.holder}")
        return Finding(group, "lock", "missing", f"held by {held.holder}", "stop it, or name another instance",
                       needed=True)  # fmt: skip
    if wanted.top_level:
        return Finding(group, "lock", "ok", "no collector has the top level", needed=True)
    for state in facts.neighbours.states:
        if state.name == name:
            unread = f" with {state.unread} unread entries" if state.unread else ""
            return Finding(group, "lock", "note", f"an instance of that name exists{unread}, and nobody holds it",
                           "it will be taken over, see on_leftover")  # fmt: skip
    return Finding(group, "lock", "ok", "the name is free", needed=True)


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):,.0f} MiB" if size_bytes >= 10 << 20 else f"{size_bytes / (1 << 20):.1f} MiB"
