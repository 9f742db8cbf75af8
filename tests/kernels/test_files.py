"""The files of every generation: read, and the instance set up, with what there is."""

from pathlib import Path

import pytest

from collector.capture.source import RecordedSource
from collector.config.load import parse_config
from collector.control.desired import build_spec, preview
from collector.control.instance import Instance
from collector.doctor.survey import read_tree
from collector.errors import CollectorError
from tests.kernels.generation import GENERATIONS, HEAD, SINCE, Generation, of_release, release_of
from tests.kernels.trees import make_kernel
from tests.tracefs.tree import FakeKernel

CONFIG = """
[trace]
instance = "ours"
events = ["sched:sched_switch"]
"""

every = pytest.mark.parametrize("generation", GENERATIONS, ids=lambda kernel: kernel.name)


@pytest.fixture
def kernel(generation: Generation, tmp_path: Path) -> FakeKernel:
    return make_kernel(tmp_path / "tracefs", generation)


@every
def test_a_plan_writes_no_file_that_the_kernel_does_not_have(kernel: FakeKernel, generation: Generation) -> None:
    writes = preview(parse_config(CONFIG, "c").trace, kernel)
    assert {write.file for write in writes}.isdisjoint(generation.absent)
    clock = next((write.value for write in writes if write.file == "trace_clock"), "local")
    assert clock == ("mono" if release_of(generation.release) >= (3, 17) else "global")


@every
def test_an_instance_is_set_up(kernel: FakeKernel, generation: Generation) -> None:
    made = Instance.open(kernel, build_spec(parse_config(CONFIG, "c").trace, kernel))
    made.existed = False
    made.configure()
    assert made.dir.read_text("events/sched/sched_switch/enable") == "1\n"
    assert made.layout.word_size == generation.word_size
    assert set(made.missing) == {file for file in ("buffer_subbuf_size_kb", "buffer_percent", "set_event_notrace_pid",
                                                   "options/event-fork") if file in generation.absent}  # fmt: skip
    made.close()


@every
def test_doctor_looks_at_it(kernel: FakeKernel, generation: Generation) -> None:
    facts = read_tree(kernel, make_instance=False)
    assert "sched" in {system for system, _ in facts.events}
    assert facts.files["error_log"] == ("ENOENT" if "error_log" in generation.absent else "ok")


@every
def test_its_formats_and_counts_are_read(kernel: FakeKernel, generation: Generation) -> None:
    layout = kernel.read_layout()
    fmt = kernel.read_event_format("sched", "sched_switch", layout.word_size)
    assert [field.name for field in fmt.columns] == [field.name for field in generation.head[len(HEAD) :]]
    assert (kernel.read_stats(0).read_events is None) == (release_of(generation.release) < (3, 7))


@every
def test_an_empty_recording_of_it_is_read(kernel: FakeKernel, tmp_path: Path) -> None:
    (kernel.path / "per_cpu/cpu0/trace_pipe_raw").write_bytes(b"")
    assert RecordedSource(tmp_path, bytes(16), None).plan.subbuf_size == 4096


def test_every_file_that_came_later_is_absent_in_some_generation() -> None:
    later = {file for file, since in SINCE.items() if release_of(since) > (3, 10)}
    assert later == set().union(*(kernel.absent for kernel in GENERATIONS))


@pytest.mark.parametrize(
    ("release", "keys", "file"),
    [
        ("3.10", "saved_cmdlines_size = 500\nallow_top_level = true", "saved_cmdlines_size"),
        ("3.10", "event_pids = [1]", "set_event_pid"),
        ("4.4", "event_fork = true\nevent_pids = [1]", "options/event-fork"),
        ("4.14", 'probes = ["p:opening do_sys_openat2"]', "dynamic_events"),
        ("5.4", 'tracer = "function"\nnotrace_function_pids = [1]', "set_ftrace_notrace_pid"),
    ],
)
def test_what_a_kernel_cannot_do_is_refused_by_name(release: str, keys: str, file: str, tmp_path: Path) -> None:
    kernel = make_kernel(tmp_path / "tracefs", of_release(release))
    with pytest.raises(CollectorError, match=file):
        preview(parse_config(f"{CONFIG}{keys}", "c").trace, kernel)


def test_the_documentation_says_since_when_each_file_is_there() -> None:
    text = (Path(__file__).parents[2] / "docs/tracefs.md").read_text()
    for file, since in SINCE.items():
        assert f"| `{file}` | {since} |" in text, file
