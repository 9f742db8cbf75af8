"""From format files to what the decoder does with a record."""

import pytest

from collector.decode.plan import (
    CLASS_CHARS,
    CLASS_DATA_LOC,
    CLASS_INT,
    CLASS_REL_LOC,
    CLASS_TAIL,
    Column,
    CommonHead,
    EventPlan,
    build_event_plan,
    build_unknown_plan,
    common_head,
)
from collector.decode.ring import Batch, Plan
from collector.errors import TracefsFormatError
from collector.tracefs.formats import parse_event_format
from collector.tracefs.layout import PageLayout, parse_header_page
from tests import pages as made


def plan_of(name: str) -> EventPlan:
    return build_event_plan(parse_event_format(made.FORMATS["made", name], "made", 8))


def layout(data_size: int = 4080) -> PageLayout:
    return parse_header_page(made.HEADER_PAGE.format(data_size=data_size))


# ---- columns


def test_integers_keep_their_width_sign_and_place() -> None:
    assert [(c.name, c.number, c.offset, c.size, c.signed, c.count) for c in plan_of("integers").columns] == [
        ("a", CLASS_INT, 8, 1, False, 1),
        ("b", CLASS_INT, 9, 1, True, 1),
        ("c", CLASS_INT, 10, 2, False, 1),
        ("d", CLASS_INT, 12, 2, True, 1),
        ("e", CLASS_INT, 16, 4, False, 1),
        ("f", CLASS_INT, 20, 4, True, 1),
        ("g", CLASS_INT, 24, 8, False, 1),
        ("h", CLASS_INT, 32, 8, True, 1),
    ]


def test_arrays_have_the_size_of_an_element_and_characters_that_of_all() -> None:
    assert [(c.name, c.number, c.size, c.count) for c in plan_of("arrays").columns] == [
        ("comm", CLASS_CHARS, 16, 1),
        ("mac", CLASS_CHARS, 6, 1),
        ("pair", CLASS_INT, 2, 2),
        ("args", CLASS_INT, 8, 3),
    ]


def test_located_fields_and_tails_have_the_size_of_their_elements() -> None:
    columns = [*plan_of("located").columns, *plan_of("tailed").columns]
    assert [(c.name, c.number, c.size) for c in columns if c.number != CLASS_INT] == [
        ("name", CLASS_DATA_LOC, 1),
        ("words", CLASS_DATA_LOC, 4),
        ("where", CLASS_REL_LOC, 1),
        ("buf", CLASS_TAIL, 1),
    ]


@pytest.mark.parametrize("name", [name for _, name in made.FORMATS])
def test_fixed_size_ends_with_the_last_field_that_every_record_has(name: str) -> None:
    plan = plan_of(name)
    assert plan.fixed_size == made.FIXED_SIZES[plan.event_id]


def test_columns_are_in_the_order_of_their_offsets() -> None:
    text = made.format_text("mixed", 600, ("u32 late", 16, 4, 0), ("u64 early", 8, 8, 0))
    assert [c.name for c in build_event_plan(parse_event_format(text, "made", 8)).columns] == ["early", "late"]


def test_fields_that_are_printed_as_places_in_the_kernel_are_addresses() -> None:
    text = made.format_text("called", 601, ("void * caller", 8, 8, 0), ("u64 other", 16, 8, 0))
    text = text.replace('fmt: ""', 'fmt: "%pS %llu", REC->caller, REC->other')
    columns = build_event_plan(parse_event_format(text, "made", 8)).columns
    assert [(c.name, c.is_address) for c in columns] == [("caller", True), ("other", False)]


def test_format_object_lists_the_columns_as_segments_do() -> None:
    plan = plan_of("tailed")
    assert plan.format_object() == {
        "id": 504, "system": "made", "name": "tailed", "text": made.FORMATS["made", "tailed"],
        "columns": [["ip", "int", 8, False, 1], ["buf", "tail", 1, plan.columns[1].signed, 1]],
        "kinds": ["plain", "text"], "word": 8,
    }  # fmt: skip


def test_id_without_a_format_has_no_column_and_a_name_that_says_so() -> None:
    plan = build_unknown_plan(999)
    assert (plan.system, plan.name, plan.columns, plan.is_known) == ("unknown", "event_999", (), False)


# ---- the head of all records


def test_common_head_is_read_from_a_format() -> None:
    assert common_head(parse_event_format(made.FORMATS["made", "bare"], "made", 8)) == CommonHead(0, 2, 3, 4, 8)


def test_common_head_may_be_laid_out_otherwise() -> None:
    text = made.FORMATS["made", "bare"].replace("offset:4;\tsize:4", "offset:8;\tsize:4")
    assert common_head(parse_event_format(text, "made", 8)) == CommonHead(0, 2, 3, 8, 12)


@pytest.mark.parametrize("name", ["common_type", "common_flags", "common_preempt_count", "common_pid"])
@pytest.mark.parametrize("how", ["missing", "of another size"])
def test_common_head_that_is_not_usable_is_named(name: str, how: str) -> None:
    lines = made.FORMATS["made", "bare"].splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if f" {name};" in line)
    lines[at] = "" if how == "missing" else lines[at].split("size:")[0] + "size:8;\tsigned:0;\n"
    with pytest.raises(TracefsFormatError, match=rf"events/made/bare/format: field {name} is not usable; expected"):
        common_head(parse_event_format("".join(lines), "made", 8))


# ---- what the decoder takes


@pytest.mark.parametrize("data_size", [(1 << 24) + 1, 99999999999])
def test_sub_buffer_of_impossible_size_is_refused(data_size: int) -> None:
    with pytest.raises(TracefsFormatError, match="events/header_page"):
        Plan(layout(data_size), CommonHead())


def test_known_event_keeps_its_first_plan() -> None:
    plan = Plan(layout(), CommonHead())
    first = plan_of("bare")
    plan.add(first)
    plan.add(EventPlan(505, "other", "event", "text", (Column("x", "int", 8, 4, False, 1, False),), 12))
    assert plan.events == {505: first}


@pytest.mark.parametrize("event_id", [-1, 65536])
def test_id_that_no_record_can_have_is_refused(event_id: int) -> None:
    with pytest.raises(TracefsFormatError, match="0 to 65535"):
        Plan(layout(), CommonHead()).add(build_unknown_plan(event_id))


def test_page_of_smallest_records_fits_the_index() -> None:
    plan = Plan(layout(), CommonHead())
    assert plan.entries_per_page == 4080 // 12 + 1
    with pytest.raises(ValueError, match="capacity"):
        Batch(plan, 4096, plan.entries_per_page - 1)
    with pytest.raises(ValueError, match="pages_size"):
        Batch(plan, 4095, plan.entries_per_page)
