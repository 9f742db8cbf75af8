"""The page walk in Cython against the slow decoder: on all recorded kernels, on damaged and on random pages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.decode import ring
from collector.decode.plan import EventPlan, build_event_plan, build_unknown_plan, common_head
from collector.tracefs.formats import EventFormat, parse_event_format
from collector.tracefs.layout import PageLayout, parse_header_page
from tests import pages as made
from tests import reference
from tests.conftest import RECORDED_CASES
from tests.pages import as_file

# (ts, id, flags, preempt count, pid, is raw, record)
Row = tuple[int, int, int, int, int, bool, bytes]


@dataclass
class Outcome:
    """What a decoder made of some pages."""

    rows: list[Row] = field(default_factory=list)
    gaps: list[tuple[int, int | None]] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    skipped: int = 0


@dataclass(frozen=True)
class Both:
    """The two decoders' views of one kernel."""

    layout: PageLayout
    formats: list[EventFormat]
    slow_layout: reference.Layout
    slow_formats: dict[int, reference.Format]

    @cached_property
    def plans(self) -> dict[int, EventPlan]:
        return {f.id: build_event_plan(f) for f in self.formats}

    def compare(self, pages: bytes, *ways: dict[str, int]) -> Outcome:
        """What both make of some pages, the fast one in each of some ways: see decode_fast()."""
        slow = decode_slow(pages, self.slow_layout, self.slow_formats)
        for way in ways or ({},):
            fast = decode_fast(pages, self, **way)
            assert fast.malformed == slow.malformed, way
            assert first_difference(fast.rows, slow.rows) is None, way
            assert fast.gaps == slow.gaps, way
            assert fast.skipped == slow.skipped, way
        return slow


def decode_fast(pages: bytes, both: Both, *, room_pages: int = 4, max_bytes: int = 1 << 30) -> Outcome:
    """Drive the walk as a reader does: empty a full batch, add ids as they come up, go on after damage."""
    layout, plans = both.layout, both.plans
    plan = ring.Plan(layout, common_head(both.formats[0]))
    batch = ring.Batch(plan, layout.subbuf_size * room_pages, plan.entries_per_page * room_pages)
    out = Outcome()

    def take() -> None:
        out.gaps += [(len(out.rows) + at, count) for at, count in batch.gap_list]
        out.rows += batch.entries()
        batch.reset()

    with as_file(pages) as fd:
        while True:
            status, detail = batch.fill(fd, max_bytes)
            if status == ring.EMPTY:
                break
            if status == ring.UNKNOWN:
                assert detail is not None
                plan.add(plans[detail] if detail in plans else build_unknown_plan(detail))
            elif status in ring.REASONS:
                assert batch.bad_page() in pages
                out.malformed.append(ring.REASONS[status])
            elif status == ring.FULL:
                assert len(batch) or batch.gap_list or batch.pages_used
                take()
            else:
                assert status in (ring.PARTIAL, ring.LIMIT)
    take()
    out.skipped = batch.total_skipped
    assert batch.total_entries == len(out.rows)
    assert batch.total_bytes == len(pages)
    return out


def decode_slow(pages: bytes, layout: reference.Layout, formats: dict[int, reference.Format]) -> Outcome:
    got = reference.decode_pages(pages, layout, formats)
    rows = [(e.ts, e.id, e.flags, e.preempt_count, e.pid, e.fields is None, e.record) for e in got.entries]
    return Outcome(rows, got.gaps, [reason for _, reason in got.malformed], got.skipped.total())


def first_difference(fast: list[Row], slow: list[Row]) -> tuple[int, Row | None, Row | None] | None:
    """(index, fast, slow) of the first rows that differ: all of them would be pages of hexadecimals."""
    for index, (f, s) in enumerate(zip_longest(fast, slow)):
        if f != s:
            return index, f, s
    return None


def both_of(tracefs: Path) -> Both:
    header = (tracefs / "events/header_page").read_text()
    layout = parse_header_page(header)
    formats = [
        parse_event_format(f.read_text(), f.parent.parent.name, layout.commit_size)
        for f in sorted(tracefs.glob("events/*/*/format"))
    ]
    return Both(layout, formats, reference.read_layout(header), reference.read_formats(tracefs))


@cache
def both_of_made(subbuf_size: int) -> Both:
    header = made.HEADER_PAGE.format(data_size=subbuf_size - made.HEADER_SIZE)
    formats = [parse_event_format(text, system, 8) for (system, _), text in made.FORMATS.items()]
    slow = [reference.read_format(system, text, 8) for (system, _), text in made.FORMATS.items()]
    return Both(parse_header_page(header), formats, reference.read_layout(header), {f.id: f for f in slow})


