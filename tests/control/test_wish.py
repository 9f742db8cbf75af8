"""The plan of writes that sets an instance up."""

from dataclasses import replace

import pytest

from collector.control.planner import changes_discard, plan_exclusion, plan_instance
from collector.control.wish import (
    OPTIONAL_FILES,
    InstanceSpec,
    Probe,
    check_spec,
    default_buffer_size_kb,
    default_subbuf_size_kb,
    subbuf_sizes_to_try_kb,
    wanted_buffer_size_kb,
)
from collector.errors import UsageError

GIB = 1 << 30
SWITCH, WAKING = ("sched", "sched_switch"), ("sched", "sched_waking")

NEW = Probe(  # an instance as mkdir makes it
    files=frozenset(OPTIONAL_FILES),
    clock="local",
    clocks=("local", "mono", "boot"),
    buffer_size_kb=1410,
    subbuf_size_kb=4,
    buffer_percent=50,
    overwrite=True,
    tracing_on=True,
    cpumask=(0, 1),
    possible_cpus=(0, 1),
    cpu_count=2,
    memory_total_bytes=8 * GIB,
    enabled=frozenset(),
    systems={"sched": frozenset({"sched_switch", "sched_waking"})},
    unread=0,
)
SPEC = InstanceSpec("x", (SWITCH,))
# SPEC, done: what NEW reads as afterwards.
DONE = replace(NEW, clock="mono", buffer_size_kb=8253, subbuf_size_kb=64, enabled=frozenset({SWITCH}))


def written(spec: InstanceSpec, probe: Probe) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in plan_instance(spec, probe)]


def test_the_one_right_order() -> None:
    spec = InstanceSpec(
        "x", (SWITCH,), cpus=(1,), buffer_percent=25, overwrite=False, notrace_pids=(7, 5), buffer_size_kb=4096
    )
    assert written(spec, NEW) == [
        ("tracing_on", "0"),
        ("buffer_subbuf_size_kb", "64"),
        ("buffer_size_kb", "4096"),
        ("buffer_percent", "25"),
        ("options/overwrite", "0"),
        ("trace_clock", "mono"),
        ("tracing_cpumask", "2"),
        ("options/event-fork", "1"),
        ("set_event_notrace_pid", "5 7"),
        ("events/sched/sched_switch/enable", "1"),
        ("tracing_on", "1"),
    ]


def test_what_is_as_wished_is_not_written() -> None:
    assert written(SPEC, DONE) == []
    assert written(SPEC, replace(DONE, tracing_on=False)) == [("tracing_on", "1")]


def test_the_same_clock_is_never_written_because_that_clears_the_ring() -> None:
    assert "trace_clock" not in dict(written(replace(SPEC, buffer_size_kb=9000), DONE))


def test_events_are_changed_by_their_difference() -> None:
    spec = replace(SPEC, events=(WAKING,))
    assert written(spec, DONE)[1:-1] == [
        ("events/sched/sched_switch/enable", "0"),
        ("events/sched/sched_waking/enable", "1"),
    ]


def test_a_whole_system_is_one_write() -> None:
    assert written(replace(SPEC, events=(SWITCH, WAKING)), DONE)[1:-1] == [("events/sched/enable", "1")]


def test_without_the_optional_files() -> None:
    old = replace(NEW, files=frozenset(), buffer_percent=None)
    names = [name for name, _ in written(replace(SPEC, notrace_pids=(1,)), old)]
    assert names == ["tracing_on", "buffer_size_kb", "trace_clock", "events/sched/sched_switch/enable", "tracing_on"]
    assert subbuf_sizes_to_try_kb(SPEC, old) == (4,)


def test_exclusion() -> None:
    assert [(w.file, w.value, w.mode) for w in plan_exclusion([9, 3, 9], NEW.files)] == [
        ("options/event-fork", "1", "write"),
        ("set_event_notrace_pid", "3 9", "replace"),
    ]
    assert plan_exclusion([3], frozenset()) == []


