"""Streams of text: blocks, the ledger, and what is carried from one read to the next."""

import os
from collections.abc import Collection
from pathlib import Path

import pytest

from collector.archive.objects import build_object
from collector.batch import StreamKey
from collector.capture.budget import ByteBudget
from collector.capture.formats import FormatBook
from collector.capture.pipe import (
    JUDGED_LINES,
    UNPARSED,
    WHOLE_PIPE_CPU,
    PipeSource,
    TextFormats,
    build_text_format,
    build_text_plan,
    stream_type_of,
)
from collector.capture.source import CaptureSizes, LiveInstance
from collector.capture.visit import Ask, Visit
from collector.decode.text import PAGE_BYTES, TextBatch
from collector.ledger import KernelCounts
from collector.tracefs.files import TracefsDir
from collector.tracefs.stats import CpuStats
from tests.capture.rig import MIB, RUN, Rig, as_ring, make_worker

HEAD = b"            bash-1234    [001] d..2.  7489.260301: "


class TextRig(Rig):
    """A text stream on a pipe that stands in for the kernel's."""

    def __init__(
        self, fd: int, tracer: str = "nop", budget_bytes: int = 64 * MIB, options: Collection[str] = ()
    ) -> None:
        self.fd = fd
        self.stats: CpuStats | None = None
        plan = build_text_plan(tracer, frozenset(), whole=False)
        self.book = FormatBook(plan, TextFormats(plan, list).get, lambda value: build_object("format", value))
        self.text = TextBatch(plan, 2 * PAGE_BYTES, plan.entries_per_page)
        self.worker = make_worker()
        self.budget = ByteBudget(budget_bytes)
        self.stream = stream_type_of(tracer, options)(
            StreamKey(RUN, "i", 0), fd, self.text, self.book, self._read_stats, KernelCounts(), self.budget,
            lambda *kept: None, 0.0,
        )  # fmt: skip


def test_a_visit_gives_blocks_that_decode_to_the_lines() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        rig.say(read=2)
        feed(HEAD + b"x: one\n" + HEAD + b"sys_close(fd: 3)\n")
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        ((block, _),) = visit.blocks
        assert [(row[0], row[2:]) for row in rig.rows([block])] == [
            (7489_260301_000, (1, 2, 1234, {"comm": b"bash".ljust(16, b"\0"), "message": b"one"})),
            (7489_260301_000, (1, 2, 1234, {"comm": b"bash".ljust(16, b"\0"), "message": b"(fd: 3)"})),
        ]
        names = {of.full_name for of in rig.objects(block).values()}
        assert names == {"text:x", "syscalls:sys_enter_close"}
        assert block.raw_bytes == rig.stream.reader_bytes
        assert visit.sample is not None
        assert visit.sample.balance.total == 0


def test_a_read_that_ends_in_a_line_is_carried_over() -> None:
    """Reads of a full pipe end anywhere: the pieces come together again."""
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        text = b"".join(HEAD + b"x: %d\n" % i for i in range(1000))
        feed(text[:60_000])
        rig.visit(Ask.READ, max_bytes=1)
        rest = rig.text.held_bytes
        assert 0 <= rest < 100
        feed(text[60_000:])
        visit = rig.visit(Ask.CLOSE | Ask.FLUSH)
        total = sum(block.events for block, _ in visit.blocks)
        assert total + rig.text.total_unparsed >= 1000
        assert rig.text.held_bytes == 0


def test_lost_lines_are_gaps_of_the_block_and_agree_with_overrun() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        rig.say(read=2, overrun=339)
        feed(HEAD + b"x: 1\nCPU:1 [LOST 339 EVENTS]\n" + HEAD + b"x: 2\n")
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        assert visit.blocks[0][0].gaps == ((1, 339, "line"),)
        totals = rig.stream.totals()
        assert (totals.residual, totals.settled, totals.gap_known_events) == (0, True, 339)


def test_loss_that_no_line_tells_is_a_residual() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        rig.say(read=2, overrun=5)
        feed(HEAD + b"x: 1\n")
        rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        assert rig.stream.totals().residual == 6  # one entry without a line, five lost without one


def test_unparsed_lines_are_entries_and_counted() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        rig.say(read=2)
        feed(b"what is this\n[LINE TOO BIG]\n")
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        assert rig.stream.decode_errors == {UNPARSED: 2}
        assert rig.stream.totals().residual == 0
        assert [row[5]["message"] for row in rig.rows([visit.blocks[0][0]])] == [b"what is this", b"[LINE TOO BIG]"]


@pytest.mark.parametrize("quiet", [False, True])
def test_function_graph_accounts_for_what_it_does_not_draw(quiet: bool) -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd, "function_graph", options=["nofuncgraph-irqs"] if quiet else [])
        rig.say(read=7, overrun=11)  # two of no line, and a loss inside a leaf
        feed(b" 1)               |  f() {\n 1)   0.1 us      |    g();\n 1)   1.1 us      |  }\n")
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        assert visit.sample is not None
        assert visit.sample.reader.skipped == {"folded": 1, **({"no_text": 3} if quiet else {})}
        assert [gap.lost for gap in visit.loose_gaps] == [11]
        assert visit.sample.balance.total == visit.sample.balance.unexplained == (0 if quiet else 3)


