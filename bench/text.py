"""The text pipes: the parser alone on recorded lines, and the daemon beside a reader that drops what it reads."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import zstandard

from collector.capture.pipe import TextFormats, build_text_plan
from collector.decode import ring
from collector.decode.columns import Encoder
from collector.decode.plan import build_event_plan
from collector.decode.text import PAGE_BYTES, TextBatch
from collector.tracefs.files import TracefsDir

from .daemon import COMMAND, FLUSHED_S, read_archive, running
from .kernel import PREFIX, instance, open_tracefs
from .loads import LOADS, READER_CPU, TIMEOUT_S, TRACED_CPU, Load, Programs
from .report import build_table, build_targets, say
from .rivals import STARTED_S, reap, start_pinned

TARGET_MB_PER_S = 400.0
TARGET_PERCENT = 12.0  # on top of reading and dropping
BUFFER_KB = 131072  # the kernel formats slower than the load traces: the ring takes what waits
FACTOR = 2  # of the small load: enough that the daemon's own housekeeping does not show
POLL_S = 0.05
BLOCK_PAGES = 3  # as the default block of 1 MiB has
CAPACITY = 40_000

# Text goes through the daemon with the same settings as in `live`.
CONFIG = f'[trace]\nread = "text"\nbuffer_size_kb = {BUFFER_KB}\n'


@dataclass(frozen=True, slots=True)
class Pass:
    """Recorded text taken once."""

    entries: int
    unparsed: int
    cpu_s: float


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    config = work / "text.toml"
    config.write_text(CONFIG)
    parser_rows, live_rows, targets = [], [], []
    for load in LOADS:
        say(f"text {load.name}: parser")
        lines = work / f"{load.name}.txt"
        _record(programs, load, lines)
        cells, speed = _parser_row(lines, runs)
        lines.unlink()
        parser_rows.append((load.name, *cells))
        dropped, kept = [], []
        complete = 0
        for number in range(runs):
            dropped.append(_drop(programs, load))
            cost, is_complete = _daemon(programs, work, load, config)
            kept.append(cost)
            complete += is_complete
            say(f"text {load.name} {number + 1}/{runs}: dropped {dropped[-1]:.3f}, archived {cost:.3f} s/M")
        on_top = median((b / a - 1) * 100 for a, b in zip(dropped, kept, strict=True))
        live_rows.append((load.name, f"{median(dropped):.3f}", f"{median(kept):.3f}", f"{on_top:.1f}",
                          f"{complete} of {runs}"))  # fmt: skip
        # As seconds per 400 MB, so that the target is an upper limit like the others.
        targets.append((f"{load.name}: parser, ms per MB", 1e3 / TARGET_MB_PER_S, 1e3 / speed, ".2f"))
        targets.append((f"{load.name}: daemon on top of dropping, %", TARGET_PERCENT, on_top, ".1f"))
    return "\n\n".join((
        f"Medians of {runs} runs.",
        build_table(
            ("recorded lines, one core", "million lines", "bytes/line", "parse, MB/s", "CPU s/million", "and encode",
             "and zstd 1", "unparsed"),
            parser_rows,
        ),
        build_table(
            ("live, CPU s/million", "read and dropped", "**daemon**: parsed, compressed, on disk", "on top, %",
             "complete (lost 0, residual 0, verify)"),
            live_rows,
        ),
        build_targets(targets),
    ))  # fmt: skip


def _parser_row(lines: Path, runs: int) -> tuple[tuple[str, ...], float]:
    """(the cells of one load, MB per second of the parser alone)."""
    compress = zstandard.ZstdCompressor(level=1).compress
    read_s = median(_read_only(lines) for _ in range(runs))
    variants: dict[str, Callable[[TextBatch, Encoder], object]] = {
        "parse": lambda batch, encoder: None,
        "encode": lambda batch, encoder: encoder.encode(batch),
        "zstd": lambda batch, encoder: _encode_and_compress(batch, encoder, compress),
    }
    passes = {name: [_run_pass(lines, take) for _ in range(runs)] for name, take in variants.items()}
    one = passes["parse"][0]
    size_mb = lines.stat().st_size / 1e6
    costs = {name: median(p.cpu_s for p in of) - read_s for name, of in passes.items()}
    speed = size_mb / costs["parse"]
    million = one.entries / 1e6
    return (
        f"{million:.2f}", f"{size_mb / million:.0f}", f"{speed:.0f}",
        *(f"{cost / million:.3f}" for cost in costs.values()), str(one.unparsed),
    ), speed  # fmt: skip


def _run_pass(lines: Path, take: Callable[[TextBatch, Encoder], object]) -> Pass:
    plan = build_text_plan("nop", frozenset(), whole=False)
    formats = TextFormats(plan, open_tracefs().list_events)
    batch, encoder = TextBatch(plan, BLOCK_PAGES * PAGE_BYTES, CAPACITY), Encoder()
    fd = os.open(lines, os.O_RDONLY)
    try:
        begin_s = time.process_time()
        while True:
            status, detail = batch.fill(fd, 1 << 40)
            if status == ring.UNKNOWN:
                assert detail is not None
                found = formats.get(detail)
                assert found is not None
                plan.add(build_event_plan(found))
                continue
            if len(batch):
                take(batch, encoder)
            batch.reset()
            if status != ring.FULL:
                return Pass(batch.total_entries, batch.total_unparsed, time.process_time() - begin_s)
    finally:
        os.close(fd)


def _read_only(lines: Path) -> float:
    """CPU seconds of reading the file into a buffer, as the parser reads it."""
    buffer = bytearray(1 << 17)
    fd = os.open(lines, os.O_RDONLY)
    begin_s = time.process_time()
    while os.readv(fd, [buffer]):
        pass
    cpu_s = time.process_time() - begin_s
    os.close(fd)
    return cpu_s


def _record(programs: Programs, load: Load, out: Path) -> None:
    with instance("text", load, 64, BUFFER_KB) as tree:
        _reader(programs, load, tree, "read", out)


def _encode_and_compress(batch: TextBatch, encoder: Encoder, compress: Callable[[bytes], bytes]) -> None:
    encoder.encode(batch)
    encoder.compress(compress)


def _drop(programs: Programs, load: Load) -> float:
    """CPU seconds per million events of reading the text and dropping it."""
    with instance("text", load, 64, BUFFER_KB) as tree:
        cpu_s = _reader(programs, load, tree, "null", "-")
        return cpu_s / tree.read_stats(TRACED_CPU).read_events * 1e6


def _reader(programs: Programs, load: Load, tree: TracefsDir, mode: str, out: Path | str) -> float:
    """Run a load under the plain reader; gives the reader's CPU seconds."""
    pipe = tree.path / f"per_cpu/cpu{TRACED_CPU}/trace_pipe"
    reader = start_pinned([programs.recorder, mode, pipe, out])
    try:
        time.sleep(STARTED_S)
        programs.run_load(load, FACTOR * load.small_count)
        tree.write("tracing_on", "0")
        _wait_drained(tree, 0)
    finally:
        reader.send_signal(signal.SIGTERM)
        cpu_s, _ = reap(reader)
    return cpu_s


