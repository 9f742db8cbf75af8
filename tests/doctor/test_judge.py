"""collector.doctor.judge: facts to findings. The hosts are in hosts.py; nothing is read."""

import json
from dataclasses import replace

import pytest

from collector.doctor.findings import REFUSED_FUNCTIONS, Finding
from collector.doctor.judge import Report, explain, format_report, judge
from collector.errors import TracefsError, TracefsPermissionError, UsageError
from collector.tracefs.facts import (
    Facts,
    InstanceFacts,
    MountFacts,
    NeighbourFacts,
    PipeReader,
    PlanFacts,
    TracingState,
    Wanted,
)
from tests.doctor.hosts import DEBIAN_61, DEBIAN_612, REFUSING_618

EVENTS = Wanted("ftc", ("sched:*",))


def find(report: Report, group: str, name: str) -> Finding:
    (found,) = [f for f in report.findings if (f.group, f.name) == (group, name)]
    return found


def obstacles(facts: Facts, *wants: Wanted) -> list[str]:
    return [f"{f.group}: {f.name}" for f in judge(facts, wants).obstacles]


@pytest.mark.parametrize("facts", [DEBIAN_61, DEBIAN_612, REFUSING_618])
def test_events_are_recorded_everywhere(facts: Facts) -> None:
    report = judge(facts, [EVENTS])
    assert report.can_run
    assert find(report, "instance ftc", "events").evidence == "2 of 3"
    assert format_report(report).endswith("\nThe configuration can run here.\n")


def test_without_a_configuration_the_kernel_is_judged_and_nothing_is_an_obstacle() -> None:
    report = judge(REFUSING_618)
    assert report.can_run
    assert not any(f.group.startswith(("instance ", "archive", "memory")) for f in report.findings)


@pytest.mark.parametrize(
    ("facts", "name", "status", "remedy"),
    [
        (DEBIAN_61, "sub-buffer sizes", "missing", "Linux 6.8 or later (this is 6.1.0-56-cloud-amd64)"),
        (DEBIAN_612, "sub-buffer sizes", "ok", ""),
        (DEBIAN_61, "fprobe", "missing", "or later (this is 6.1.0-56-cloud-amd64) built with CONFIG_FPROBE_EVENTS"),
        (DEBIAN_612, "fprobe", "ok", ""),
        (DEBIAN_61, "eprobe", "ok", ""),
        (REFUSING_618, "eprobe", "missing", "CONFIG_EPROBE_EVENTS"),  # though README describes it
        (REFUSING_618, "kprobe", "missing", "a kernel built with CONFIG_KPROBE_EVENTS, not set here"),
        (REFUSING_618, "uprobe", "ok", ""),
        (REFUSING_618, "snapshot", "missing", "CONFIG_TRACER_SNAPSHOT"),
        (REFUSING_618, "histogram triggers", "missing", "CONFIG_HIST_TRIGGERS"),
        (REFUSING_618, "stack tracer", "missing", "CONFIG_STACK_TRACER"),
        (REFUSING_618, "function filters", "missing", REFUSED_FUNCTIONS),
        (REFUSING_618, "function", "missing", REFUSED_FUNCTIONS),
        (REFUSING_618, "graph filters", "missing", "CONFIG_FUNCTION_GRAPH_TRACER"),
        (DEBIAN_61, "function", "ok", ""),
        (DEBIAN_61, "osnoise", "missing", "CONFIG_OSNOISE_TRACER"),
        (DEBIAN_61, "preemptirqsoff", "missing", "CONFIG_IRQSOFF_TRACER and CONFIG_PREEMPT_TRACER"),
    ],
)  # fmt: skip
def test_a_capability_and_what_would_give_it(facts: Facts, name: str, status: str, remedy: str) -> None:
    (found,) = [f for f in judge(facts).findings if f.name == name]
    assert found.status == status
    assert remedy in found.remedy
    assert bool(found.remedy) == (status == "missing")


def test_a_tracer_of_the_top_level_is_not_read() -> None:
    graph = replace(EVENTS, tracer="function_graph")
    assert obstacles(DEBIAN_612, graph) == []
    assert obstacles(DEBIAN_61, graph) == ["instance ftc: tracer function_graph"]
    found = find(judge(DEBIAN_61, [graph]), "instance ftc", "tracer function_graph")
    assert found.evidence == "in available_tracers, at the top level only"
    assert "6.12 runs function_graph in instances" in found.remedy


