"""Hosts written down by hand, as `survey` would find them: for judging without the kernels."""

from dataclasses import replace

from collector.doctor.capabilities import INSTANCE_FILES, TOP_FILES
from collector.tracefs.facts import (
    Facts,
    HostFacts,
    InstanceFacts,
    MountFacts,
    NeighbourFacts,
    PlaceFacts,
    TracingState,
    TreeFacts,
)

GIB = 1 << 30
EVENTS = (("irq", "irq_handler_entry"), ("sched", "sched_switch"), ("sched", "sched_waking"))
README_61 = "Format: p[:[<group>/][<event>]] <place>\n  e[:[<group>/][<event>]] <attached-group>.<attached-event>\n"
README_612 = README_61 + "  f[:[<group>/][<event>]] <func-name>[%return]\n  t[:[<group>/][<event>]] <tracepoint>\n"
CLOCKS = ("local", "global", "counter", "uptime", "perf", "mono", "mono_raw", "boot", "tai", "x86-tsc")

# Symbols of Debian's cloud kernels.
DEBIAN = {
    "TRACING": "y", "EVENT_TRACING": "y", "FUNCTION_TRACER": "y", "FUNCTION_GRAPH_TRACER": "y", "DYNAMIC_FTRACE": "y",
    "BLK_DEV_IO_TRACE": "y", "MMIOTRACE": "y", "KPROBE_EVENTS": "y", "UPROBE_EVENTS": "y", "SYNTH_EVENTS": "y",
    "HIST_TRIGGERS": "y", "TRACER_SNAPSHOT": "y", "STACK_TRACER": "y", "FTRACE_SYSCALLS": "y", "DYNAMIC_EVENTS": "y",
    "IRQSOFF_TRACER": "n", "SCHED_TRACER": "n", "OSNOISE_TRACER": "n", "USER_EVENTS": "n",
}  # fmt: skip

# Symbols of a small virtual machine whose host keeps the function tracer to itself.
SMALL = {
    "TRACING": "y", "EVENT_TRACING": "y", "FUNCTION_TRACER": "y", "FUNCTION_GRAPH_TRACER": "n", "DYNAMIC_FTRACE": "y",
    "BLK_DEV_IO_TRACE": "y", "KPROBES": "n", "UPROBE_EVENTS": "y", "EPROBE_EVENTS": "n", "SYNTH_EVENTS": "n",
    "HIST_TRIGGERS": "n", "TRACER_SNAPSHOT": "n", "STACK_TRACER": "n", "FTRACE_SYSCALLS": "y", "FPROBE": "n",
    "DYNAMIC_EVENTS": "y", "USER_EVENTS": "n", "SECURITY_LOCKDOWN_LSM": "y",
}  # fmt: skip


def _files(names: tuple[str, ...], absent: set[str], refused: frozenset[str] = frozenset()) -> dict[str, str]:
    return {name: "ENOENT" if name in absent else "EPERM" if name in refused else "ok" for name in names}


def _host(release: str, kconfig: dict[str, str]) -> HostFacts:
    return HostFacts(
        release, capabilities=(1 << 41) - 1, lockdown="none", kconfig=kconfig, kconfig_path="/proc/config.gz",
        memory_total_bytes=8 * GIB, memory_available_bytes=6 * GIB, online_cpus=(0, 1),
    )  # fmt: skip


def _neighbours() -> NeighbourFacts:
    return NeighbourFacts(states=(TracingState("", "nop", "local", True, 0, 7, 4, 0),))


MOUNT = MountFacts("/sys/kernel/tracing", options="rw,relatime")
PLACE = PlaceFacts("/var/lib/traces", filesystem="ext4", free_bytes=50 * GIB, size_bytes=100 * GIB,
                   min_free_bytes=GIB, listen="127.0.0.1:9464")  # fmt: skip


def _debian(release: str, readme: str, instance: InstanceFacts) -> Facts:
    return Facts(
        _host(release, DEBIAN),
        MOUNT,
        TreeFacts(
            _files(TOP_FILES, {"user_events_data", "tracing_max_latency"}),
            ("blk", "mmiotrace", "function_graph", "function", "nop"),
            CLOCKS,
            EVENTS,
            frozenset({"overwrite", "func_stack_trace"}),
            readme,
            instance,
        ),
        _neighbours(),
        PLACE,
    )


DEBIAN_61 = _debian("6.1.0-56-cloud-amd64", README_61, InstanceFacts(
    "ok", _files(INSTANCE_FILES, {"buffer_subbuf_size_kb"}), ("function", "nop"), frozenset({"overwrite"}),
))  # fmt: skip

DEBIAN_612 = _debian("6.12.117-cloud-amd64", README_612, InstanceFacts(
    "ok", _files(INSTANCE_FILES, set()), ("function_graph", "function", "nop"),
    frozenset({"overwrite", "funcgraph-irqs"}), "ok",
))  # fmt: skip

REFUSING_618 = Facts(
    replace(_host("6.18.44", SMALL), lockdown=None),
    MOUNT,
    TreeFacts(
        _files(
            TOP_FILES,
            {"kprobe_events", "synthetic_events", "user_events_data", "events/sched/sched_switch/hist", "stack_trace",
             "set_graph_function", "tracing_max_latency"},
            frozenset({"set_ftrace_filter", "available_filter_functions", "set_ftrace_pid"}),
        ),
        ("blk", "function", "nop"),
        CLOCKS,
        EVENTS,
        frozenset({"overwrite", "func_stack_trace"}),
        README_61,
        InstanceFacts("ok", _files(INSTANCE_FILES, {"snapshot"}), ("function", "nop"), frozenset({"overwrite"}), "ok"),
    ),
    _neighbours(),
    PLACE,
)  # fmt: skip