def test_a_starving_stream_loses_nothing() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd, budget_bytes=1)
        rig.say(read=500)
        feed(b"".join(HEAD + b"x: %d\n" % i for i in range(500)))
        visit = rig.visit(Ask.FLUSH | Ask.CLOSE)
        assert visit.starved_bytes or not visit.blocks
        rig.stream.lease = ByteBudget(64 * MIB).try_take(MIB)
        visit = rig.visit(Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE)
        assert sum(block.events for block, _ in visit.blocks) == 500
        assert rig.stream.totals().residual == 0


def test_failing_reads_are_told() -> None:
    fd = os.open("/", os.O_RDONLY)
    try:
        visit: Visit = TextRig(fd).visit(Ask.READ)
        assert visit.errno is not None
    finally:
        os.close(fd)


def test_a_made_up_format_reads_like_the_kernel_s() -> None:
    text = build_text_format(32768, "x", 7)
    assert "\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;\n" in text
    assert "\tfield:int tgid;\toffset:28;\tsize:4;\tsigned:1;\n" in text
    assert "\tfield:char message[];\toffset:32;\tsize:0;\tsigned:0;\n" in text


# ---- the source, on a tree of files


def make_tree(folder: Path) -> TracefsDir:
    """What a PipeSource looks at; its pipes are files."""
    stats = "entries: 0\noverrun: 0\ncommit overrun: 0\nbytes: 0\ndropped events: 0\nread events: {}\n"
    (folder / "events").mkdir()
    (folder / "events/header_page").write_text(
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
        "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n"
    )
    (folder / "trace_clock").write_text("local [mono]\n")
    (folder / "trace_options").write_text("context-info\nnolatency-format\n")
    (folder / "current_tracer").write_text("nop\n")
    (folder / "available_events").write_text("sched:sched_switch\n")
    (folder / "trace_pipe").write_bytes(HEAD + b"sched_switch: a\n" + HEAD + b"sched_switch: b\n")
    for cpu in (0, 1):
        (folder / f"per_cpu/cpu{cpu}").mkdir(parents=True)
        (folder / f"per_cpu/cpu{cpu}/stats").write_text(stats.format(0))
        (folder / f"per_cpu/cpu{cpu}/trace_pipe").write_bytes(HEAD + b"sched_switch: %d\n" % cpu)
        (folder / f"per_cpu/cpu{cpu}/buffer_size_kb").write_text("64\n")
    return TracefsDir(folder)


@pytest.mark.parametrize("whole", [False, True])
def test_a_source_reads_each_pipe_or_the_one_of_all(tmp_path: Path, whole: bool) -> None:
    source = PipeSource(LiveInstance(make_tree(tmp_path), "t", (0, 1)), RUN, whole=whole)
    source.open_streams(ByteBudget(64 * MIB), CaptureSizes(MIB, 5.0, 2), lambda *kept: None, streams_in_all=2)
    try:
        assert [stream.key.cpu for stream in source.streams] == ([WHOLE_PIPE_CPU] if whole else [0, 1])
        worker = make_worker()
        for stream in source.streams:
            visit = stream.visit(worker, Ask.FLUSH | Ask.CLOSE, MIB)
            ((block, _),) = visit.blocks
            assert block.events == (2 if whole else 1)
        header = source.header()
        assert (header["clock"], header["clock_unit"], header["read"]) == ("mono", "ns", "text")
        assert header["resolution_ns"] == 1000
        assert source.ring_bytes(WHOLE_PIPE_CPU if whole else 1) == (131072 if whole else 65536)
    finally:
        source.close()


def test_lines_of_a_form_that_is_not_known_are_an_error_and_not_thousands_of_entries(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd)
        rig.say(read=JUDGED_LINES)
        odd = b"            bash-1234    {001} d..2.  7489.260301: x: 1\n"
        for _ in range(2):
            feed(HEAD + b"x: 1\n")
            feed(odd.replace(b"{001}", b"[001] of a form that nobody knows") * JUDGED_LINES)
            rig.visit(Ask.FLUSH | Ask.SAMPLE)
        assert rig.stream.problem is not None
        assert "do not parse" in rig.stream.problem
        (told,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "of a form that nobody knows" in vars(told)["fields"]["line"]
        feed((HEAD + b"x: 1\n") * JUDGED_LINES)
        rig.visit(Ask.FLUSH)
        rig.visit(Ask.FLUSH)
        assert rig.stream.problem is None


def test_lines_without_a_head_are_none_that_do_not_parse() -> None:
    with as_ring() as (fd, feed):
        rig = TextRig(fd, options=["nocontext-info"])
        feed(b"x: 1\n" * JUDGED_LINES * 2)
        rig.visit(Ask.FLUSH)
        assert rig.stream.decode_errors[UNPARSED] > 0
        assert rig.stream.problem is None