def test_what_a_host_refuses_is_final() -> None:
    wanted = replace(EVENTS, tracer="function", needs=("function filters",))
    report = judge(REFUSING_618, [wanted])
    assert [f.name for f in report.obstacles] == ["tracer function", "function filters"]
    assert {f.remedy for f in report.obstacles} == {REFUSED_FUNCTIONS}
    assert "The configuration cannot run here: 2 obstacles.\n" in format_report(report)


def test_an_unprivileged_user_is_told_to_be_root_instead() -> None:
    user = replace(REFUSING_618, host=replace(REFUSING_618.host, uid=1000))
    assert find(judge(user), "functions", "function filters").remedy.startswith("run as root")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted("ftc", ("sched:sched_swich",)), ["events sched:sched_swich"]),
        (Wanted("ftc", clock="ppc-tb"), ["clock ppc-tb"]),
        (Wanted("ftc", tracer="wakeup"), ["tracer wakeup"]),
        (Wanted("ftc", tracer="nonsense"), ["tracer nonsense"]),
        (Wanted("ftc", needs=("kprobe", "uprobe", "kprobe", "synthetic")), ["kprobe", "synthetic"]),
        (
            Wanted("ftc", needs=("histogram triggers", "snapshot", "stack tracer")),
            ["histogram triggers", "snapshot", "stack tracer"],
        ),
        (Wanted("ftc", options=("overwrite", "func_stack_trace", "nonsense")), ["option nonsense"]),
        (Wanted("ftc", shared=("tracing_thresh",)), ["top level"]),
        (Wanted("ftc", shared=("tracing_thresh",), allow_top_level=True), []),
        (Wanted("ftc", subbuf_kb=64, cpus=(0, 1)), []),
    ],
)
def test_what_is_missing_for_a_configuration(wanted: Wanted, expected: list[str]) -> None:
    assert obstacles(REFUSING_618, wanted) == [f"instance ftc: {name}" for name in expected]


def test_a_misspelt_event_comes_with_what_it_may_mean() -> None:
    found = find(judge(DEBIAN_61, [Wanted("ftc", ("sched:sched_swich",))]), "instance ftc", "events sched:sched_swich")
    assert found.remedy.startswith("did you mean sched:sched_switch")


def test_a_sub_buffer_size_that_cannot_be_set_is_a_note() -> None:
    found = find(judge(DEBIAN_61, [replace(EVENTS, subbuf_kb=64)]), "instance ftc", "sub-buffer size")
    assert found.status == "note"


def test_an_offline_cpu_is_a_note() -> None:
    found = find(judge(DEBIAN_61, [replace(EVENTS, cpus=(0, 3))]), "instance ftc", "CPUs")
    assert (found.status, found.evidence) == ("note", "offline now: 3")


def test_rings_take_one_percent_of_memory_unless_told_otherwise() -> None:
    found = find(judge(DEBIAN_61, [EVENTS]), "memory", "rings")
    assert found.evidence == "16 MiB for 2 CPUs, 6,144 MiB of 8,192 MiB are free"
    small = replace(DEBIAN_61, host=replace(DEBIAN_61.host, memory_available_bytes=10 << 20))
    assert obstacles(small, EVENTS) == ["memory: rings"]
    two = judge(DEBIAN_61, [replace(EVENTS, buffer_kb=1 << 19, cpu_buffers_kb={1: 1024}), Wanted("i", buffer_kb=512)])
    assert find(two, "memory", "rings").evidence.startswith("514 MiB for 2 CPUs")
    much = judge(DEBIAN_61, [replace(EVENTS, buffer_kb=1 << 19)])
    assert find(much, "memory", "rings").status == "note"


@pytest.mark.parametrize(
    ("mount", "obstacle", "remedy"),
    [
        (MountFacts(None), "mounted", "mount -t tracefs"),
        (MountFacts("/sys/kernel/tracing", "EACCES", "rw"), "mounted", "refuses"),
    ],
)
def test_without_tracefs_there_is_little_to_say(mount: MountFacts, obstacle: str, remedy: str) -> None:
    report = judge(replace(DEBIAN_61, mount=mount, tree=None), [EVENTS])
    assert [f.name for f in report.obstacles] == [obstacle, "tracefs"]
    assert not any(f.group == "who else is tracing" for f in report.findings)
    assert remedy in report.obstacles[0].remedy


