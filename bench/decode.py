"""The decoder and the encoder alone, on sub-buffers recorded from the live kernel; compressors and block sizes.

The sub-buffers are in a file that the decoder reads as it reads a ring; the time of reading the same file into a
buffer of the same size, and nothing else, is taken off. Reading a live ring costs more, and is in the live figures.
"""

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import lz4.block
import zstandard

from collector.capture.format_index import FormatIndex
from collector.capture.sizing import batch_size
from collector.decode import ring
from collector.decode.columns import Encoder
from collector.decode.plan import CommonHead, build_event_plan, build_unknown_plan, common_head
from collector.tracefs.files import TracefsDir

from .kernel import instance, open_tracefs
from .loads import LOADS, Load, Programs
from .report import build_table, build_targets, say
from .rivals import record_pages
from .steps import build_steps

SUBBUF_KB = 64
BLOCK_BYTES = 1 << 20  # the default
BLOCK_SIZES_KB = (128, 256, 512, 1024, 2048, 4096)
COUNTS = {"syscalls": 1_000_000, "mixed": 16_000}  # {load: calls or rounds}: some 2 million events
STEP_BLOCKS = 24  # blocks that the steps are measured on; they are built in Python
TARGETS = {"syscalls": 0.02, "mixed": 0.03}  # {load: CPU s per million events}

Compress = Callable[[Any], bytes]

COMPRESSORS: dict[str, Callable[[], Compress]] = {
    "zstd 1": lambda: zstandard.ZstdCompressor(level=1).compress,
    "zstd 3": lambda: zstandard.ZstdCompressor(level=3).compress,
    "lz4": lambda: lambda data: lz4.block.compress(data, store_size=False),
    "none": lambda: bytes,
}  # {name: makes a compressor}


@dataclass(frozen=True, slots=True)
class Pages:
    """Recorded sub-buffers of one load, and what their decoding needs."""

    load: Load
    path: Path
    plan: ring.Plan
    formats: FormatIndex


@dataclass(frozen=True, slots=True)
class Pass:
    """All pages taken once."""

    events: int
    cpu_s: float
    column_bytes: int
    compressed_bytes: int


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    recorded = [record_load(programs, work, load) for load in LOADS]
    try:
        targets: list[tuple[str, float, float, str]] = []
        parts: list[str] = []
        for pages in recorded:
            say(f"decode {pages.load.name}")
            walk = _table_of_passes(pages, runs, parts)
            targets.append((f"{pages.load.name}: decode alone, CPU s/million", TARGETS[pages.load.name], walk, ".4f"))
        return "\n\n".join([f"Medians of {runs} passes.", *parts, build_targets(targets)])
    finally:
        for pages in recorded:
            pages.path.unlink()


def _table_of_passes(pages: Pages, runs: int, parts: list[str]) -> float:
    """Measure one load and append its tables; gives the cost of the page walk."""
    variants: dict[str, Callable[[], Pass]] = {
        "decode alone: walk, check, index": lambda: run_pass(pages, BLOCK_BYTES),
        "and all fields as encoded columns": lambda: run_pass(pages, BLOCK_BYTES, encode=True),
    }
    for name, make in COMPRESSORS.items():
        compress = make()
        variants[f"and {name}"] = partial(run_pass, pages, BLOCK_BYTES, encode=True, compress=compress)
    found, read_s = _interleaved(pages, BLOCK_BYTES, variants, runs)
    events = next(iter(found.values()))[0].events
    million = events / 1e6
    costs = {name: (median(p.cpu_s for p in passes) - read_s) / million for name, passes in found.items()}
    sizes = {name: (p[0].compressed_bytes or p[0].column_bytes) / events for name, p in found.items()}
    rows = [
        ("read the file, nothing else", f"{read_s / million:.4f}", f"{pages.path.stat().st_size / events:.1f}"),
        *((name, f"{costs[name]:.4f}", f"{sizes[name]:.2f}" if sizes[name] else "-") for name in found),
    ]
    parts.append(f"**{pages.load.name}**, {million:.2f} million events; each line but the first without the reading:")
    parts.append(build_table(("to that point", "CPU s/million", "bytes/event"), rows))
    parts.append(_table_of_block_sizes(pages, runs))
    parts.append(_table_of_steps(pages))
    return next(iter(costs.values()))


def _interleaved(
    pages: Pages, block_bytes: int, variants: Mapping[str, Callable[[], Pass]], runs: int
) -> tuple[dict[str, list[Pass]], float]:
    """Passes of each variant in turn, so that a disturbance hits all alike; and the seconds of reading alone."""
    found: dict[str, list[Pass]] = {name: [] for name in variants}
    reads = []
    for _ in range(runs):
        reads.append(read_only(pages, block_bytes))
        for name, variant in variants.items():
            found[name].append(variant())
    return found, median(reads)


def _table_of_block_sizes(pages: Pages, runs: int) -> str:
    compress = COMPRESSORS["zstd 1"]()
    measured: dict[int, list[tuple[Pass, float]]] = {size_kb: [] for size_kb in BLOCK_SIZES_KB}
    for _ in range(runs):
        for size_kb, of in measured.items():
            read_s = read_only(pages, size_kb << 10)
            of.append((run_pass(pages, size_kb << 10, encode=True, compress=compress), read_s))
    rows = []
    for size_kb, of in measured.items():
        taken = of[0][0]
        cost = median(p.cpu_s - read_s for p, read_s in of) / taken.events * 1e6
        rows.append((f"{size_kb} KiB", f"{cost:.4f}", f"{taken.compressed_bytes / taken.events:.3f}"))
    return build_table(("raw bytes of a block, zstd 1", "CPU s/million", "bytes/event of columns"), rows)


