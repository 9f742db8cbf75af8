"""Text pipes of the live kernel: beside raw rings, under load, with and without loss, to the entry."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector.archive.block import decode_block
from collector.archive.objects import parse_format, parse_object
from collector.capture.budget import ByteBudget
from collector.capture.pipe import WHOLE_PIPE_CPU, PipeSource
from collector.capture.source import CaptureSizes, LiveInstance, LiveSource, Source
from collector.capture.stream import Stream
from collector.capture.visit import Ask, Visit
from collector.errors import TracefsError
from collector.tracefs.files import TracefsDir
from tests.capture.rig import MIB, RUN, make_worker
from tests.conftest import TRACEFS
from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import COMMAND, CPUS, QUICK, assert_verifies, read_info

READ_TEXT = '[trace]\nread = "text"\n'
CALLS = 20_000


@pytest.fixture
def second_instance(instance: Path) -> Iterator[Path]:
    """Another one, like `instance`; removed at the end."""
    folder = instance.with_name(f"{instance.name}-raw")
    folder.mkdir()
    (folder / "tracing_on").write_text("0")
    (folder / "trace_clock").write_text("mono")
    yield folder
    (folder / "tracing_on").write_text("0")
    (folder / "events/enable").write_text("0")
    folder.rmdir()


class Reading:
    """The streams of a source, read by hand."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.worker = make_worker("zstd")
        self.by_pid: Counter[int] = Counter()
        self.budget = ByteBudget(128 * MIB)
        source.open_streams(self.budget, CaptureSizes(MIB, 0.0, 2), lambda *kept: None, streams_in_all=4)

    def visit(self) -> None:
        for stream in self.source.streams:
            self._visit(stream, Ask.FLUSH | Ask.SAMPLE)

    def drain(self) -> None:
        """To the end, and close the blocks; the ledger must agree."""
        for stream in self.source.streams:
            visit = self._visit(stream, Ask.FLUSH | Ask.SAMPLE)
            while not visit.at_end or (visit.sample is not None and visit.sample.kernel.entries):
                visit = self._visit(stream, Ask.FLUSH | Ask.SAMPLE)
            self._visit(stream, Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
            totals = stream.totals()
            assert (totals.settled, totals.residual) == (True, 0)
            assert totals.events == totals.read

    def _visit(self, stream: Stream, ask: Ask) -> Visit:
        visit = stream.visit(self.worker, ask, 16 * MIB)
        assert visit.errno is None
        for block, lease in visit.blocks:
            lease.release()
            bodies = {kind.format_id: self.source.book.object_body(kind.format_id) for kind in block.kinds}
            formats = {key: parse_format(parse_object(body)) for key, body in bodies.items() if body is not None}
            self.by_pid.update(decode_block(block.body, formats).pid)
        return visit

    @property
    def events(self) -> int:
        return sum(stream.decoded for stream in self.source.streams)


def make_tree(folder: Path) -> TracefsDir:
    return TracefsDir(folder, top=TracefsDir(TRACEFS))


def trace_load(folder: Path, pids: list[int], buffer_kb: int) -> None:
    """Record the system calls of some threads, and nothing of anybody else."""
    (folder / "buffer_size_kb").write_text(str(buffer_kb))
    (folder / "set_event_pid").write_text(" ".join(map(str, pids)))
    (folder / "events/raw_syscalls/enable").write_text("1")
    (folder / "tracing_on").write_text("1")


@pytest.mark.parametrize("whole", [False, True])
def test_text_and_raw_of_the_same_load_have_the_same_entries(
    instance: Path, second_instance: Path, whole: bool
) -> None:
    """Both are read while the load runs; the load waits until both record it."""
    script = f"import os\nos.write(1, b'.')\nos.read(0, 1)\nfor _ in range({CALLS}): os.getppid()\nos._exit(0)"
    words = [sys.executable, "-Sc", script]
    loads = [subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in CPUS]
    readings: list[Reading] = []
    try:
        cpus = tuple(make_tree(instance).online_cpus())
        readings.append(Reading(LiveSource(LiveInstance(make_tree(second_instance), "raw", cpus), RUN)))
        readings.append(Reading(PipeSource(LiveInstance(make_tree(instance), "text", cpus), RUN, whole=whole)))
        wait_asleep(loads)
        for folder in (second_instance, instance):
            trace_load(folder, [load.pid for load in loads], 32768)
        for load in loads:
            assert load.stdin is not None
            load.stdin.write(b"x")
            load.stdin.flush()
        while any(load.poll() is None for load in loads):
            for reading in readings:
                reading.visit()
        for folder in (second_instance, instance):
            (folder / "tracing_on").write_text("0")
        for reading in readings:
            reading.drain()
        raw, text = readings
        for load in loads:
            assert raw.by_pid[load.pid] == text.by_pid[load.pid] >= 2 * CALLS
        if whole:
            assert [stream.key.cpu for stream in text.source.streams] == [WHOLE_PIPE_CPU]
        else:
            assert [s.decoded for s in raw.source.streams] == [s.decoded for s in text.source.streams]
    finally:
        for reading in readings:
            reading.source.close()
        for load in loads:
            load.kill()
            load.wait()


def wait_asleep(loads: list["subprocess.Popen[bytes]"]) -> None:
    """Until each has begun its read(), so that its start-up is not recorded by one instance alone."""
    for load in loads:
        assert load.stdout is not None
        assert load.stdout.read(1) == b"."
        while "pipe_read" not in Path(f"/proc/{load.pid}/wchan").read_text():
            os.sched_yield()


@pytest.mark.parametrize("whole", [False, True])
def test_lost_lines_add_up_to_the_overrun(instance: Path, whole: bool, pin_to_cpu: Callable[[int], None]) -> None:
    cpu = CPUS[0]
    pin_to_cpu(cpu)
    cpus = tuple(make_tree(instance).online_cpus())
    reading = Reading(PipeSource(LiveInstance(make_tree(instance), "text", cpus), RUN, whole=whole))
    written = 0
    try:
        (instance / "tracing_on").write_text("1")
        with (instance / "trace_marker").open("wb", buffering=0) as marker:
            for count in (10, 5000, 20, 7000):
                for _ in range(count):
                    marker.write(b"line one of %d\nand two" % written)
                    written += 1
                reading.visit()
        (instance / "tracing_on").write_text("0")
        reading.drain()
        totals = [stream.totals() for stream in reading.source.streams]
        assert sum(t.events + t.overrun for t in totals) == written
        assert sum(t.gap_known_events for t in totals) == sum(t.overrun for t in totals) > 0
        assert sum(t.gaps for t in totals) >= 2
        assert sum(t.unknown_gaps for t in totals) == 0
    finally:
        reading.source.close()


def test_a_pipe_that_is_open_already_is_a_clear_error(instance: Path) -> None:
    tree = make_tree(instance)
    fd = os.open(instance / "trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(TracefsError) as caught:
            os.close(tree.open_pipe(CPUS[0]))
        assert "another reader has a trace_pipe" in str(caught.value)
    finally:
        os.close(fd)


def test_all_options_of_the_context(instance: Path, pin_to_cpu: Callable[[int], None]) -> None:
    """Each combination gives one entry a marker, with its pid, and no line that is not understood."""
    pin_to_cpu(CPUS[0])
    tree = make_tree(instance)
    for options in (
        ["irq-info"], ["noirq-info"], ["irq-info", "record-tgid"], ["noirq-info", "record-tgid"],
        ["irq-info", "norecord-tgid", "latency-format"], ["latency-format", "verbose"],
    ):  # fmt: skip
        for option in options:
            (instance / "trace_options").write_text(option)
        (instance / "trace").write_text("")
        reading = Reading(PipeSource(LiveInstance(tree, "text", (CPUS[0],)), RUN))
        try:
            (instance / "tracing_on").write_text("1")
            (instance / "trace_marker").write_text("hello")
            (instance / "trace_marker").write_text("two\nlines")
            (instance / "tracing_on").write_text("0")
            (stream,) = reading.source.streams
            visit = stream.visit(reading.worker, Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE, MIB)
            ((block, _),) = visit.blocks
            assert (block.events, block.pids) == (2, {os.getpid()}), options
            assert stream.decode_errors == {}, options
        finally:
            reading.source.close()


def test_the_daemon_reads_text(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    config = READ_TEXT + QUICK
    daemon = start_daemon("-e", "raw_syscalls:*", "--buffer-size-kb", "32768", config=config).wait_ready()
    loads = [start_load("syscalls", cpu, CALLS) for cpu in CPUS]
    pids = [load.pid for load in loads]
    for load in loads:
        load.communicate()
    assert daemon.stop() == 0
    info = read_info(daemon.archive)
    assert (info["residual"], info["lost_events"]) == (0, 0)
    assert info["events"] >= 2 * CALLS * len(loads)
    assert_verifies(daemon.archive)
    shown = Counter(
        int(line.split(b" ", 1)[0].rpartition(b"-")[2])
        for line in show(daemon.archive).splitlines()
        if b"NR 110 " in line or b"NR 173 " in line
    )
    assert all(shown[pid] == 2 * CALLS for pid in pids)


def show(archive: Path) -> bytes:
    return subprocess.run([COMMAND, "show", archive], check=True, capture_output=True).stdout


def test_the_daemon_reads_the_pipe_of_all_cpus(start_daemon: StartDaemon, start_load: StartLoad) -> None:
    config = READ_TEXT.replace("text", "text-merged") + QUICK
    daemon = start_daemon("-e", "raw_syscalls:*", "--buffer-size-kb", "32768", config=config).wait_ready()
    for cpu in CPUS:
        start_load("syscalls", cpu, CALLS).communicate()
    assert daemon.stop() == 0
    info = read_info(daemon.archive)
    assert (info["residual"], info["lost_events"]) == (0, 0)
    assert [stream["cpu"] for stream in info["streams"]] == [WHOLE_PIPE_CPU]
    assert info["events"] >= 2 * CALLS * len(CPUS)
    assert_verifies(daemon.archive)