def test_a_read_only_mount_is_an_obstacle() -> None:
    read_only = replace(DEBIAN_61, mount=MountFacts("/sys/kernel/tracing", options="ro,relatime"))
    assert obstacles(read_only, EVENTS) == ["tracefs: writable"]


@pytest.mark.parametrize(
    ("made", "remedy"), [("ENOMEM", "free memory"), ("ENOENT", "Linux 3.10"), ("EPERM", "refuses")]
)
def test_an_instance_that_cannot_be_made(made: str, remedy: str) -> None:
    assert DEBIAN_61.tree is not None
    facts = replace(DEBIAN_61, tree=replace(DEBIAN_61.tree, instance=InstanceFacts(made)))
    report = judge(facts, [EVENTS])
    assert [f"{f.group}: {f.name}" for f in report.obstacles] == ["instance ftc: instances"]
    assert remedy in report.obstacles[0].remedy
    assert find(report, "rings", "raw pipes").status == "unknown"


def test_what_hides_symbols() -> None:
    def symbols(**changes: object) -> Finding:
        host = replace(DEBIAN_61.host, symbols="hidden", **changes)  # type: ignore[arg-type]
        return find(judge(replace(DEBIAN_61, host=host)), "host", "symbols of addresses")

    assert symbols(capabilities=0).evidence == "kallsyms shows zeros: CAP_SYSLOG is missing"
    assert "ProtectKernelLogs" in symbols(capabilities=0).remedy
    assert symbols(kptr_restrict=2).remedy == "sysctl kernel.kptr_restrict=1"


def test_a_pid_namespace_of_its_own_lets_the_collector_trace_itself() -> None:
    report = judge(replace(DEBIAN_61, host=replace(DEBIAN_61.host, initial_pid_namespace=False)), [EVENTS])
    assert report.can_run
    assert find(report, "host", "pid namespace").status == "missing"
    assert find(report, "instance ftc", "thread exclusion").status == "note"


def test_who_else_is_tracing_is_said() -> None:
    neighbours = NeighbourFacts(
        (TracingState("", "function", "local", True, 3), TracingState("idle", "nop", "mono", False, 9),
         TracingState("perfetto", "nop", "boot", True, 40, unread=7, holder="traced (88)", holder_pid=88)),
        (PipeReader(88, "traced\x1b[2J", "perfetto", 2),), 4, 1,
    )  # fmt: skip
    report = judge(replace(DEBIAN_61, neighbours=neighbours), [EVENTS])
    assert report.can_run
    group = "who else is tracing"
    assert find(report, group, "top level").evidence == "3 events on, tracer function"
    assert find(report, group, "instance perfetto").evidence == "40 events on, 7 entries unread, held by traced (88)"
    assert find(report, group, "process 88").evidence.startswith("traced\x1b[2J has 2 pipes of instance perfetto open")
    assert find(report, group, "open files").evidence == "4 processes don't show theirs"
    assert find(report, group, "perf and BPF").status == "unknown"
    assert not any(f.name == "instance idle" for f in report.findings)
    assert "\x1b" not in format_report(report)


def test_an_instance_held_by_another_process_is_an_obstacle() -> None:
    held = TracingState("ftc", "nop", "mono", True, 2, holder="ftrace-collecto (12)", holder_pid=12)
    busy = replace(DEBIAN_61, neighbours=NeighbourFacts((held,)))
    assert obstacles(busy, EVENTS) == ["instance ftc: lock"]
    assert obstacles(replace(busy, place=replace(busy.place, locked_by=13, listen_access="EADDRINUSE")), EVENTS) == [
        "archive: lock", "http: address", "instance ftc: lock",
    ]  # fmt: skip


def test_a_collector_that_runs_with_this_configuration_is_no_obstacle() -> None:
    held = TracingState("ftc", "nop", "mono", True, 2, holder="ftrace-collecto (12)", holder_pid=12)
    facts = replace(
        DEBIAN_61,
        neighbours=NeighbourFacts((held,), (PipeReader(12, "ftrace-collecto", "ftc", 2),)),
        place=replace(DEBIAN_61.place, locked_by=12, listen_access="EADDRINUSE"),
    )
    report = judge(facts, [EVENTS])
    assert report.can_run
    assert find(report, "instance ftc", "lock").evidence == "already running, as ftrace-collecto (12)"
    assert not any(f.name == "process 12" for f in report.findings)


