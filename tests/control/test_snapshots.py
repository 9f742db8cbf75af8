"""Snapshots on a stand-in for the kernel: what is written, what is refused, and what the command says."""

import errno
import fcntl
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from collector.config.load import parse_config
from collector.config.text import InvalidConfigError
from collector.control.instance import Instance
from collector.control.shutter import disarm_triggers, read_both, take_of_running
from collector.errors import TracefsError, UsageError
from collector.tracefs.files import TracefsDir
from collector.tracefs.snapshots import parse_snapshot_state, takes_on_condition, takes_snapshot
from tests.control.test_desired import SWITCH_FILES, set_up, spec_of, undo, writes_of
from tests.tracefs.tree import SECOND_RING, FakeKernel, make_fake_kernel, put, stats

RECORDER = 'read = "snapshot"'
ON_SWITCH = 'triggers = {{"sched:sched_switch" = ["{}"]}}'
ONMAX = "hist:keys=next_pid:p=prev_pid:onmax($p).snapshot()"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = make_fake_kernel(tmp_path / "tracefs", "ours")
    put(made.instance("ours").path, {"snapshot": SECOND_RING["freed"]})
    put(made.path, {"snapshot": SECOND_RING["freed"], "available_tracers": "wakeup function nop\n"})
    return made


@pytest.mark.parametrize("state", SECOND_RING)
def test_the_state_is_in_the_files_first_lines(state: str) -> None:
    assert parse_snapshot_state(SECOND_RING[state]) == state


@pytest.mark.parametrize(
    ("trigger", "takes", "on_condition"),
    [
        ("snapshot", True, False),
        ("snapshot:1 if prev_pid > 5", True, False),
        ("snapshot:count=0", True, False),
        (ONMAX, True, True),
        (f"{ONMAX} [active]", True, True),
        ("hist:keys=next_pid:onmax($p).save(prev_pid)", False, False),
        ("stacktrace", False, False),
        ("traceoff:1", False, False),
    ],
)
def test_triggers_that_swap_the_rings_are_known(trigger: str, takes: bool, on_condition: bool) -> None:
    assert (takes_snapshot(trigger), takes_on_condition(trigger)) == (takes, on_condition)


def test_the_ring_is_made_before_anything_can_take_a_snapshot_and_freed_at_the_end(kernel: FakeKernel) -> None:
    made = set_up(kernel, f'{RECORDER}\ntracer = "function"\n{ON_SWITCH.format("snapshot")}')
    files = [file for file, _ in kernel.written]
    order = ["tracing_on", "buffer_size_kb", "current_tracer", "snapshot", f"{SWITCH_FILES}/enable"]
    assert [files.index(file) for file in order] == sorted(files.index(file) for file in order)
    assert files.index("snapshot") < files.index(f"{SWITCH_FILES}/trigger")
    assert writes_of(kernel, "snapshot") == ["1"]
    undo(made)
    assert writes_of(kernel, "snapshot") == ["1", "0"]
    assert parse_snapshot_state(made.dir.read_text("snapshot")) == "freed"


def test_a_ring_that_is_there_is_taken_as_it_is(kernel: FakeKernel) -> None:
    put(kernel.instance("ours").path, {"snapshot": SECOND_RING["empty"]})
    set_up(kernel, RECORDER).close()
    assert writes_of(kernel, "snapshot") == []


def test_no_memory_for_the_ring_means_smaller_sub_buffers(kernel: FakeKernel) -> None:
    kernel.refused[("snapshot", "1")] = errno.ENOMEM
    made = Instance.open(kernel, replace(spec_of(kernel, RECORDER), subbuf_size_kb=16))
    with pytest.raises(TracefsError, match="ENOMEM"):
        made.configure()
    assert [note for note in made.notes if "no memory for sub-buffers of 16 KiB" in note]
    made.close()


def test_what_a_recorder_left_is_read_before_the_live_ring_is(kernel: FakeKernel) -> None:
    """Its entries and its counters are in two rings, also when both of them are empty."""
    put(kernel.instance("ours").path, {"snapshot": SECOND_RING["empty"]})
    raw = Instance.open(kernel, spec_of(kernel, ""))
    assert raw.needs_drain_before_configure
    raw.close()
    recorder = Instance.open(kernel, spec_of(kernel, RECORDER))
    assert not recorder.needs_drain_before_configure
    recorder.close()
    put(kernel.instance("ours").path, {"snapshot": SECOND_RING["full"]})
    other_clock = Instance.open(kernel, spec_of(kernel, f'{RECORDER}\ntracer = "function"'))
    assert other_clock.needs_drain_before_configure
    other_clock.close()


