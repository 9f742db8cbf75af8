"""The encoder's choice of a form for each kind of column, and that every form decodes to what was recorded."""

import random
import struct
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from collector.archive.bodies import parse_block
from collector.archive.fields import unpack
from collector.batch import MODE_RAW, MODE_TYPED, Block
from collector.capture.visit import Ask
from collector.decode.columns import Encoder
from tests import pages as made
from tests.capture.rig import Rig, blocks_of, slow_rows
from tests.pages import as_file

SIZE = 1 << 18  # of a sub-buffer that holds all of a test's entries
CONSTANT, PLANES, DICTIONARY, DELTAS, BYTES_DICTIONARY, BYTES, ARRAY = range(7)
COMMON = ("kind", "ts", "flags", "preempt", "pid")  # the columns before those of the kinds


def encode(records: Sequence[bytes], deltas: Sequence[int] | int = 1) -> tuple[Block, list[Any]]:
    """One block of these records, checked against the slow decoder, and its columns."""
    steps = [deltas] * len(records) if isinstance(deltas, int) else deltas
    data = b"".join(made.build_data(record, step) for record, step in zip(records, steps, strict=True))
    page = made.build_page(data, 10**15, size=SIZE)
    with as_file(page) as fd:
        rig = Rig(fd, subbuf_size=SIZE, room_pages=1)
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    assert rig.rows([block]) == slow_rows(page, SIZE)[0]
    head = parse_block(block.body)
    assert head.entries == len(records)
    columns: list[Any] = unpack(head.cols, "columns")
    return block, columns


def form_of(column: list[Any]) -> int:
    form: int = column[0]
    return form


def payload(columns: list[Any], field: int, kind: int = 0) -> list[Any]:
    column: list[Any] = columns[5][kind][field]
    return column


def integers(**values: int) -> bytes:
    """A record of event 501."""
    v = dict.fromkeys("abcdefgh", 0) | values
    return made.build_record(501, struct.pack("<BbHh2xIiQq", *(v[name] for name in "abcdefgh")))


def arrays(comm: bytes = b"", mac: bytes = b"", pair: Sequence[int] = (0, 0), args: Sequence[int] = (0, 0, 0)) -> bytes:
    """A record of event 502."""
    return made.build_record(502, struct.pack("<16s6s2x2h4x3Q", comm, mac, *pair, *args))


def located(name: bytes, words: Sequence[int] = (), where: bytes = b"") -> bytes:
    """A record of event 503."""
    tail = name + struct.pack(f"<{len(words)}I", *words) + where
    at = 24 + len(name)
    locs = (24 | len(name) << 16, 0, at | 4 * len(words) << 16, at + 4 * len(words) - 24 | len(where) << 16)
    return made.build_record(503, struct.pack("<IiII", *locs) + tail)


def shuffled(values: Sequence[Any], seed: int = 1) -> list[Any]:
    """In an order that no difference explains."""
    values = list(values)
    random.Random(seed).shuffle(values)
    return values


WIDE = [random.Random(i).getrandbits(63) for i in range(300)]  # values with all bytes different

MANY = 600


# ---- integers