def test_an_instance_that_nobody_holds_will_be_taken_over() -> None:
    left = replace(DEBIAN_61, neighbours=NeighbourFacts((TracingState("ftc", "nop", "mono", False, 0, unread=5),)))
    found = find(judge(left, [EVENTS]), "instance ftc", "lock")
    assert (found.status, "5 unread entries" in found.evidence) == ("note", True)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"folder_access": "EROFS"}, "archive: folder"),
        ({"free_bytes": 1000}, "archive: folder"),
        ({"locked_by": 0}, "archive: lock"),
        ({"listen_access": "EADDRNOTAVAIL"}, "http: address"),
        ({"listen": "", "listen_access": "EADDRINUSE"}, None),
        ({"filesystem": "tmpfs"}, None),
        ({"filesystem": "nfs4"}, None),
    ],
)
def test_the_archive_and_the_address(change: dict[str, object], obstacle: str | None) -> None:
    facts = replace(DEBIAN_61, place=replace(DEBIAN_61.place, **change))  # type: ignore[arg-type]
    assert obstacles(facts, EVENTS) == ([obstacle] if obstacle else [])


def test_a_kernel_without_a_readable_configuration_is_judged_by_its_files() -> None:
    host = replace(REFUSING_618.host, kconfig=None, kconfig_path=None)
    report = judge(replace(REFUSING_618, host=host))
    assert find(report, "host", "kernel configuration").status == "unknown"
    assert find(report, "dynamic events", "kprobe").remedy == ("a kernel built with CONFIG_KPROBE_EVENTS")
    assert find(report, "dynamic events", "eprobe").status == "ok"  # README is all there is


@pytest.mark.parametrize("facts", [DEBIAN_61, DEBIAN_612, REFUSING_618])
def test_the_summary_is_json_with_every_finding(facts: Facts) -> None:
    report = judge(facts, [EVENTS, Wanted("graph", tracer="function_graph")])
    summary = json.loads(json.dumps(report.summary()))
    assert summary["can_run"] == (facts is DEBIAN_612)
    assert len(summary["findings"]) == len(report.findings)
    assert {f["status"] for f in summary["findings"]} <= {"ok", "missing", "unknown", "note"}


@pytest.mark.parametrize(
    ("error", "explained"),
    [
        (TracefsPermissionError("x", where="/t/i/set_ftrace_filter", got="EPERM (no) for 'f'"), REFUSED_FUNCTIONS),
        (TracefsPermissionError("x", where="/t/i/current_tracer", got="EPERM (no) for 'function'"), REFUSED_FUNCTIONS),
        (TracefsPermissionError("x", where="/t/i/current_tracer", got="EPERM (no) for 'hwlat'"), None),
        (TracefsPermissionError("x", where="/t/set_ftrace_filter", got="EACCES (no)"), None),
        (TracefsPermissionError("x", where="/t/tracing_on", got="EPERM (no)"), None),
        (UsageError("x"), None),
    ],
)  # fmt: skip
def test_an_error_is_explained_in_the_words_of_doctor(error: TracefsError, explained: str | None) -> None:
    assert explain(error) == explained


def test_a_tracer_refused_in_an_instance_is_explained() -> None:
    error = TracefsError("x", where="/t/instances/i/current_tracer", got="EINVAL (Invalid argument) for 'blk'")
    assert "`ftrace-collector list tracers`" in (explain(error) or "")


def test_what_run_would_end_with_is_an_obstacle_unless_something_else_already_is() -> None:
    facts = replace(DEBIAN_61, plans={"ftc": PlanFacts(refusal="mmiotrace takes all CPUs but one offline")})
    (found,) = judge(facts, [EVENTS]).obstacles
    assert (found.name, found.evidence) == ("plan", "mmiotrace takes all CPUs but one offline")
    assert obstacles(facts, replace(EVENTS, clock="sundial")) == ["instance ftc: clock sundial"]
    good = judge(replace(DEBIAN_61, plans={"ftc": PlanFacts(7)}), [EVENTS])
    assert find(good, "instance ftc", "plan").evidence == "7 writes, `plan` prints them"
