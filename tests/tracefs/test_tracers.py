"""Which tracers exclude each other, and what each heeds."""

import pytest

from collector.tracefs.snapshots import SWAPPING_TRACERS
from collector.tracefs.tracers import excludes, explain_unheeded_shared, family_of, find_unheeded, is_tracers_option

ALL = (
    *("irqsoff", "preemptoff", "preemptirqsoff", "wakeup", "wakeup_rt", "wakeup_dl", "hwlat", "osnoise", "timerlat"),
    *("blk", "mmiotrace", "function", "function_graph", "nop"),
)
LATENCY = sorted(SWAPPING_TRACERS)


@pytest.mark.parametrize(
    ("tracer", "others"),
    [
        ("irqsoff", ["irqsoff", "preemptoff", "preemptirqsoff"]),
        ("preemptirqsoff", ["irqsoff", "preemptoff", "preemptirqsoff"]),
        ("wakeup_dl", ["wakeup", "wakeup_rt", "wakeup_dl"]),
        ("hwlat", ["hwlat"]),
        ("osnoise", ["timerlat"]),
        ("timerlat", ["osnoise"]),
        ("function", []),
        ("function_graph", []),
        ("nop", []),
        ("of_another_kernel", []),
    ],
)
def test_what_runs_not_beside_it(tracer: str, others: list[str]) -> None:
    assert [other for other in ALL if excludes(tracer, other)] == others


def test_an_older_kernel_may_run_one_of_the_family_only() -> None:
    assert family_of("osnoise") == {"osnoise", "timerlat"}


@pytest.mark.parametrize(
    ("name", "of_a_tracer"),
    [("func_stack_trace", True), ("func-no-repeats", True), ("funcgraph-irqs", True), ("sleep-time", True),
     ("blk_classic", True), ("test_nop_accept", True), ("function-trace", False), ("stacktrace", False)],
)  # fmt: skip
def test_options_of_tracers(name: str, of_a_tracer: bool) -> None:
    assert is_tracers_option(name) is of_a_tracer


@pytest.mark.parametrize(
    ("keys", "options", "heeding"),
    [
        (["functions"], [], ["function", "function_graph", *LATENCY]),
        (["notrace_functions"], [], ["function", "function_graph", *LATENCY]),
        (["function_pids"], [], ["function", "function_graph", *LATENCY]),
        ([], ["func_stack_trace"], ["function"]),
        ([], ["funcgraph-tail"], ["function_graph"]),
        ([], ["graph-time"], ["function_graph", *LATENCY]),
        ([], ["display-graph"], LATENCY),
        ([], ["blk_cgroup"], ["blk"]),
        ([], ["test_nop_refuse"], ["nop"]),
        (["events", "tracer", "event_pids"], ["stacktrace", "overwrite", "of_another_kernel"], ALL),
    ],
)
def test_who_heeds_it(keys: list[str], options: list[str], heeding: list[str]) -> None:
    assert sorted(t for t in ALL if not find_unheeded(t, keys, options)) == sorted(heeding)
    assert not find_unheeded("of_another_kernel", keys, options)


@pytest.mark.parametrize(
    ("key", "heeding"),
    [
        ("max_graph_depth", ["function_graph", *LATENCY]),
        ("graph_functions", ["function_graph", *LATENCY]),
        ("tracing_thresh_us", ["function_graph", "hwlat", "osnoise", *LATENCY]),
    ],
)
def test_who_heeds_what_all_share(key: str, heeding: list[str]) -> None:
    assert sorted(t for t in ALL if not explain_unheeded_shared(t, {key: 1})) == sorted(heeding)
    assert not any(explain_unheeded_shared("nop", {key: value}) for value in (None, ()))


def test_it_says_what_is_ignored_and_who_would_heed_it() -> None:
    found = find_unheeded("nop", ["functions"], ["sleep-time", "test_nop_accept"])
    assert list(found) == ["functions", "options.sleep-time"]
    assert "nop" not in found["options.sleep-time"]
    assert "function_graph" in found["options.sleep-time"]
