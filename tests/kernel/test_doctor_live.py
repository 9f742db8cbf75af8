"""`list` and `doctor` on the live kernel: what they say is what the kernel does, and nothing stays changed."""

import fcntl
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.doctor.findings import REFUSED_FUNCTIONS
from tests.kernel.conftest import read_top_level
from tests.kernel.daemon import COMMAND


def command(*words: str | Path, code: int = 0) -> str:
    """The standard output of the command, which must end with that code and without a traceback."""
    done = subprocess.run([COMMAND, *map(str, words)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr if code else done.stdout


def listed(*words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command("list", *words, "--json").splitlines()]


@pytest.fixture(autouse=True)
def unchanged(tracefs: Path) -> Iterator[None]:
    """The top level, and what instances of ours there are, must be the same afterwards."""

    def state() -> tuple[dict[str, str], list[str]]:
        own = sorted(n for n in os.listdir(tracefs / "instances") if n.startswith("ftc-doctor-"))
        # "7 (expanded: 1408)" becomes "7" on 6.1 once any instance, such as a test's own, has got a size.
        top = {name: text.partition(" (expanded")[0].strip() for name, text in read_top_level().items()}
        return top, own

    before = state()
    yield
    assert state() == before


@pytest.fixture
def report(tmp_path: Path, instance_name: str) -> dict[str, Any]:
    """What doctor says about a configuration that records markers and events of the scheduler."""
    text = command("doctor", "--json", "--instance", instance_name, "--output", tmp_path / "a", "--http", "")
    summary: dict[str, Any] = json.loads(text)
    assert not (tmp_path / "a").exists()
    return summary


def statuses(report: dict[str, Any]) -> dict[str, str]:
    return {f"{f['group']}: {f['name']}": f["status"] for f in report["findings"]}


def test_doctor_finds_what_is_there(report: dict[str, Any], tracefs: Path) -> None:
    assert report["can_run"]
    found = statuses(report)
    assert found["tracefs: mounted"] == found["rings: instances"] == found["rings: raw pipes"] == "ok"
    for name, file in (("sub-buffer sizes", "buffer_subbuf_size_kb"), ("snapshot", "snapshot")):
        assert (found[f"rings: {name}"] == "ok") == (tracefs / file).exists()
    for name, file in (("kprobe", "kprobe_events"), ("uprobe", "uprobe_events"), ("synthetic", "synthetic_events")):
        assert (found[f"dynamic events: {name}"] == "ok") == (tracefs / file).exists()


def test_doctor_agrees_with_the_kernel_about_tracers(report: dict[str, Any], tracefs: Path, instance: Path) -> None:
    found = statuses(report)
    available = (tracefs / "available_tracers").read_text().split()
    for name in ("function", "function_graph", "blk", "osnoise", "wakeup"):
        assert name in available or found[f"tracers: {name}"] == "missing"
    allowed = (instance / "available_tracers").read_text().split()
    assert {row["tracer"] for row in listed("tracers") if row["in_instances"]} == set(allowed)


def test_a_function_list_that_is_refused_is_one_clear_message(report: dict[str, Any], tracefs: Path) -> None:
    try:
        (tracefs / "available_filter_functions").open().close()
    except PermissionError:
        message = command("list", "functions", code=1)
        assert message.count("\n") == 1
        assert "this host refuses the function tracer's files" in message
        assert statuses(report)["functions: function filters"] == "missing"
    except FileNotFoundError:
        assert "CONFIG_FUNCTION_TRACER" in command("list", "functions", code=1)
    else:
        assert [row["function"] for row in listed("functions", "vfs_read")] == ["vfs_read"]
        assert statuses(report)["functions: function filters"] == "ok"


def test_doctor_says_what_is_missing(instance_name: str, tmp_path: Path) -> None:
    text = command(
        "doctor", "--instance", instance_name, "--output", tmp_path, "--http", "", "-e", "sched:no_such_event",
        "--clock", "sundial", code=1,
    )  # fmt: skip
    assert "The configuration cannot run here: 2 obstacles." in text
    assert f"instance {instance_name}: events sched:no_such_event" in text
    assert f"instance {instance_name}: clock sundial" in text


def test_run_ends_with_the_words_of_doctor_where_the_host_refuses(
    instance_name: str, tmp_path: Path, tracefs: Path
) -> None:
    try:
        (tracefs / "available_filter_functions").open().close()
    except PermissionError:
        pass
    except FileNotFoundError:
        pytest.skip("this kernel cannot trace functions")
    else:
        pytest.skip("this host refuses nothing")
    words = ["--output", tmp_path / "a", "--http", "", "-c", tmp_path / "c.toml"]
    refused = ("", 'functions = ["vfs_read"]', 'notrace_functions = ["vfs_read"]', "function_pids = [1]",
               "notrace_function_pids = [1]")  # fmt: skip
    for settings in refused:
        text = f'[trace]\ninstance = "{instance_name}"\ntracer = "function"\n{settings}\n'
        (tmp_path / "c.toml").write_text(text)
        assert REFUSED_FUNCTIONS in command("run", "--duration", "1", *words, code=1)
        assert REFUSED_FUNCTIONS in command("doctor", *words, code=1)
        assert not (tracefs / "instances" / instance_name).exists()


def test_run_says_where_to_look_when_the_kernel_has_no_such_probes(
    instance_name: str, tmp_path: Path, tracefs: Path
) -> None:
    if (tracefs / "kprobe_events").exists():
        pytest.skip("this kernel has kprobes")
    config = tmp_path / "c.toml"
    config.write_text(f'[trace]\ninstance = "{instance_name}"\nprobes = ["p:reading vfs_read"]\n')
    words = ["-c", config, "--output", tmp_path / "a", "--http", ""]
    assert "`doctor` says which kinds of probes" in command("run", "--duration", "1", *words, code=1)
    assert "CONFIG_KPROBE_EVENTS" in command("doctor", *words, code=1)


def test_an_instance_in_use_is_seen_with_its_holder_and_its_reader(instance: Path) -> None:
    (instance / "events/sched/sched_switch/enable").write_text("1")
    folder = os.open(instance, os.O_RDONLY | os.O_DIRECTORY)
    pipe = os.open(instance / "per_cpu/cpu0/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        (row,) = listed("instances", instance.name)
        assert (row["events_on"], row["clock"], row["recording"], row["tracer"]) == (1, "mono", False, "nop")
        assert f"({os.getpid()})" in row["held_by"]
        assert listed("events", "sched:sched_switch", "--instance", instance.name)[0]["enabled_in"] == [instance.name]
        text = command("doctor", "--instance", instance.name, "--http", "", code=1)
        assert f"instance {instance.name}: lock: held by" in text
        assert f"process {os.getpid()} " not in text  # who holds it may read it
        text = command("doctor", "--instance", f"{instance.name}-other", "--http", "")
        assert f"process {os.getpid()} " in text
        assert f"has 1 pipe of instance {instance.name} open" in text
    finally:
        os.close(pipe)
        os.close(folder)


def test_what_a_killed_doctor_left_is_removed(tmp_path: Path, tracefs: Path, instance_name: str) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tracefs / f"instances/ftc-doctor-{ended.pid}"
    left.mkdir()
    try:
        command("doctor", "--instance", instance_name, "--output", tmp_path / "a", "--http", "")
        assert not left.exists()
    finally:
        if left.exists():
            left.rmdir()


def test_every_event_has_the_number_that_the_kernel_gave_it(tracefs: Path) -> None:
    rows = listed("events")
    assert len(rows) == len((tracefs / "available_events").read_text().split())
    ids = [row["id"] for row in rows]
    assert None not in ids
    assert len(set(ids)) == len(ids)


def test_options_read_as_the_kernel_prints_them(instance: Path) -> None:
    (instance / "options/overwrite").write_text("0")
    rows = {row["option"]: row for row in listed("options", "--instance", instance.name)}
    assert rows["overwrite"] == {"option": "overwrite", "value": False, "tracer": None, "in_effect": True}
    assert set(rows) == set(os.listdir(instance / "options"))
    assert {row["tracer"] for row in rows.values() if row["in_effect"]} <= {None, "nop"}
