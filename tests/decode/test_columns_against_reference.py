"""From pages to columns and back to fields: what an archive gives equals what the slow decoder reads in the record."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive.block import decode_block
from collector.archive.fields import pack
from collector.archive.objects import FormatObject, build_object, parse_format, parse_object
from collector.decode import ring
from collector.decode.columns import Encoder
from collector.decode.plan import EventPlan, build_event_plan, build_unknown_plan, common_head
from collector.tracefs.formats import parse_event_format
from collector.tracefs.layout import parse_header_page
from tests import pages as made
from tests import reference
from tests.conftest import RECORDED_CASES
from tests.decode.test_ring_against_reference import recorded_pages
from tests.pages import as_file

# (ts, event id, flags, preempt count, pid, fields or the whole record)
Row = tuple[int, int, int, int, int, Any]


def build_body(batch: ring.Batch, encoder: Encoder, ids: dict[int, bytes]) -> bytes:
    """A block's body as docs/segment-format.md has it, not compressed."""
    encoder.encode(batch)
    cols = encoder.columns()
    kinds = [[ids[event], int(is_raw), entries] for event, is_raw, entries in encoder.kinds]
    return pack({
        "run": bytes(16), "inst": "i", "cpu": 0, "no": 0, "ord": 0, "n": len(batch), "t0": batch.first_ts,
        "t1": batch.last_ts, "raw": batch.raw_bytes, "gaps": [], "kinds": kinds, "codec": "none", "size": len(cols),
        "cols": cols,
    })  # fmt: skip


def through_columns(header: str, texts: dict[tuple[str, str], str], pages: bytes, room_pages: int) -> Iterator[Row]:
    """Pages -> batches -> columns -> entries, with a block for each batch."""
    layout = parse_header_page(header)
    formats = [parse_event_format(text, system) for (system, _), text in texts.items()]
    plan = ring.Plan(layout, common_head(formats[0]))
    by_id = {f.id: f for f in formats}
    batch = ring.Batch(plan, layout.subbuf_size * room_pages, plan.entries_per_page * room_pages)
    encoder = Encoder()
    ids: dict[int, bytes] = {}
    objects: dict[bytes, FormatObject] = {}

    def learn(event: EventPlan) -> None:
        plan.add(event)
        ids[event.event_id], body = build_object("format", event.format_object())
        objects[ids[event.event_id]] = parse_format(parse_object(body))

    def take() -> Iterator[Row]:
        if len(batch):
            for e in decode_block(build_body(batch, encoder, ids), objects).entries():
                values = [column[e.row] for column in e.kind.columns]
                names = [f.name for f in e.format.columns]
                fields = values[0] if e.mode else dict(zip(names, values, strict=True))
                yield e.ts, e.format.event_id, e.flags, e.preempt_count, e.pid, fields
        batch.reset()

    with as_file(pages) as fd:
        while True:
            status, detail = batch.fill(fd, 1 << 30)
            if status == ring.EMPTY:
                break
            if status == ring.UNKNOWN:
                assert detail is not None
                learn(build_event_plan(by_id[detail]) if detail in by_id else build_unknown_plan(detail))
            elif status == ring.FULL:
                yield from take()
    yield from take()


def compare(header: str, texts: dict[tuple[str, str], str], pages: bytes, room_pages: int) -> None:
    layout, formats = slow_side(header, tuple(texts.items()))
    slow = [(e.ts, e.id, e.flags, e.preempt_count, e.pid, e.record if e.fields is None else e.fields)
            for e in reference.decode_pages(pages, layout, formats).entries]  # fmt: skip
    found = 0
    for found, (have, want) in enumerate(zip(through_columns(header, texts, pages, room_pages), slow, strict=True), 1):
        assert have == want, f"entry {found - 1}"
    assert found == len(slow)


@cache
def slow_side(header: str, texts: tuple[tuple[tuple[str, str], str], ...]) -> Any:
    formats = [reference.read_format(system, text) for (system, _), text in texts]
    return reference.read_layout(header), {f.id: f for f in formats}


def texts_of(tracefs: Path) -> dict[tuple[str, str], str]:
    return {(f.parent.parent.name, f.parent.name): f.read_text() for f in sorted(tracefs.glob("events/*/*/format"))}


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_recorded_kernels_come_back_whole(name: str, recorded_case: Callable[[str], Path]) -> None:
    tracefs = recorded_case(name) / "tracefs"
    header = (tracefs / "events/header_page").read_text()
    for pages in reference.read_case(tracefs.parent)[2].values():
        compare(header, texts_of(tracefs), pages, 1)
        compare(header, texts_of(tracefs), pages, 256)


@pytest.mark.parametrize("name", ["6.12/module_events", "6.12/event_stack", "6.12/marker", "6.18/mix"])
def test_damaged_pages_come_back_whole(name: str, recorded_case: Callable[[str], Path]) -> None:
    """What a damage makes of a sound page's records, in range and out of it."""
    tracefs = recorded_case(name) / "tracefs"
    header, texts = (tracefs / "events/header_page").read_text(), texts_of(tracefs)
    pages = recorded_pages(tracefs.parent)[:24]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(made.damaged_pages, min_size=1, max_size=4))
    def check(damaged: list[made.DamagedPage]) -> None:
        compare(header, texts, b"".join(d.build(pages) for d in damaged), 4)

    check()


@settings(max_examples=200, deadline=None)
@given(st.lists(made.sound_pages(), min_size=1, max_size=4), st.integers(1, 4))
def test_random_pages_come_back_whole(pages: list[bytes], room_pages: int) -> None:
    compare(made.HEADER_PAGE.format(data_size=4080), made.FORMATS, b"".join(pages), room_pages)


@pytest.mark.parametrize("distinct", [1, 2, 255, 256, 257, 300])
def test_each_number_of_distinct_values_comes_back(distinct: int) -> None:
    """Around what a dictionary can hold: numbers, characters, located and trailing bytes."""
    data = []
    for i in range(600):
        v = (i * 7919) % distinct
        words = [v << s & 0xFFFFFFFF for s in (0, 8, 16, 20)]
        numbers = b"".join(w.to_bytes(4, "little") for w in (*words, *words))
        data.append(made.build_data(made.build_record(501, numbers, pid=v), 3))
        data.append(made.build_data(made.build_record(502, numbers + numbers[:24]), 3))
        text = str(v).encode().ljust(8, b"\0")
        data.append(made.build_data(made.build_record(503, b"".join(
            n.to_bytes(4, "little") for n in (24 | 8 << 16, v, 32 << 0, 0 | 8 << 16)) + text), 3))  # fmt: skip
        data.append(made.build_data(made.build_record(504, numbers[:8] + text), 3))
    header = made.HEADER_PAGE.format(data_size=(1 << 18) - made.HEADER_SIZE)
    compare(header, made.FORMATS, made.build_page(b"".join(data), 10**15, size=1 << 18), 1)