@pytest.mark.parametrize(
    ("values", "form"),
    [
        pytest.param([7], CONSTANT, id="one entry"),
        pytest.param([7] * MANY, CONSTANT, id="always the same"),
        pytest.param([0] * MANY, CONSTANT, id="always zero"),
        pytest.param(shuffled(range(200)) * 3, PLANES, id="small numbers"),
        pytest.param([WIDE[i % 10] for i in shuffled(range(MANY))], DICTIONARY, id="few numbers"),
        pytest.param([WIDE[i % 256] for i in shuffled(range(MANY))], DICTIONARY, id="256 numbers"),
        pytest.param([WIDE[i % 257] for i in shuffled(range(MANY))], PLANES, id="257 numbers"),
        pytest.param([(1 << 40) + 4096 * i for i in range(MANY)], DELTAS, id="a counter"),
        pytest.param([(1 << 64) - 300 + i for i in range(300)] + list(range(300)), DELTAS, id="a counter that wraps"),
        pytest.param([(1 << 64) - 1 - i for i in range(MANY)], DELTAS, id="a counter downwards"),
        pytest.param([WIDE[0], WIDE[1]], PLANES, id="too few entries for a table"),
    ],
)
def test_integers_take_the_form_that_suits_them(values: list[int], form: int) -> None:
    _, columns = encode([integers(g=value) for value in values])
    assert form_of(payload(columns, 6)) == form


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("a", [0, 255, 1, 254]),
        ("b", [-128, 127, -1, 0]),
        ("c", [0, 65535, 1, 256]),
        ("d", [-32768, 32767, -1, 0]),
        ("e", [0, (1 << 32) - 1, 1, 1 << 16]),
        ("f", [-(1 << 31), (1 << 31) - 1, -1, 0]),
        ("g", [0, (1 << 64) - 1, 1, 1 << 32]),
        ("h", [-(1 << 63), (1 << 63) - 1, -1, 0]),
    ],
)
@pytest.mark.parametrize("count", [1, 2, 4, 400])
def test_extremes_of_every_width_and_sign_come_back(name: str, values: list[int], count: int) -> None:
    encode([integers(**{name: values[i % 4]}) for i in range(count)])


def test_constant_plane_is_a_number_not_a_row_of_bytes() -> None:
    _, columns = encode([integers(e=0x12003400 | i) for i in shuffled(range(200))])
    form, planes = payload(columns, 4)
    assert form == PLANES
    assert planes[1:] == [0x34, 0x00, 0x12]
    assert sorted(planes[0]) == list(range(200))


# ---- characters, arrays, and bytes of any length


@pytest.mark.parametrize(
    ("names", "form"),
    [
        pytest.param([b"bash"] * MANY, CONSTANT, id="one name"),
        pytest.param([b"cpu%d" % (i % 7) for i in shuffled(range(MANY))], DICTIONARY, id="few names"),
        pytest.param([b"kworker/%d" % (i % 256) for i in shuffled(range(MANY))], DICTIONARY, id="256 names"),
        pytest.param([b"kworker/%d" % (i % 257) for i in shuffled(range(MANY))], PLANES, id="257 names"),
        pytest.param([b"only"], CONSTANT, id="one entry"),
    ],
)
def test_characters_take_the_form_that_suits_them(names: list[bytes], form: int) -> None:
    _, columns = encode([arrays(comm=name) for name in names])
    assert form_of(payload(columns, 0)) == form


@pytest.mark.parametrize(
    ("rows", "form"),
    [
        pytest.param([(1, 2, 3)] * MANY, CONSTANT, id="always the same"),
        pytest.param([(i, 2, WIDE[i % 300]) for i in range(MANY)], ARRAY, id="a column for each element"),
    ],
)
def test_arrays_take_the_form_that_suits_them(rows: list[tuple[int, ...]], form: int) -> None:
    _, columns = encode([arrays(args=row, pair=(-row[1], 5)) for row in rows])
    column = payload(columns, 3)
    assert form_of(column) == form
    if form == ARRAY:
        assert [form_of(element) for element in column[1]] == [DELTAS, CONSTANT, PLANES]


@pytest.mark.parametrize(
    ("names", "form"),
    [
        pytest.param([b"same\0"] * MANY, BYTES_DICTIONARY, id="one name"),
        pytest.param([b"name%d\0" % (i % 256) for i in shuffled(range(MANY))], BYTES_DICTIONARY, id="256 names"),
        pytest.param([b"name%d\0" % (i % 257) for i in shuffled(range(MANY))], BYTES, id="257 names"),
        pytest.param([b"x" * (i % 50) + b"%d" % i for i in range(MANY)], BYTES, id="all different"),
        pytest.param([b""] * MANY, None, id="all empty"),
        pytest.param([b"", b"\0", b"\0\0"] * 200, None, id="zeros of different length"),
        pytest.param([b"only\0"], None, id="one entry"),
    ],
)
@pytest.mark.parametrize(
    ("build", "field"),
    [
        pytest.param(lambda name: located(name), 0, id="data_loc"),
        pytest.param(lambda name: located(b"", where=name), 3, id="rel_loc"),
        pytest.param(lambda name: made.build_record(504, bytes(8) + name), 1, id="tail"),
        pytest.param(lambda name: made.build_record(made.UNKNOWN_ID, name), 0, id="raw"),
    ],
)
def test_bytes_of_any_length_take_the_form_that_suits_them(
    names: list[bytes], form: int | None, build: Callable[[bytes], bytes], field: int
) -> None:
    """Located inside the record, up to its end, and the whole record of an unknown event."""
    _, columns = encode([build(name) for name in names])
    if form is not None:
        assert form_of(payload(columns, field)) == form


