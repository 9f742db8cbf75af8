"""From pages to columns and back to fields: what an archive gives equals what the slow decoder reads in the record."""

from collections.abc import Callable, Iterator
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
from collector.decode.plan import EventPlan, build_unknown_plan, common_head
from tests import pages as made
from tests import reference
from tests.conftest import RECORDED_CASES
from tests.decode.test_ring_against_reference import Both, both_of, both_of_made, recorded_pages
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


def through_columns(both: Both, pages: bytes, room_pages: int) -> Iterator[Row]:
    """Pages -> batches -> columns -> entries, with a block for each batch."""
    layout, plans = both.layout, both.plans
    plan = ring.Plan(layout, common_head(both.formats[0]))
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
                learn(plans[detail] if detail in plans else build_unknown_plan(detail))
            elif status == ring.FULL:
                yield from take()
    yield from take()


def compare(both: Both, pages: bytes, *rooms_pages: int) -> None:
    """In batches of so many pages."""
    slow = [(e.ts, e.id, e.flags, e.preempt_count, e.pid, e.record if e.fields is None else e.fields)
            for e in reference.decode_pages(pages, both.slow_layout, both.slow_formats).entries]  # fmt: skip
    for room_pages in rooms_pages:
        found = 0
        for found, (have, want) in enumerate(zip(through_columns(both, pages, room_pages), slow, strict=True), 1):
            assert have == want, f"entry {found - 1}"
        assert found == len(slow)


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_recorded_kernels_come_back_whole(name: str, recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case(name)
    both = both_of(case / "tracefs")
    for pages in reference.read_case(case)[2].values():
        compare(both, pages, 1, 256)


@pytest.mark.parametrize("name", ["6.12/module_events", "6.12/event_stack", "6.12/marker", "6.18/mix"])
def test_damaged_pages_come_back_whole(name: str, recorded_case: Callable[[str], Path]) -> None:
    """What a damage makes of a sound page's records, in range and out of it."""
    case = recorded_case(name)
    both = both_of(case / "tracefs")
    pages = recorded_pages(case)[:24]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(made.damaged_pages, min_size=1, max_size=4))
    def check(damaged: list[made.DamagedPage]) -> None:
        compare(both, b"".join(d.build(pages) for d in damaged), 4)

    check()


@settings(max_examples=200, deadline=None)
@given(st.lists(made.sound_pages(), min_size=1, max_size=4), st.integers(1, 4))
def test_random_pages_come_back_whole(pages: list[bytes], room_pages: int) -> None:
    compare(both_of_made(4096), b"".join(pages), room_pages)


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
    compare(both_of_made(1 << 18), made.build_page(b"".join(data), 10**15, size=1 << 18), 1)