@pytest.mark.parametrize(
    ("cpus", "memory", "size_kb"),
    [(2, 8 * GIB, 8192), (2, GIB, 5242), (64, 8 * GIB, 1310), (128, GIB // 4, 64), (0, GIB, 8192)],
)
def test_the_default_size_is_8_mib_but_at_most_a_hundredth_of_memory(cpus: int, memory: int, size_kb: int) -> None:
    assert default_buffer_size_kb(cpus, memory) == size_kb


def test_a_given_size_is_taken_as_it_is() -> None:
    assert wanted_buffer_size_kb(replace(SPEC, buffer_size_kb=5), NEW) == 5
    # Rings of CPUs that are not traced are allocated all the same.
    assert wanted_buffer_size_kb(replace(SPEC, cpus=(0,)), replace(NEW, memory_total_bytes=GIB)) == 5242


def test_many_rings_have_smaller_sub_buffers() -> None:
    assert (default_subbuf_size_kb(32), default_subbuf_size_kb(33)) == (64, 16)
    assert subbuf_sizes_to_try_kb(SPEC, replace(NEW, cpu_count=128)) == (16, 4)
    assert subbuf_sizes_to_try_kb(replace(SPEC, cpus=(0,)), replace(NEW, cpu_count=128)) == (64, 32, 16, 4)


@pytest.mark.parametrize(
    ("buffer_kb", "subbuf_kb", "sizes"),
    [
        (None, None, (64, 32, 16, 4)),
        (300, None, (32, 16, 4)),
        (8, None, (4,)),
        (64, 64, (64, 32, 16, 4)),
        (None, 20, (32, 16, 4)),
        (None, 256, (256, 64, 32, 16, 4)),
        (None, 1, (4,)),
    ],
)
def test_sub_buffer_sizes_to_try(buffer_kb: int | None, subbuf_kb: int | None, sizes: tuple[int, ...]) -> None:
    assert subbuf_sizes_to_try_kb(replace(SPEC, buffer_size_kb=buffer_kb, subbuf_size_kb=subbuf_kb), NEW) == sizes


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clock": "sundial"}, r"clock: .*one of local mono boot; got 'sundial'"),
        ({"buffer_size_kb": 0}, "buffer_size_kb"),
        ({"buffer_size_kb": 1 << 30}, r"1 to 2097152 KiB per CPU"),
        ({"subbuf_size_kb": 0}, "4 to 512 KiB"),
        ({"subbuf_size_kb": 1024}, "4 to 512 KiB"),
        ({"buffer_percent": 101}, "0 to 100"),
        ({"cpus": (0, 7)}, r"some of 0-1; got 0,7"),
        ({"cpus": ()}, "got none"),
    ],
)
def test_what_the_kernel_would_refuse_is_found_before(change: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        check_spec(replace(SPEC, **change), NEW)  # type: ignore[arg-type]


def test_a_good_spec_passes() -> None:
    check_spec(replace(SPEC, cpus=(1,), subbuf_size_kb=4, buffer_size_kb=64, buffer_percent=0), NEW)


@pytest.mark.parametrize(
    ("spec", "probe", "discards"),
    [
        (SPEC, replace(NEW, unread=0), False),
        (SPEC, replace(DONE, unread=1), False),
        (SPEC, replace(DONE, unread=1, buffer_size_kb=4096), False),  # growing keeps what is there
        (SPEC, replace(DONE, unread=1, buffer_size_kb=16384), True),
        (SPEC, replace(DONE, unread=1, buffer_size_kb=None), True),
        (SPEC, replace(DONE, unread=1, clock="boot"), True),
        (SPEC, replace(DONE, unread=1, subbuf_size_kb=4), True),
        (replace(SPEC, events=(), buffer_percent=1), replace(DONE, unread=1), False),
    ],
)
def test_changes_that_would_discard_unread_entries(spec: InstanceSpec, probe: Probe, discards: bool) -> None:
    assert changes_discard(spec, probe) is discards
