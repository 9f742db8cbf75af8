"""Tests of the live kernel: everything in this folder needs root and tracefs."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TRACEFS
from tests.kernel.daemon import Daemon

HERE = Path(__file__).parent
LOAD = HERE.parents[1] / "bench/load.c"
TOP_LEVEL_FILES = ("set_event", "tracing_on", "current_tracer", "trace_clock", "buffer_size_kb", "tracing_cpumask",
                   "set_event_notrace_pid", "options/overwrite", "options/event-fork")  # fmt: skip

StartDaemon = Callable[..., Daemon]
# load(kind, cpu, count) -> a running process whose id is that of the thread that makes the calls
StartLoad = Callable[..., "subprocess.Popen[str]"]


@pytest.hookimpl(tryfirst=True)  # before the marked tests are skipped where there is no live kernel
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.kernel)


@pytest.fixture
def instance(tracefs: Path, instance_name: str) -> Path:
    """A fresh instance with tracing off, a small ring and the clock mono; removed at the end."""
    folder = tracefs / "instances" / instance_name
    folder.mkdir()
    (folder / "tracing_on").write_text("0")
    (folder / "trace_clock").write_text("mono")
    (folder / "buffer_size_kb").write_text("64")
    return folder


@pytest.fixture
def pin_to_cpu() -> Iterator[Callable[[int], None]]:
    """pin_to_cpu(n) keeps this thread on CPU n until the test's end."""
    allowed = os.sched_getaffinity(0)
    yield lambda cpu: os.sched_setaffinity(0, {cpu})
    os.sched_setaffinity(0, allowed)


def read_top_level() -> dict[str, str]:
    """The settings of the top-level buffer, which is never ours."""
    return {name: (TRACEFS / name).read_text() for name in TOP_LEVEL_FILES if (TRACEFS / name).exists()}


@pytest.fixture
def start_daemon(instance_name: str, tmp_path: Path) -> Iterator[StartDaemon]:
    """start_daemon(*words, config=TOML, archive=..., instance=...) -> a daemon in an instance of this test's own.

    At the end it is ended, and the top-level buffer must be as it was.
    """
    before = read_top_level()
    with ExitStack() as stack:

        def start(*words: str, archive: Path | None = None, instance: str = instance_name, **more: Any) -> Daemon:
            daemon = Daemon(instance, archive or tmp_path / "archive", *words, **more)
            return stack.enter_context(daemon)

        yield start
    assert read_top_level() == before


@pytest.fixture(scope="session")
def load_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled bench/load.c."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the load with")
    program = tmp_path_factory.mktemp("load") / "load"
    subprocess.run(["gcc", "-O2", "-o", program, LOAD], check=True)
    return program


@pytest.fixture
def start_load(load_program: Path) -> Iterator[StartLoad]:
    """start_load(kind, cpu, *numbers) -> the running load, see bench/load.c; ended with the test."""
    with ExitStack() as stack:

        def start(kind: str, cpu: int, *numbers: float) -> "subprocess.Popen[str]":
            process = stack.enter_context(
                subprocess.Popen([load_program, kind, *map(str, (cpu, *numbers))], stdout=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            return process

        yield start
