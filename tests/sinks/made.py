"""Segments made for the tests of sinks."""

from pathlib import Path

from collector.archive.info import summarise
from collector.archive.segment import SegmentWriter, build_header
from collector.archive.totals import StreamId, Totals
from tests.archive.encoder import CREATED_NS, EVERY_ID, PLAIN_ID, RUN, Maps, build_block, every_row

ENTRIES = 20  # of each block


def make_segment(
    folder: Path,
    *,
    streams: tuple[StreamId, ...] = (("main", 0), ("main", 1)),
    blocks: int = 5,
    number: int = 0,
    run: bytes = RUN,
    host: str = "h",
    created_ns: int = CREATED_NS,
) -> Path:
    """Writes and seals a segment with so many blocks of each stream, numbered from number * blocks."""
    opening = {stream: Totals(blocks=number * blocks, events=number * blocks * ENTRIES) for stream in streams}
    header = build_header(
        run=run, segment=number, host=host, boot_id="b", kernel="k", created_ns=created_ns + number * 10**9, tool="t",
        config_hash="c", opening=opening,
        instances={
            name: {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 4096}
            for name in dict.fromkeys(name for name, _ in streams)
        },
    )  # fmt: skip
    writer = SegmentWriter.create(folder, header)
    maps = Maps()
    for block in range(number * blocks, (number + 1) * blocks):
        for stream in streams:
            rows = [
                (1000 * block + i, 7 + i % 3, 0, 0, PLAIN_ID if i % 2 else EVERY_ID, i if i % 2 else every_row(i))
                for i in range(ENTRIES)
            ]
            ordinal = block * ENTRIES
            writer.write_block(build_block(rows, stream=stream, number=block, ordinal=ordinal, run=run), maps)
    return writer.seal({}, "shutdown", True, created_ns + number * 10**9 + 10**8)


def counts_of(*paths: Path) -> dict[str, int]:
    """{event: entries} of segments, as `info` says; nothing of it is damaged."""
    found = summarise(paths)
    assert not found["damaged"], found["damaged"]
    counts: dict[str, int] = found["by_event"]
    return counts
