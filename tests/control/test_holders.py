"""Who it is that the kernel means with EBUSY."""

import errno
import os
from pathlib import Path

import pytest

from collector.control.holders import read_other_tracers, why_tracer_is_busy
from collector.control.instance import Instance
from collector.control.neighbours import lock_key
from collector.errors import InstanceBusyError, TracefsError
from tests.control.test_desired import set_up, spec_of
from tests.tracefs.tree import FakeKernel, make_fake_kernel, put

TRACERS = "irqsoff preemptoff wakeup hwlat osnoise timerlat function_graph function nop\n"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    kernel = make_fake_kernel(tmp_path / "tracefs", "ours")
    put(kernel.path, {"available_tracers": TRACERS, "current_tracer": "nop\n"})
    put(kernel.path, {"instances/ours/available_tracers": TRACERS, "instances/ours/tracing_max_latency": "0\n"})
    put(kernel.path, {"instances/theirs/current_tracer": "nop\n", "instances/going/x": ""})
    return kernel


def test_tracers_of_other_buffers(kernel: FakeKernel) -> None:
    put(kernel.path, {"current_tracer": "wakeup\n", "instances/ours/current_tracer": "function\n"})
    put(kernel.path, {"instances/theirs/current_tracer": "irqsoff\n"})
    ours = kernel.instance("ours")
    assert read_other_tracers(ours, of_this_process=True) == {"": "wakeup", "theirs": "irqsoff"}
    assert read_other_tracers(kernel, of_this_process=True) == {"ours": "function", "theirs": "irqsoff"}


def test_buffers_of_this_process_will_be_as_its_configuration_says(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(kernel.path, {"instances/theirs/current_tracer": "irqsoff\n"})
    mine = {lock_key(os.stat(kernel.path / "instances/theirs")): os.getpid()}
    monkeypatch.setattr("collector.control.holders.read_flocks", lambda: mine)
    assert read_other_tracers(kernel.instance("ours"), of_this_process=False) == {}
    assert read_other_tracers(kernel.instance("ours"), of_this_process=True) == {"theirs": "irqsoff"}
    set_up(kernel, 'tracer = "irqsoff"').close()


@pytest.mark.parametrize(
    ("where", "held", "wished", "said"),
    [
        ("instances/theirs", "preemptoff", "irqsoff", "irqsoff, while instance theirs has preemptoff"),
        ("instances/theirs", "irqsoff", "irqsoff", "irqsoff, while instance theirs has irqsoff"),
        (".", "wakeup_rt", "wakeup", "wakeup, while the top level has wakeup_rt"),
        ("instances/theirs", "osnoise", "timerlat", "timerlat, while instance theirs has osnoise"),
        ("instances/theirs", "hwlat", "hwlat", "hwlat, while instance theirs has hwlat"),
    ],
)
def test_a_tracer_in_the_way_is_told_before_anything_is_written(
    kernel: FakeKernel, where: str, held: str, wished: str, said: str
) -> None:
    put(kernel.path / where, {"current_tracer": f"{held}\n"})
    with pytest.raises(InstanceBusyError, match=rf"beside another of its kind.*got {said}; .*echo nop > "):
        Instance.open(kernel, spec_of(kernel, f'tracer = "{wished}"'))
    assert kernel.written == []


@pytest.mark.parametrize(("held", "wished"), [("osnoise", "osnoise"), ("wakeup", "irqsoff"), ("function", "function")])
def test_what_runs_beside_it_is_not_in_the_way(kernel: FakeKernel, held: str, wished: str) -> None:
    put(kernel.path / "instances/theirs", {"current_tracer": f"{held}\n"})
    set_up(kernel, f'tracer = "{wished}"').close()


def test_ebusy_names_who_came_in_between(kernel: FakeKernel) -> None:
    made = Instance.open(kernel, spec_of(kernel, 'tracer = "irqsoff"'))
    put(kernel.path / "instances/theirs", {"current_tracer": "preemptoff\n"})
    kernel.refused[("current_tracer", "irqsoff")] = errno.EBUSY
    with pytest.raises(
        TracefsError, match=r"EBUSY.*one of irqsoff, preemptirqsoff, preemptoff.*instance theirs has.*preemptoff$"
    ):
        made.configure()
    made.close()


@pytest.mark.parametrize(
    ("files", "tracer", "said"),
    [
        ({}, "irqsoff", "a pipe or a mapping of this buffer is open, or another buffer has a tracer of its kind"),
        ({"instances/theirs/current_tracer": "osnoise\n"}, "osnoise", "instance theirs has the tracer osnoise"),
        (
            {"instances/ours/events/sched/sched_switch/trigger": "hist:keys=pid:onmax($a).snapshot() [active]\n"},
            "wakeup",
            "has the trigger hist:keys=pid:onmax($a).snapshot() [active], which needs its second ring",
        ),
        ({"function_profile_enabled": "1\n"}, "function_graph", "function_profile_enabled is on"),
    ],
)
def test_what_keeps_a_tracer_from_being_set(kernel: FakeKernel, files: dict[str, str], tracer: str, said: str) -> None:
    put(kernel.path, files)
    assert said in why_tracer_is_busy(kernel.instance("ours"), tracer)
