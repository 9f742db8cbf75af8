"""Events that were made are gone when the kernel lists them no more: an errno proves nothing."""

import errno
import os
from pathlib import Path

import pytest

from collector.control.removal import remove_event
from collector.errors import TracefsError, TracefsMissingError, TracefsPermissionError
from tests.tracefs.tree import FakeKernel, make_fake_kernel, put

OTHERS = "p:theirs/x vfs_read\n"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return make_fake_kernel(tmp_path / "tracefs", "ours")


@pytest.mark.parametrize(
    ("line", "removal", "written"),
    [
        ("p:ftc_x/a vfs_read a=%di", "-:ftc_x/a", "-:ftc_x/a"),
        ("r10:ftc_x/a vfs_read", "-:ftc_x/a", "-:ftc_x/a"),
        ("p:ftc_x/a /bin/sh:0x0000000000000010", "-:ftc_x/a", "-:ftc_x/a"),
        ("f:ftc_x/a vfs_read%return", "-:ftc_x/a", "-:ftc_x/a"),
        ("t:ftc_x/a sched_switch", "-:ftc_x/a", "-:ftc_x/a"),
        ("e:ftc_x/a sched.sched_switch", "-:ftc_x/a", "-:ftc_x/a"),
        ("s:synthetic/a\tu64 lat; pid_t pid", "-:synthetic/a", "-:synthetic/a"),
        ("u:a", "-:user_events/a", "-:user_events/a"),
        ("u:a u32 a; char[8] b", "-:user_events/a u32 a; char[8] b", "-:user_events/a u32 a; char[8] b"),
        ("u:a u32 a; char[8] b", "-:user_events/a u32 a;char[8] b;", "-:user_events/a u32 a; char[8] b"),
        # As earlier versions noted it in their journals.
        ("u:a u32 a; struct s c 20", "-:user_events/a", "-:user_events/a u32 a; struct s c 20"),
    ],
)
def test_each_kind_is_removed_in_the_kernel_s_own_words(
    kernel: FakeKernel, line: str, removal: str, written: str
) -> None:
    put(kernel.path, {"dynamic_events": f"{OTHERS}{line}\n"})
    remove_event(kernel, removal)
    assert kernel.written == [("dynamic_events", written)]
    assert kernel.read_text("dynamic_events") == OTHERS


def test_what_is_not_listed_is_gone_already(kernel: FakeKernel) -> None:
    put(kernel.path, {"dynamic_events": OTHERS})
    remove_event(kernel, "-:ftc_x/a")
    (kernel.path / "dynamic_events").unlink()
    remove_event(kernel, "-:ftc_x/a")
    assert kernel.written == []


def test_another_user_event_of_the_name_stays(kernel: FakeKernel) -> None:
    put(kernel.path, {"dynamic_events": "u:a u32 x\nu:a u64 x\n"})
    remove_event(kernel, "-:user_events/a u64 x")
    assert kernel.read_text("dynamic_events") == "u:a u32 x\n"


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENODEV, errno.EINVAL, errno.EPERM, errno.EBUSY])
def test_no_errno_is_taken_for_gone(kernel: FakeKernel, number: int) -> None:
    put(kernel.path, {"dynamic_events": "u:a u32 x\n"})
    kernel.refused[("dynamic_events", "-:user_events/a u32 x")] = number
    with pytest.raises(TracefsError, match=rf"listed no more; got 'u:a u32 x', {errno.errorcode[number]}") as caught:
        remove_event(kernel, "-:user_events/a u32 x")
    assert not isinstance(caught.value, TracefsMissingError)
    assert isinstance(caught.value, TracefsPermissionError) == (number == errno.EPERM)


@pytest.mark.parametrize("number", [0, errno.ENOENT])
def test_what_somebody_else_removes_meanwhile_is_no_problem(
    kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    put(kernel.path, {"dynamic_events": "s:synthetic/a\tu64 x\n"})

    def race(tree: FakeKernel, name: str, value: str, flags: int) -> None:
        put(kernel.path, {"dynamic_events": ""})
        if number:
            failure = OSError(number, os.strerror(number))
            raise tree._error(failure, name, "the kernel refuses the value", value) from failure

    monkeypatch.setattr(FakeKernel, "_write", race)
    remove_event(kernel, "-:synthetic/a")


def test_a_write_that_the_kernel_takes_and_does_not_do(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    put(kernel.path, {"dynamic_events": "s:synthetic/a\tu64 x\n"})
    monkeypatch.setattr(FakeKernel, "_write", lambda *_: None)
    with pytest.raises(TracefsError, match=r"can't be removed; expected .* no more; got 's:synthetic/a"):
        remove_event(kernel, "-:synthetic/a")


@pytest.mark.parametrize(
    ("others", "files", "said"),
    [
        ("", {"instances/ours/set_event": "synthetic:a\n"}, "instance ours, where it is on"),
        ("", {"set_event": "synthetic:a\n"}, "the top level, where it is on"),
        ("e:theirs/e synthetic.a\ne:theirs/f synthetic.ab\n", {}, "the probe theirs/e"),
        (
            "",
            {
                "instances/ours/events/sched/sched_waking/trigger": "hist:keys=pid:onmatch(sched.x).a(pid)\n",
                "instances/ours/events/sched/sched_switch/trigger": "hist:keys=a\n",
            },
            "instance ours, by a trigger of sched:sched_waking",
        ),
        (
            "",
            {"instances/ours/events/synthetic/a/trigger": "traceoff:unlimited\n"},
            "instance ours, by a trigger of synthetic:a",
        ),
    ],
)
def test_who_uses_it_is_said(kernel: FakeKernel, others: str, files: dict[str, str], said: str) -> None:
    put(kernel.path, {"dynamic_events": f"s:synthetic/a\tu64 x\n{others}", **files})
    kernel.refused[("dynamic_events", "-:synthetic/a")] = errno.EBUSY
    with pytest.raises(TracefsError) as caught:
        remove_event(kernel, "-:synthetic/a")
    assert str(caught.value).endswith(f"it is used by {said}")


def test_that_nobody_is_seen_is_said_too(kernel: FakeKernel) -> None:
    put(kernel.path, {"dynamic_events": "p:ftc_x/a f\n"})
    kernel.refused[("dynamic_events", "-:ftc_x/a")] = errno.EBUSY
    with pytest.raises(TracefsError, match=r"used by perf, bpf"):
        remove_event(kernel, "-:ftc_x/a")
