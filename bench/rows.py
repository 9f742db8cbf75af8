"""Rows for the forward sink: from the columns of recorded blocks to msgpack records, and gzip behind that."""

import time
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median

import zstandard

from collector.archive.objects import build_object, parse_format, parse_object
from collector.decode.plan import EventPlan
from collector.read.lookup import Names
from collector.read.rows import RowEncoder, RowKind
from collector.read.symbols import Symbols
from sinks.forward.protocol import compress_entries
from sinks.forward.records import build_kind

from .decode import BLOCK_BYTES, Pages, batches, record_load
from .loads import LOADS, Programs
from .report import build_table, build_targets, say

TARGET_PER_S = 1.5e6  # events a second that one core makes rows of
BLOCKS = 24
CHUNK_BYTES = 1 << 20  # the sink's default
PREFIX = b"\xa4host\xa4host\xa3run\xd9\x20" + b"0" * 32 + b"\xa8instance\xa8instance\xa3cpu\x00"
PREFIX_ENTRIES = 4
COMM = b"\xaacomm-name-"
PIECES = [(0, 0, 1_700_000_000_000_000_000, 1, 1), (1, 1, 1_700_000_000_000_000_000, 1_000_001, 1_000_000)]


@dataclass(frozen=True, slots=True)
class Packed:
    """A block as the sink gets it, but for the head."""

    events: int
    columns: bytes  # compressed
    size_bytes: int
    first_ts: int
    last_ts: int
    kinds: tuple[tuple[RowKind, int], ...]
    comms: Names


@dataclass(frozen=True, slots=True)
class Pass:
    """All blocks taken once; CPU seconds."""

    decompress_s: float
    rows_s: float
    gzip_s: float
    rows_bytes: int
    gzip_bytes: int


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    table, targets = [], []
    for load in LOADS:
        say(f"rows {load.name}")
        pages = record_load(programs, work, load)
        try:
            blocks = _pack_blocks(pages)
        finally:
            pages.path.unlink()
        passes = [run_pass(blocks) for _ in range(runs + 1)][1:]  # the first faults the memory in
        events = sum(block.events for block in blocks)
        rows_s = median(p.rows_s for p in passes)
        million = events / 1e6
        table.append((
            load.name, f"{million:.2f}", f"{median(p.decompress_s for p in passes) / million:.4f}",
            f"{rows_s / million:.4f}", f"{million / rows_s:.2f}", f"{passes[0].rows_bytes / events:.0f}",
            f"{median(p.gzip_s for p in passes) / million:.3f}", f"{passes[0].gzip_bytes / events:.1f}",
        ))  # fmt: skip
        # As seconds, so that the target is an upper limit like the others.
        targets.append((f"{load.name}: rows, CPU s/million", 1e6 / TARGET_PER_S, rows_s / million, ".3f"))
    head = ("load", "million events", "zstd, CPU s/million", "**rows**, CPU s/million", "million events/s of rows",
            "bytes/event", "gzip 1, CPU s/million", "bytes/event after it")  # fmt: skip
    return "\n\n".join((f"Medians of {runs} passes.", build_table(head, table), build_targets(targets)))


def run_pass(blocks: list[Packed]) -> Pass:
    """Take all blocks once."""
    encoder, nothing = RowEncoder(), Names()
    decompressor = zstandard.ZstdDecompressor()
    decompress_s = rows_s = gzip_s = 0.0
    rows_bytes = gzip_bytes = 0
    for block in blocks:
        begin_s = time.process_time()
        columns = decompressor.decompress(block.columns)
        middle_s = time.process_time()
        decompress_s += middle_s - begin_s
        pieces = []
        encoder.open(
            columns, block.events, block.first_ts, block.last_ts, 0, block.kinds, PREFIX, PREFIX_ENTRIES, PIECES, 0,
            block.comms, nothing, nothing, nothing,
        )  # fmt: skip
        while encoder.fill(CHUNK_BYTES):
            pieces.append(encoder.data())
        end_s = time.process_time()
        rows_s += end_s - middle_s
        for piece in pieces:
            rows_bytes += len(piece)
            gzip_bytes += len(compress_entries([piece], zlib.Z_BEST_SPEED))
        gzip_s += time.process_time() - end_s
    return Pass(decompress_s, rows_s, gzip_s, rows_bytes, gzip_bytes)


def _pack_blocks(pages: Pages) -> list[Packed]:
    compress = zstandard.ZstdCompressor(level=1).compress
    symbols = Symbols()

    @cache
    def kind_of(event: EventPlan, is_raw: bool) -> RowKind:
        of = parse_format(parse_object(build_object("format", event.format_object())[1]))
        return build_kind(of, symbols, is_raw=is_raw)

    packed = []
    for batch, encoder in batches(pages, BLOCK_BYTES, BLOCKS):
        encoder.encode(batch)
        kinds = tuple((kind_of(pages.plan.events[event], is_raw), n) for event, is_raw, n in encoder.kinds)
        comms = Names()
        for pid in encoder.pids:
            comms.set(pid, COMM)
        packed.append(
            Packed(
                len(batch), encoder.compress(compress), encoder.size_bytes, batch.first_ts, batch.last_ts, kinds, comms
            )
        )
    return packed
