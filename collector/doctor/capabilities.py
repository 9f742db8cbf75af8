"""What a kernel can do, from facts: a finding for each capability, whatever is configured. Pure.

A file is probed, never the version: releases and CONFIG symbols only say where a missing one would come from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from collector.doctor.findings import FUNCTION_FILES, REFUSED, REFUSED_FUNCTIONS, Finding
from collector.doctor.kconfig import NOT_SET, TRACER_SYMBOLS, unset_symbols
from collector.tracefs.facts import ABSENT, EPERM, OK, Facts, TreeFacts

ROOT_REMEDY = "run as root, or mount tracefs with gid= and join that group"
NO_INSTANCE = "no instance could be made to look at"


@dataclass(frozen=True, slots=True)
class Feature:
    """A capability that one file gives."""

    group: str
    name: str
    place: Literal["top", "instance"]
    file: str
    symbols: tuple[str, ...] = ()  # CONFIG_* that it needs beside CONFIG_TRACING
    since: str = ""  # the release that brought it; "": older than all that the collector runs on
    without: str = ""  # what is lost without it


# Sources: the file's creation in kernel/trace/*.c and the Kconfig beside it; releases as in the kernel's log.
FEATURES = (
    Feature("rings", "raw pipes", "instance", "per_cpu/cpu0/trace_pipe_raw"),
    Feature("rings", "text pipes", "instance", "trace_pipe"),
    Feature("rings", "sub-buffer sizes", "instance", "buffer_subbuf_size_kb", since="6.8",
            without="sub-buffers are one page, which costs more calls"),
    Feature("rings", "watermark", "instance", "buffer_percent", since="5.0", without="a reader wakes for any entry"),
    Feature("rings", "thread exclusion", "instance", "set_event_notrace_pid", since="5.7",
            without="the collector's own threads are traced too"),
    Feature("rings", "snapshot", "instance", "snapshot", ("TRACER_SNAPSHOT",)),
    Feature("events", "system calls", "top", "events/syscalls", ("FTRACE_SYSCALLS",)),
    Feature("events", "histogram triggers", "top", "events/sched/sched_switch/hist", ("HIST_TRIGGERS",), "4.7"),
    Feature("events", "error log", "top", "error_log", since="5.2",
            without="a refused filter or trigger is not explained by the kernel"),
    Feature("dynamic events", "dynamic_events", "top", "dynamic_events", ("DYNAMIC_EVENTS",), "5.0"),
    Feature("dynamic events", "kprobe", "top", "kprobe_events", ("KPROBE_EVENTS",)),
    Feature("dynamic events", "uprobe", "top", "uprobe_events", ("UPROBE_EVENTS",)),
    Feature("dynamic events", "synthetic", "top", "synthetic_events", ("SYNTH_EVENTS",), "4.17"),
    Feature("dynamic events", "user_events", "top", "user_events_data", ("USER_EVENTS",), "6.4"),
    Feature("functions", "function filters", "top", "set_ftrace_filter", ("FUNCTION_TRACER", "DYNAMIC_FTRACE")),
    Feature("functions", "list of functions", "top", "available_filter_functions",
            ("FUNCTION_TRACER", "DYNAMIC_FTRACE")),
    Feature("functions", "function threads", "top", "set_ftrace_pid", ("FUNCTION_TRACER",)),
    Feature("functions", "graph filters", "top", "set_graph_function", ("FUNCTION_GRAPH_TRACER", "DYNAMIC_FTRACE")),
    Feature("functions", "stack tracer", "top", "stack_trace", ("STACK_TRACER",)),
    Feature("latency", "largest latency", "top", "tracing_max_latency", ("TRACER_MAX_TRACE",)),
    Feature("names", "names of threads", "top", "saved_cmdlines"),
    Feature("names", "processes of threads", "top", "saved_tgids", since="4.14"),
    Feature("names", "texts of trace_printk", "top", "printk_formats"),
)  # fmt: skip

# Kinds of dynamic events that only the text of README tells: {name: (how its line begins, symbols, release)}
README_KINDS = {
    "fprobe": ("f[:", ("FPROBE_EVENTS",), "6.4"),
    "tprobe": ("t[:", ("FPROBE_EVENTS",), "6.4"),
    "eprobe": ("e[:", ("EPROBE_EVENTS",), "5.15"),
}
PROBE_KINDS = ("kprobe", "uprobe", *README_KINDS, "synthetic", "user_events")

TOP_FILES = tuple(f.file for f in FEATURES if f.place == "top")
INSTANCE_FILES = tuple(f.file for f in FEATURES if f.place == "instance")


def judge_kernel(facts: Facts) -> Iterator[Finding]:
    """A finding for each thing that this kernel could do; nothing where tracefs can't be entered."""
    tree = facts.tree
    if tree is None:
        return
    yield _judge_instances(facts, tree)
    yield from (_judge_feature(facts, tree, feature) for feature in FEATURES if feature.group == "rings")
    yield _judge_large_subbufs(tree)
    yield Finding("events", "events", "ok" if tree.events else "missing", f"{len(tree.events)} in available_events",
                  "" if tree.events else from_where(facts, ("EVENT_TRACING",), ""))  # fmt: skip
    yield from (_judge_feature(facts, tree, f) for f in FEATURES if f.group in ("events", "dynamic events"))
    yield from (_judge_readme_kind(facts, tree, kind) for kind in README_KINDS)
    yield from (_judge_tracer(facts, tree, name) for name in dict.fromkeys((*TRACER_SYMBOLS, *tree.tracers)))
    yield from (_judge_feature(facts, tree, f) for f in FEATURES if f.group in ("functions", "latency", "names"))
    yield Finding("clocks", "trace clocks", "ok" if tree.clocks else "unknown", " ".join(tree.clocks) or "not readable")