@pytest.mark.parametrize(
    ("keys", "missing", "said"),
    [
        (RECORDER, True, "this kernel has no snapshots.*CONFIG_TRACER_SNAPSHOT"),
        (f'{RECORDER}\ntracer = "wakeup"', False, "keeps its longest trace"),
        (ON_SWITCH.format("snapshot:1"), False, 'swaps the rings.*read = "snapshot".*snapshot:1 with read = raw'),
        (f'read = "text"\n{ON_SWITCH.format(ONMAX)}', False, "swaps the rings"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    kernel: FakeKernel, keys: str, missing: bool, said: str
) -> None:
    tree = kernel.instance("ours")
    put(tree.path, {"available_tracers": "wakeup function nop\n"})
    if missing:
        (tree.path / "snapshot").unlink()
    with pytest.raises(UsageError, match=f"(?s){said}"):
        Instance.open(kernel, spec_of(kernel, keys))
    assert kernel.written == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("snapshot_interval_s = 5", 'only with read = "snapshot", not with "raw"'),
        (f"{RECORDER}\nsnapshot_interval_s = 5\n{ON_SWITCH.format(ONMAX)}", "beside a histogram's snapshot()"),
        (f"{RECORDER}\nsnapshot_interval_s = 0", "at least 0.1"),
    ],
)
def test_an_interval_that_cannot_be_kept_is_a_wrong_configuration(keys: str, said: str) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(f"[trace]\n{keys}\n", "c")
    assert said in str(caught.value)


def test_triggers_are_disarmed_and_others_stay(kernel: FakeKernel) -> None:
    tree = kernel.instance("ours")
    put(tree.path, {f"{SWITCH_FILES}/trigger": f"snapshot:unlimited\nstacktrace:unlimited\n{ONMAX}\n"})
    disarm_triggers(tree)
    assert tree.read_text(f"{SWITCH_FILES}/trigger").split() == ["stacktrace:unlimited"]


class TwoRings(TracefsDir):
    """A snapshot swaps the counters; `others` says after which reads somebody else takes one too."""

    def __init__(self, path: Path, live: str, other: str, others: frozenset[int] = frozenset()) -> None:
        put(path, {"per_cpu/cpu0/stats": live, "other": other})
        super().__init__(path)
        self._others = others
        self.reads = 0

    def read_text(self, name: str) -> str:
        text = super().read_text(name)
        self.reads += 1
        if self.reads in self._others:
            self._swap()
        return text

    def _write(self, name: str, value: str, flags: int) -> None:
        assert (name, value) == ("snapshot", "1")
        self._swap()

    def _swap(self) -> None:
        live, other = self.path / "per_cpu/cpu0/stats", self.path / "other"
        texts = live.read_text(), other.read_text()
        live.write_text(texts[1])
        other.write_text(texts[0])


def counts(entries: int, read: int) -> str:
    return stats(entries).replace("read events: 0", f"read events: {read}")


@pytest.mark.parametrize("others", [set(), {1}, {2}, {2, 5}])
def test_both_rings_are_counted_whoever_else_takes_snapshots(tmp_path: Path, others: set[int]) -> None:
    tree = TwoRings(tmp_path, counts(1, 10), counts(2, 20), frozenset(others))
    both = read_both(tree, (0,))
    assert both is not None
    assert sorted((of.entries, of.read_events) for of in both[0]) == [(1, 10), (2, 20)]


def test_rings_that_never_stay_are_not_told_apart(tmp_path: Path) -> None:
    """One swap of others in each second interval: what was live first is not live in the end."""
    tree = TwoRings(tmp_path, counts(1, 10), counts(2, 20), frozenset(range(2, 100, 3)))
    assert read_both(tree, (0,)) is None


@pytest.fixture
def held(kernel: FakeKernel) -> Iterator[FakeKernel]:
    """An instance that a process has locked."""
    fd = os.open(kernel.instance("ours").path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    yield kernel
    os.close(fd)


def test_the_command_takes_one_of_every_recorder(held: FakeKernel) -> None:
    put(held.instance("ours").path, {"snapshot": SECOND_RING["empty"]})
    put(held.instance("theirs").path, {"snapshot": SECOND_RING["empty"]})
    assert take_of_running(held, []) == ["ours"]
    assert take_of_running(held, ["ours"]) == ["ours"]
    assert held.written == [("snapshot", "1"), ("snapshot", "1")]


@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("nowhere", "empty", "no such instance.*there are: ours"),
        ("ours", "freed", "its collector reads the live ring"),
        ("ours", "none", "this kernel has no snapshots.*CONFIG_TRACER_SNAPSHOT"),
        ("", "freed", "no collector reads snapshots here"),
    ],
)
def test_the_command_says_why_not(held: FakeKernel, name: str, state: str, said: str) -> None:
    path = held.instance("ours").path / "snapshot"
    path.write_text(SECOND_RING.get(state, ""))
    if state == "none":
        path.unlink()
    with pytest.raises(UsageError, match=f"(?s){said}"):
        take_of_running(held, [name] if name else [])
    assert held.written == []


def test_nobody_archives_what_is_taken_of_an_instance_without_a_collector(kernel: FakeKernel) -> None:
    put(kernel.instance("ours").path, {"snapshot": SECOND_RING["empty"]})
    with pytest.raises(UsageError, match="no collector runs on it"):
        take_of_running(kernel, ["ours"])


def test_the_kernels_refusal_says_who_has_the_ring(held: FakeKernel) -> None:
    put(held.instance("ours").path, {"snapshot": SECOND_RING["empty"]})
    held.refused[("snapshot", "1")] = errno.EBUSY
    with pytest.raises(TracefsError, match=r"(?s)EBUSY.*latency tracer, or a histogram"):
        take_of_running(held, ["ours"])
