"""The text pipes: the parser alone on recorded lines, and the daemon beside a reader that drops what it reads.

Live both read at the same time, on the same CPU, each a pipe of its own of the same load. What a shared machine takes
away or slows down, it does to both: their ratio holds still where the CPU seconds of runs in turn vary by a third.
"""

import os
import signal
import subprocess
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

from .daemon import COMMAND, FLUSHED_S, read_archive, read_cpu_s, running
from .kernel import PREFIX, instance, open_tracefs
from .loads import LOADS, READER_CPU, TIMEOUT_S, TRACED_CPU, Load, Programs
from .report import build_table, build_targets, say
from .rivals import STARTED_S, reap, start_pinned

TARGET_MB_PER_S = 400.0
TARGET_PERCENT = 12.0  # on top of reading and dropping
BUFFER_KB = 131072  # the kernel formats slower than the load traces: the ring takes what waits
PAIRS_PER_RUN = 3  # a pair takes some 5 s; the first is not counted: what start-up has left to do is in it
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


@dataclass(frozen=True, slots=True)
class Pair:
    """CPU seconds per million events of two readers in the same seconds."""

    dropped: float
    archived: float

    @property
    def percent(self) -> float:
        """What archiving costs on top."""
        return (self.archived / self.dropped - 1) * 100


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
        pairs, complete = _run_pairs(programs, work, load, config, PAIRS_PER_RUN * runs)
        on_top = sorted(pair.percent for pair in pairs)
        live_rows.append((
            load.name, f"{median(pair.dropped for pair in pairs):.3f}", f"{median(p.archived for p in pairs):.3f}",
            f"{median(on_top):.1f}", f"{on_top[len(on_top) // 4]:.1f} to {on_top[-1 - len(on_top) // 4]:.1f}", complete,
        ))  # fmt: skip
        # As seconds per 400 MB, so that the target is an upper limit like the others.
        targets.append((f"{load.name}: parser, ms per MB", 1e3 / TARGET_MB_PER_S, 1e3 / speed, ".2f"))
        targets.append((f"{load.name}: daemon on top of dropping, %", TARGET_PERCENT, median(on_top), ".1f"))
    return "\n\n".join((
        f"Medians of {runs} runs of the parser, and of {PAIRS_PER_RUN * runs} pairs live.",
        build_table(
            ("recorded lines, one core", "million lines", "bytes/line", "parse, MB/s", "CPU s/million", "and encode",
             "and zstd 1", "unparsed"),
            parser_rows,
        ),
        build_table(
            ("live, CPU s/million", "read and dropped", "**daemon**: parsed, compressed, on disk", "on top, %",
             "half of the pairs", "complete (lost 0, residual 0, verify)"),
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
        reader = _start_reader(programs, tree, "read", out)
        try:
            programs.run_load(load, 2 * load.small_count)
            tree.write("tracing_on", "0")
            _wait_drained(tree)
        finally:
            _end_reader(reader, tree)


def _start_reader(programs: Programs, tree: TracefsDir, mode: str, out: Path | str) -> "subprocess.Popen[str]":
    """The plain reader, once it runs."""
    reader = start_pinned([programs.recorder, mode, tree.path / f"per_cpu/cpu{TRACED_CPU}/trace_pipe", out])
    time.sleep(STARTED_S)
    return reader


def _end_reader(reader: "subprocess.Popen[str]", tree: TracefsDir) -> None:
    tree.write("tracing_on", "0")  # it reads to the end of its pipe, which a busy machine would never let it see
    reader.send_signal(signal.SIGTERM)
    reap(reader)


def _encode_and_compress(batch: TextBatch, encoder: Encoder, compress: Callable[[bytes], bytes]) -> None:
    encoder.encode(batch)
    encoder.compress(compress)


def _run_pairs(programs: Programs, work: Path, load: Load, config: Path, count: int) -> tuple[list[Pair], str]:
    """(the pairs, whether the archive of all of them is complete)."""
    top = open_tracefs()
    name = f"{PREFIX}text-{os.getpid()}"
    out = work / "archive"
    events = [word for system in load.systems if top.exists(f"events/{system}") for word in ("-e", f"{system}:*")]
    words = [
        COMMAND, "run", *events, "-c", config, "--cpu", TRACED_CPU, "--clock", "mono", "--output", out,
        "--instance", name, "--http", "127.0.0.1:0",
    ]  # fmt: skip
    pairs = []
    with running(words, work, cpu=READER_CPU) as daemon, instance("drop", load, 64, BUFFER_KB) as dropped:
        plain = _start_reader(programs, dropped, "null", "-")
        try:
            sides = [_Side(plain.pid, dropped), _Side(daemon.process.pid, top.instance(name))]
            for number in range(count + 1):
                for side in sides:
                    side.tree.write("tracing_on", "1")
                programs.run_load(load, load.small_count)
                for side in sides:  # else other work on a busy machine goes on faster than it is read
                    side.tree.write("tracing_on", "0")
                for side in sides:
                    _wait_drained(side.tree)
                pair = Pair(*[side.take() for side in sides])
                if number:
                    pairs.append(pair)
                    say(f"text {load.name} {number}/{count}: dropped {pair.dropped:.3f}, archived {pair.archived:.3f} "
                        f"s/M, {pair.percent:+.1f} %")  # fmt: skip
            if lost := dropped.read_stats(TRACED_CPU).overrun:
                say(f"text {load.name}: the plain reader lost {lost}")
            time.sleep(FLUSHED_S)
        finally:
            _end_reader(plain, dropped)
        daemon.stop()
    return pairs, read_archive(out).describe()


class _Side:
    """One of the two readers, and what it has taken and used so far."""

    def __init__(self, pid: int, tree: TracefsDir) -> None:
        self.tree = tree
        self._pid = pid
        self._cpu_s, self._events = read_cpu_s(pid), tree.read_stats(TRACED_CPU).read_events

    def take(self) -> float:
        """CPU seconds per million events since the last time; nothing is left out between two."""
        cpu_s, events = read_cpu_s(self._pid), self.tree.read_stats(TRACED_CPU).read_events
        cost = (cpu_s - self._cpu_s) / (events - self._events) * 1e6
        self._cpu_s, self._events = cpu_s, events
        return cost


def _wait_drained(tree: TracefsDir) -> None:
    """Wait until no entry is unread; tracing is off."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while tree.read_stats(TRACED_CPU).entries:
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{tree.path}: not read to its end in {TIMEOUT_S:g} s")
        time.sleep(POLL_S)