def from_where(facts: Facts, symbols: tuple[str, ...], since: str) -> str:
    """What a kernel must be to have it."""
    host = facts.host
    later = f"Linux {since} or later (this is {host.release})"
    unset = unset_symbols(host.kconfig, symbols)
    if unset:
        # A symbol that the configuration doesn't even name may be of a later release.
        unnamed = since and not any(symbol in (host.kconfig or {}) for symbol in unset)
        return f"{later if unnamed else 'a kernel'} built with {_configs(unset)}, not set here"
    if symbols and host.kconfig is None:
        return f"{later if since else 'a kernel'} built with {_configs(symbols)}"
    if since:
        return later
    if symbols:
        return f"{_configs(symbols)} is set, so it was turned off when the kernel started: see /proc/cmdline"
    return "a kernel built with CONFIG_TRACING, and all of tracefs visible"


def refused_remedy(facts: Facts, file: str) -> str:
    """What to do when the kernel lets nobody, or not us, have a file."""
    if facts.host.uid != 0:
        return ROOT_REMEDY
    return REFUSED_FUNCTIONS if file.rpartition("/")[2] in FUNCTION_FILES else REFUSED


def _configs(symbols: tuple[str, ...]) -> str:
    return " and ".join(f"CONFIG_{symbol}" for symbol in symbols)


def _judge_feature(facts: Facts, tree: TreeFacts, feature: Feature) -> Finding:
    if feature.place == "top":
        access = tree.files.get(feature.file)
    else:
        access = tree.instance.files.get(feature.file) if tree.instance else None
    if access == OK:
        return Finding(feature.group, feature.name, "ok", feature.file)
    if access is None:
        evidence = NO_INSTANCE if feature.place == "instance" else f"{feature.file} was not looked at"
        return Finding(feature.group, feature.name, "unknown", evidence)
    if access == ABSENT:
        lost = f": {feature.without}" if feature.without else ""
        return Finding(feature.group, feature.name, "missing", f"no {feature.file}{lost}",
                       from_where(facts, feature.symbols, feature.since))  # fmt: skip
    return Finding(feature.group, feature.name, "missing", f"{feature.file}: {access}",
                   refused_remedy(facts, feature.file))  # fmt: skip


def _judge_instances(facts: Facts, tree: TreeFacts) -> Finding:
    if tree.instance is None:
        return Finding("rings", "instances", "unknown", "not tried")
    made = tree.instance.made
    if made == OK:
        return Finding("rings", "instances", "ok", "one was made and removed again")
    remedy = from_where(facts, (), "3.10") if made == ABSENT else refused_remedy(facts, "instances")
    if made == "ENOMEM":
        remedy = "free memory: an instance starts with 1.4 MiB per CPU"
    return Finding("rings", "instances", "missing", f"instances/: {made}", remedy)


def _judge_large_subbufs(tree: TreeFacts) -> Finding:
    name = "sub-buffers of 64 KiB"
    tried = tree.instance.large_subbufs if tree.instance else None
    if tried is None:
        return Finding("rings", name, "unknown", "not tried: the sub-buffer size is fixed, or there is no instance")
    if tried == OK:
        return Finding("rings", name, "ok", "memory gave them to an instance")
    return Finding("rings", name, "missing", f"buffer_subbuf_size_kb: {tried} for 64",
                   "memory is fragmented: smaller ones are taken by themselves")  # fmt: skip


def _judge_readme_kind(facts: Facts, tree: TreeFacts, kind: str) -> Finding:
    """README offers eprobes even where their symbol is off (6.18), so a configuration that says no is believed."""
    begin, symbols, since = README_KINDS[kind]
    kconfig = facts.host.kconfig or {}
    offered = any(begin in line for line in tree.readme.splitlines())
    off = any(kconfig.get(symbol) == NOT_SET for symbol in symbols)
    if offered and not off:
        return Finding("dynamic events", kind, "ok", "README describes it")
    if not tree.readme:
        return Finding("dynamic events", kind, "unknown", "README was not readable")
    evidence = f"CONFIG_{symbols[0]} is not set" if off else "README does not describe it"
    return Finding("dynamic events", kind, "missing", evidence, from_where(facts, symbols, since))


def _judge_tracer(facts: Facts, tree: TreeFacts, name: str) -> Finding:
    symbols = TRACER_SYMBOLS.get(name, ())
    if name not in tree.tracers:
        return Finding("tracers", name, "missing", "not in available_tracers", from_where(facts, symbols, ""))
    access = tree.files.get("set_ftrace_filter")
    if name in ("function", "function_graph") and access == EPERM:
        return Finding("tracers", name, "missing", f"in available_tracers, but set_ftrace_filter: {access}",
                       refused_remedy(facts, "set_ftrace_filter"))  # fmt: skip
    if tree.instance is None or tree.instance.made != OK:
        return Finding("tracers", name, "ok", "in available_tracers")
    if name in tree.instance.tracers:
        return Finding("tracers", name, "ok", "in an instance's available_tracers")
    return Finding("tracers", name, "ok", "in available_tracers, at the top level only")
