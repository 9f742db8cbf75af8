"""The page walk on pages of the live kernel: equal to the slow decoder, and every entry that the kernel counts."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from collector.tracefs.layout import parse_header_page
from tests import reference
from tests.decode.test_ring_against_reference import Both, both_of

CPU = min(os.sched_getaffinity(0))


def read_pages(instance: Path, cpu: int) -> bytes:
    """All that the ring holds; tracing must be off."""
    subbuf_size = reference.read_layout((instance / "events/header_page").read_text()).subbuf_size
    fd = os.open(instance / f"per_cpu/cpu{cpu}/trace_pipe_raw", os.O_RDONLY | os.O_NONBLOCK)
    pages = b""
    try:
        while page := os.read(fd, subbuf_size):
            pages += page
    except BlockingIOError:  # empty
        pass
    finally:
        os.close(fd)
    return pages


def read_stats(instance: Path, cpu: int) -> dict[str, int]:
    lines = (instance / f"per_cpu/cpu{cpu}/stats").read_text().splitlines()
    return {key: int(value) for key, value in (line.split(": ") for line in lines) if value.strip().isdecimal()}


def decoders(instance: Path, both: Both) -> Both:
    """`both` with the sub-buffer size of this instance."""
    header = (instance / "events/header_page").read_text()
    return replace(both, layout=parse_header_page(header), slow_layout=reference.read_layout(header))


@pytest.fixture(scope="module")
def both() -> Both:
    """The formats of all events: thousands of files, read once."""
    return both_of(Path("/sys/kernel/tracing"))


def write_markers(instance: Path, count: int) -> None:
    """`count` entries of growing size: each length of a record up to that of a whole small page."""
    fd = os.open(instance / "trace_marker", os.O_WRONLY)
    try:
        for i in range(count):
            os.write(fd, b"%d " % i + b"x" * (i % 3000))
    finally:
        os.close(fd)


@pytest.mark.parametrize("count", [1, 20, 3000])
def test_markers_of_every_length(instance: Path, both: Both, pin_to_cpu: Callable[[int], None], count: int) -> None:
    pin_to_cpu(CPU)
    (instance / "tracing_on").write_text("1")
    write_markers(instance, count)
    (instance / "tracing_on").write_text("0")

    outcome = decoders(instance, both).compare(read_pages(instance, CPU))
    stats = read_stats(instance, CPU)
    assert not outcome.malformed
    assert stats["entries"] == 0
    assert stats["read events"] == len(outcome.rows)
    assert len(outcome.rows) + stats["overrun"] == count
    if all(lost is not None for _, lost in outcome.gaps):
        assert sum(lost for _, lost in outcome.gaps) == stats["overrun"]


@pytest.mark.parametrize("subbuf_kb", [4, 16, 64])
def test_a_busy_kernel_with_and_without_loss(
    instance: Path, both: Both, pin_to_cpu: Callable[[int], None], subbuf_kb: int
) -> None:
    """Scheduler, system calls, interrupts and markers; the second round overwrites most of what it writes."""
    if (instance / "buffer_subbuf_size_kb").exists():
        (instance / "buffer_subbuf_size_kb").write_text(str(subbuf_kb))
    elif subbuf_kb != 4:
        pytest.skip("this kernel has sub-buffers of one size only")
    pin_to_cpu(CPU)
    mine = decoders(instance, both)
    before = 0
    for buffer_kb, rounds in ((4096, 2000), (256, 20000)):
        (instance / "buffer_size_kb").write_text(str(buffer_kb))
        for system in ("sched", "raw_syscalls", "irq", "timer"):
            if (instance / "events" / system).exists():
                (instance / "events" / system / "enable").write_text("1")
        (instance / "tracing_on").write_text("1")
        write_markers(instance, 200)
        for _ in range(rounds):
            os.getppid()
        (instance / "tracing_on").write_text("0")
        outcome = mine.compare(read_pages(instance, CPU))
        stats = read_stats(instance, CPU)
        assert not outcome.malformed
        assert stats["entries"] == 0
        assert stats["read events"] - before == len(outcome.rows) > 1000
        before = stats["read events"]
    assert stats["overrun"] > 0
    assert outcome.gaps
