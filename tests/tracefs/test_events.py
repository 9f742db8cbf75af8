"""Patterns of events."""

import pytest

from collector.errors import UsageError
from collector.tracefs.events import near_matches, parse_available_events, select_events

AVAILABLE = [
    ("irq", "irq_handler_entry"),
    ("sched", "sched_switch"),
    ("sched", "sched_waking"),
    ("syscalls", "sys_enter_read"),
    ("syscalls", "sys_exit_read"),
]


def test_available_events_without_the_tracers_own() -> None:
    text = "sched:sched_waking\nftrace:function\nsched:sched_switch\n\n"
    assert parse_available_events(text) == [("sched", "sched_switch"), ("sched", "sched_waking")]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["sched:sched_switch"], ["sched_switch"]),
        (["sched:*"], ["sched_switch", "sched_waking"]),
        (["sched"], ["sched_switch", "sched_waking"]),
        (["sched:"], ["sched_switch", "sched_waking"]),
        (["sched_w*"], ["sched_waking"]),
        (["*:sys_enter_*"], ["sys_enter_read"]),
        ([":sys_enter_read"], ["sys_enter_read"]),
        (["s*:*_[se]*_read", "irq"], ["irq_handler_entry", "sys_enter_read", "sys_exit_read"]),
        (["sched:*", "sched_switch"], ["sched_switch", "sched_waking"]),
        ([], []),
    ],
)
def test_patterns(patterns: list[str], names: list[str]) -> None:
    assert [name for _, name in select_events(patterns, AVAILABLE)] == names


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("sched:sched_swich", "did you mean sched:sched_switch"),
        ("scheduler:sched_switch", "did you mean sched:sched_switch"),
        ("shed", "did you mean sched"),
        ("sched_swithc", "did you mean sched:sched_switch"),
        ("zzz:zzz", "available_events"),
        ("", "no such event"),
        ("ftrace:print", "cannot be enabled"),
    ],
)
def test_a_pattern_that_names_nothing(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        select_events(["irq", pattern], AVAILABLE)


def test_near_matches_are_few_and_each_once() -> None:
    near = near_matches("sched:sched_*", AVAILABLE)
    assert len(near) == len(set(near)) <= 5
