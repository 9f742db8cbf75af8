"""Tests of the live kernel: everything in this folder needs root and tracefs."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