def _table_of_steps(pages: Pages) -> str:
    """zstd 1 on the pages, on the columns, and after each step of the encoding."""
    sums: dict[str, list[float]] = {}  # {step: [bytes in, bytes out, CPU s]}
    compress = COMPRESSORS["zstd 1"]()
    events = 0
    raw = pages.path.read_bytes()
    at = 0
    for batch, encoder in batches(pages, BLOCK_BYTES, STEP_BLOCKS):
        encoder.encode(batch)
        events += len(batch)
        steps = {"sub-buffers as they are": raw[at : at + batch.raw_bytes]}
        at += batch.raw_bytes
        steps.update(build_steps(encoder.columns()))
        for name, data in steps.items():
            begin_s = time.process_time()
            size = len(compress(data))
            entry = sums.setdefault(name, [0.0, 0.0, 0.0])
            for i, value in enumerate((len(data), size, time.process_time() - begin_s)):
                entry[i] += value
    rows = [
        (name, f"{size / events:.2f}", f"{out / events:.2f}", f"{cpu_s / events * 1e6:.4f}")
        for name, (size, out, cpu_s) in sums.items()
    ]
    head = ("each line with the steps above it", "bytes/event", "after zstd 1", "CPU s/million of zstd")
    return build_table(head, rows)


def run_pass(pages: Pages, block_bytes: int, *, encode: bool = False, compress: Compress | None = None) -> Pass:
    """Take all pages once, in blocks."""
    events = column_bytes = compressed_bytes = 0
    batch, encoder = _new_batch(pages, block_bytes), Encoder()
    _warm(pages, batch, encoder)
    fd = os.open(pages.path, os.O_RDONLY)
    begin_s = time.process_time()
    while _fill(pages, batch, fd):
        events += len(batch)
        if encode:
            encoder.encode(batch)
            column_bytes += encoder.size_bytes
            if compress is not None:
                compressed_bytes += len(encoder.compress(compress))
        batch.reset()
    cpu_s = time.process_time() - begin_s
    os.close(fd)
    return Pass(events, cpu_s, column_bytes, compressed_bytes)


def read_only(pages: Pages, block_bytes: int) -> float:
    """CPU seconds of reading the file into a page-aligned buffer."""
    buffer = mmap.mmap(-1, block_bytes)
    fd = os.open(pages.path, os.O_RDONLY)
    os.readv(fd, [buffer])  # faults the buffer in
    os.lseek(fd, 0, os.SEEK_SET)
    begin_s = time.process_time()
    while os.readv(fd, [buffer]):
        pass
    cpu_s = time.process_time() - begin_s
    os.close(fd)
    buffer.close()
    return cpu_s


def batches(pages: Pages, block_bytes: int, most: int) -> Iterator[tuple[ring.Batch, Encoder]]:
    """Gives a filled batch and an encoder, at most so many times."""
    batch, encoder = _new_batch(pages, block_bytes), Encoder()
    fd = os.open(pages.path, os.O_RDONLY)
    try:
        for _ in range(most):
            if not _fill(pages, batch, fd):
                return
            yield batch, encoder
            batch.reset()
    finally:
        os.close(fd)


def _new_batch(pages: Pages, block_bytes: int) -> ring.Batch:
    size = batch_size(
        streams=1, workers=1, subbuf_bytes=pages.plan.subbuf_size, entries_per_page=pages.plan.entries_per_page,
        block_bytes=block_bytes, budget_bytes=1 << 30,
    )  # fmt: skip
    return ring.Batch(pages.plan, size.pages_bytes, size.capacity)


def _warm(pages: Pages, batch: ring.Batch, encoder: Encoder) -> None:
    """Fault in the batch's and the encoder's memory, which the daemon does once."""
    fd = os.open(pages.path, os.O_RDONLY)
    if _fill(pages, batch, fd):
        encoder.encode(batch)
    batch.reset()
    os.close(fd)


def _fill(pages: Pages, batch: ring.Batch, fd: int) -> bool:
    """Fill a batch; False at the end of the pages."""
    while True:
        status, detail = batch.fill(fd, 1 << 40)
        if status == ring.UNKNOWN:
            assert detail is not None
            found = pages.formats.get(detail)
            pages.plan.add(build_unknown_plan(detail) if found is None else build_event_plan(found))
        elif status in ring.REASONS:
            raise RuntimeError(f"{pages.path}: {ring.REASONS[status]}")
        elif status == ring.FULL:
            return True
        elif status != ring.PARTIAL:
            return len(batch) > 0


def record_load(programs: Programs, work: Path, load: Load) -> Pages:
    out = work / f"{load.name}.pages"
    record_pages(programs, load, COUNTS[load.name], out, SUBBUF_KB)
    top = open_tracefs()
    with instance("layout", load, SUBBUF_KB, buffer_kb=SUBBUF_KB) as tree:
        layout = tree.read_layout()
    return Pages(load, out, ring.Plan(layout, _head(top)), FormatIndex(top, layout.word_size))


def _head(top: TracefsDir) -> CommonHead:
    system, name = top.list_event_folders("ftrace")[0]
    return common_head(top.read_event_format(system, name, 8))