def test_located_words_come_back_as_bytes() -> None:
    encode([located(b"n", words=[i, i * i, 7]) for i in range(50)])
    encode([located(b"", words=()) for _ in range(3)])


# ---- the columns that all entries have


def test_common_columns_of_one_entry_are_constant_planes() -> None:
    block, columns = encode([made.build_record(505, flags=3, preempt_count=2, pid=-1)], 0)
    assert columns[:5] == [[PLANES, [0]], [PLANES, [0] * 8], [PLANES, [3]], [PLANES, [2]], [CONSTANT, b"\xff" * 4]]
    assert columns[5] == [[]]
    assert (block.first_ts, block.last_ts, block.pids) == (10**15, 10**15, {-1})


def test_time_is_the_difference_to_the_entry_before() -> None:
    _, columns = encode([made.build_record(505)] * 4, [9, 5, 0, (1 << 27) - 1])
    form, planes = columns[1]
    assert form == PLANES
    assert planes[4:] == [0, 0, 0, 0]
    steps = [sum(plane[i] << 8 * at if isinstance(plane, bytes) else plane << 8 * at for at, plane in enumerate(planes))
             for i in range(4)]  # fmt: skip
    assert steps == [0, 5, 0, (1 << 27) - 1]


def test_few_threads_are_a_dictionary() -> None:
    _, columns = encode([made.build_record(505, pid=1_000_000 + 7919 * (i % 5)) for i in range(MANY)])
    assert form_of(columns[4]) == DICTIONARY


@pytest.mark.parametrize("kinds", [1, 2, 255, 256, 257, 300])
def test_index_of_the_kind_takes_a_second_byte_above_256_kinds(kinds: int) -> None:
    block, columns = encode([made.build_record(1000 + i % kinds, bytes(4 + i % 3)) for i in range(2 * kinds)])
    assert len(block.kinds) == kinds
    assert [kind.entries for kind in block.kinds] == [2] * kinds
    assert len(columns[0][1]) == (1 if kinds <= 256 else 2)


def test_event_whose_records_differ_in_layout_is_two_kinds() -> None:
    """Typed where the record is what its format says, raw where it is not."""
    block, _ = encode([integers(a=1), integers(a=2)[:12], integers(a=3)])
    assert [(kind.mode, kind.entries) for kind in block.kinds] == [(MODE_TYPED, 2), (MODE_RAW, 1)]
    assert block.kinds[0].format_id == block.kinds[1].format_id


def test_empty_batch_cannot_be_encoded() -> None:
    with as_file(b"") as fd:
        rig = Rig(fd)
        with pytest.raises(ValueError, match="empty batch"):
            Encoder().encode(rig.batch)


def test_encoder_forgets_the_batch_before() -> None:
    """Kinds, threads and scratch of a large batch must not show in a small one."""
    large = made.build_page(
        b"".join(made.build_data(made.build_record(1000 + i, bytes(8), pid=i)) for i in range(300)), 5, size=SIZE
    )
    small = made.build_page(made.build_data(made.build_record(505, pid=7)), 9, size=SIZE)
    with as_file(large + small) as fd:
        rig = Rig(fd, subbuf_size=SIZE, room_pages=1)
        first, second = blocks_of(rig.visit(), rig.visit(Ask.CLOSE))
    assert (len(first.kinds), len(first.pids)) == (300, 299)
    assert (len(second.kinds), second.pids) == (1, {7})
    assert rig.rows([second]) == slow_rows(small, SIZE)[0]