def recorded_pages(case: Path) -> list[bytes]:
    layout, _, per_cpu = reference.read_case(case)
    return [data[at : at + layout.subbuf_size] for data in per_cpu.values()
            for at in range(0, len(data), layout.subbuf_size)]  # fmt: skip


def assert_same_plans(both: Both) -> None:
    for fast in both.formats:
        slow = both.slow_formats[fast.id]
        plan = both.plans[fast.id]
        assert (fast.system, fast.name) == (slow.system, slow.name)
        assert [(c.name, c.cls, c.offset, c.count) for c in plan.columns] == [
            (f.name, f.kind, f.offset, f.count) for f in slow.fields
        ], fast.name_full
        for c, f in zip(plan.columns, slow.fields, strict=True):
            assert c.cls not in ("int", "chars") or (c.size, c.signed) == (f.element_size, f.signed)
        assert plan.fixed_size == max(f.fixed_end for f in (*slow.common, *slow.fields))


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_formats_are_read_alike(name: str, recorded_case: Callable[[str], Path]) -> None:
    assert_same_plans(both_of(recorded_case(name) / "tracefs"))


@pytest.mark.kernel
def test_all_formats_of_the_live_kernel_are_read_alike(tracefs: Path) -> None:
    assert_same_plans(both_of(tracefs))


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_recorded_kernels_decode_alike(name: str, recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case(name)
    both = both_of(case / "tracefs")
    for pages in reference.read_case(case)[2].values():
        ways = [*({"room_pages": room} for room in (1, 3, 64)), {"max_bytes": both.layout.subbuf_size}]
        assert not both.compare(pages, *ways).malformed


# One of each kind of load, kernel and sub-buffer size: all of them would say no more and take minutes.
DAMAGED_CASES = ["6.1/kprobe", "6.12/events_subbuf16", "6.12/event_stack", "6.12/module_events", "6.12/synth",
                 "6.18/lost", "6.18/mix"]  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED_CASES)
def test_damaged_pages_decode_alike(name: str, recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case(name)
    both = both_of(case / "tracefs")
    pages = recorded_pages(case)[:24]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(made.damaged_pages, min_size=1, max_size=4), st.integers(1, 4))
    def compare(damaged: list[made.DamagedPage], room_pages: int) -> None:
        both.compare(b"".join(d.build(pages) for d in damaged), {"room_pages": room_pages})

    compare()


@pytest.mark.parametrize("name", ["6.1/bprint", "6.12/lost", "6.18/events"])
def test_every_length_of_a_page_decodes_alike(name: str, recorded_case: Callable[[str], Path]) -> None:
    """A commit that cuts the page anywhere, and one that claims more than there is."""
    case = recorded_case(name)
    both = both_of(case / "tracefs")
    page = bytearray(recorded_pages(case)[0])
    at = both.layout.commit_offset
    for commit in (*range(600), *range(3900, 4100), *(0xFFFFFFFF >> n for n in range(20))):
        page[at : at + 4] = commit.to_bytes(4, "little")
        both.compare(bytes(page))


@pytest.mark.parametrize("subbuf_size", [4096, 8192, 65536])
def test_random_pages_decode_alike(subbuf_size: int) -> None:
    both = both_of_made(subbuf_size)

    @settings(max_examples=150, deadline=None)
    @given(st.lists(made.sound_pages(subbuf_size), min_size=1, max_size=4), st.integers(1, 4))
    def compare(pages: list[bytes], room_pages: int) -> None:
        assert not both.compare(b"".join(pages), {"room_pages": room_pages}).malformed

    compare()


@settings(max_examples=150, deadline=None)
@given(st.lists(made.sound_pages(), min_size=1, max_size=3), st.lists(made.mutations, min_size=1, max_size=6))
def test_damaged_random_pages_decode_alike(pages: list[bytes], damages: list[made.Mutation]) -> None:
    page = bytearray(pages[0])
    for damage in damages:
        damage.apply(page)
    both_of_made(4096).compare(bytes(page) + b"".join(pages[1:]))


def test_smallest_records_fill_a_page() -> None:
    """As many entries as a page can hold: the index must have room for them."""
    full = made.build_data(made.build_record(505)) * (4080 // 12)
    outcome = both_of_made(4096).compare(made.build_page(full) * 3, {"room_pages": 1})
    assert len(outcome.rows) == 3 * (4080 // 12)