def _daemon(programs: Programs, work: Path, load: Load, config: Path) -> tuple[float, bool]:
    """(CPU seconds per million events of the daemon, whether nothing was lost)."""
    top = open_tracefs()
    name = f"{PREFIX}text-{os.getpid()}"
    out = work / "archive"
    events = [word for system in load.systems if top.exists(f"events/{system}") for word in ("-e", f"{system}:*")]
    words = [
        COMMAND, "run", *events, "-c", config, "--cpu", TRACED_CPU, "--clock", "mono", "--output", out,
        "--instance", name, "--http", "127.0.0.1:0",
    ]  # fmt: skip
    with running(words, work, cpu=READER_CPU) as daemon:
        time.sleep(1.0)  # what start-up has left to do is not the load's
        tree = top.instance(name)
        before_s, before = daemon.cpu_s(), tree.read_stats(TRACED_CPU).read_events
        programs.run_load(load, FACTOR * load.small_count)
        _wait_drained(tree, load.small_count)
        time.sleep(FLUSHED_S)
        cpu_s, taken = daemon.cpu_s() - before_s, tree.read_stats(TRACED_CPU).read_events - before
        daemon.stop()
    archive = read_archive(out)
    if not archive.is_complete:
        say(f"text {load.name}: lost {archive.info['lost_events']}, residual {archive.info['residual']}, "
            f"verify passes: {archive.verified}")  # fmt: skip
    return cpu_s / taken * 1e6, archive.is_complete


def _wait_drained(tree: TracefsDir, most: int) -> None:
    """Wait until at most so many entries are unread: while tracing is on, other work on the machine adds some."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while tree.read_stats(TRACED_CPU).entries > most:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{tree.path}: not read to its end in {TIMEOUT_S:g} s")
        time.sleep(POLL_S)
