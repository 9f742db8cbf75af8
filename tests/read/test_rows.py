"""The native rows against the slow builder, on made blocks: every form and class, hostile bytes, damaged columns."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind
from collector.archive.objects import build_object
from collector.batch import StreamKey
from collector.errors import SegmentError
from collector.read.lookup import Names
from collector.tracefs.meaning import KINDS
from sinks.contract.base import Parcel
from sinks.forward.records import RecordBuilder
from tests.archive.encoder import RUN, encode_array, encode_fixed, encode_integers, encode_variable, to_bytes
from tests.read.slow_rows import SlowRows
from tests.sinks.parcels import parcel_of

NOW_NS = 1_800_000_000_123_456_789
T0 = 5_000_000_000

C_TYPES = {  # {(class, is text): declaration}
    ("int", False): "\tfield:u64 {name};\toffset:8;\tsize:8;\tsigned:0;\n",
    ("chars", True): "\tfield:char {name}[8];\toffset:8;\tsize:8;\tsigned:0;\n",
    ("chars", False): "\tfield:u8 {name}[8];\toffset:8;\tsize:8;\tsigned:0;\n",
    ("data_loc", True): "\tfield:__data_loc char[] {name};\toffset:8;\tsize:4;\tsigned:0;\n",
    ("data_loc", False): "\tfield:__data_loc u8[] {name};\toffset:8;\tsize:4;\tsigned:0;\n",
    ("tail", False): "\tfield:unsigned long {name}[];\toffset:8;\tsize:0;\tsigned:0;\n",
}

T = TypeVar("T")

texts = st.one_of(
    st.binary(max_size=40), st.text(max_size=20).map(str.encode),
    st.sampled_from([b"", b"\0", b"a\0\xff", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82",
                     b"\xff" * 9, bytes(16), b"\0" * 10 + b"\xff\xff\x7f\0\0\1", b"\x20\1\r\xb8" + bytes(10) + b"\0\1",
                     b"\2\0\0\x50\x7f\0\0\1", b"\x0a\0\x1f\x90" + bytes(19) + b"\1", b"\2" + bytes(15),
                     b"\2" + bytes(7) + b"\x81" + bytes(7) + b"\x82" + bytes(15),
                     "ab\u20ac\U0001f600".encode(), b"x" * 300, b"12345678\xc3\xa4"]),
)  # fmt: skip


# Made once: hypothesis takes longer to make one of these than to draw from it.
_class = st.sampled_from(["int", "int", "chars", "data_loc", "tail"])
_name = st.integers(0, 10**6)
_kind = st.sampled_from([*KINDS, "", "of a later version"])
_chars_size = st.sampled_from([8, 4, 6, 16, 28])
_int_size, _tail_size = st.sampled_from([1, 2, 4, 8, 3]), st.sampled_from([2, 4, 8, 16])
_flag, _count = st.booleans(), st.integers(0, 3)
_fixed_form, _array_form, _variable_form = st.integers(0, 3), st.sampled_from([0, 1, 3, 6]), st.sampled_from([0, 4, 5])
_kinds, _rows = st.integers(1, 3), st.integers(0, 6)
_step, _byte, _pid = st.integers(-5, 10**10), st.integers(0, 255), st.sampled_from([0, 1, 2, 77, -1, 2**31 - 1])


@cache
def exactly(n: int, of: st.SearchStrategy[T]) -> st.SearchStrategy[list[T]]:
    return st.lists(of, min_size=n, max_size=n)


@cache
def integers(size: int, signed: bool) -> st.SearchStrategy[int]:
    """Of so many bytes."""
    low = -(1 << 8 * size - 1) if signed else 0
    return st.one_of(st.integers(low, low + (1 << 8 * size) - 1), st.sampled_from([low, 0, 127, low + 100]))


@cache
def some_columns(n: int) -> st.SearchStrategy[list[tuple[list[Any], str, Any]]]:
    """Of n values each."""
    return st.lists(columns(n), max_size=4, unique_by=lambda column: column[0][0])


@st.composite
def columns(draw: st.DrawFn, n: int) -> tuple[list[Any], str, Any]:
    """(row of the format, C declaration, encoded column of n values)."""
    cls = draw(_class)
    name = f"f{draw(_name)}"
    if cls == "int":
        size, signed, count = draw(_int_size), draw(_flag), draw(_count)
        value = integers(size, signed)
        form = draw(_fixed_form)
        if count == 1:
            values = draw(exactly(n, value))
            encoded = encode_integers(values[:1] * n if form == 0 else values, size, form if n or form != 2 else 1)
        else:
            rows = draw(exactly(n, exactly(count, value)))
            form = draw(_array_form) if count else 6
            encoded = encode_array(rows[:1] * n if form == 0 and rows else rows, size, count, form if n else 6)
        return [name, cls, size, signed, count], C_TYPES[cls, False].format(name=name), encoded
    is_text = draw(_flag)
    if cls == "chars":
        size = draw(_chars_size)
        strings = [raw[:size].ljust(size, b"\0") for raw in draw(exactly(n, texts))]
        form = draw(_fixed_form) if n else 1
        encoded = encode_fixed(strings[:1] * n if form == 0 else strings, size, form)
        return [name, cls, size, draw(_flag), 1], C_TYPES[cls, is_text].format(name=name), encoded
    strings = draw(exactly(n, texts))
    form = draw(_variable_form)
    encoded = encode_variable(strings[:1] * n if form == 0 else strings, form)
    if cls == "tail":
        return (
            [name, cls, draw(_tail_size), True, 1],
            C_TYPES[cls, False].format(name=name),
            encoded,
        )
    return [name, cls, 1, draw(_flag), 1], C_TYPES[cls, is_text].format(name=name), encoded


@st.composite
def blocks(draw: st.DrawFn) -> tuple[list[Parcel], dict[str, Any]]:
    """(the objects before it, the block's body as a map)."""
    objects, kinds, payload, order = [], [], [], []
    for at in range(draw(_kinds)):
        n = draw(_rows)
        found = draw(some_columns(n))
        text = f"name: e{at}\nID: {at}\nformat:\n" + "".join(declared for _, declared, _ in found)
        of = {"id": at, "system": "made", "name": f"e{at}", "columns": [row for row, _, _ in found], "text": text}
        if draw(_flag):
            of["kinds"] = draw(exactly(len(found), _kind))
        format_id, body = build_object("format", of)
        is_raw = draw(_flag)
        objects.append(parcel_of(Kind.OBJECT, body, RUN))
        kinds.append([format_id, int(is_raw), n])
        raw = encode_variable([b"rec%d" % i for i in range(n)], 5)
        payload.append([raw] if is_raw else [column for _, _, column in found])
        order += [at] * n
    order = draw(st.permutations(order))
    n = len(order)
    steps = draw(exactly(n, _step))
    times = [T0 + sum(steps[1 : i + 1]) for i in range(n)]
    small = exactly(n, _byte)
    pids = draw(exactly(n, _pid))
    cols = [
        encode_integers(order, 1, 1),
        encode_integers([b - a for a, b in zip(times[:1] + times, times, strict=False)], 8, 1),
        encode_integers(draw(small), 1, 1), encode_integers(draw(small), 1, 1), encode_integers(pids, 4, 1), payload,
    ]  # fmt: skip
    gaps = draw(st.lists(st.tuples(st.integers(0, n), st.none() | st.integers(0, 9), st.just("page")), max_size=2))
    return objects, {
        "run": RUN, "inst": "main", "cpu": 3, "no": 0, "ord": 2**33, "n": n, "t0": times[0] % 2**64 if n else 0,
        "t1": times[-1] % 2**64 if n else 0, "raw": 1, "kinds": kinds,
        "gaps": [list(gap) for gap in sorted(gaps, key=lambda gap: gap[0])],
        "codec": "none", "cols": pack(cols),
    }  # fmt: skip


def with_cols(body: dict[str, Any], cols: bytes) -> Parcel:
    packed = pack({**body, "cols": cols, "size": len(cols)})
    return Parcel(Kind.BLOCK, packed, RUN, StreamKey(RUN, "main", 3), 0, body["n"], body["t0"], body["t1"])


def head(clock: str = "mono", unit: str = "ns") -> Parcel:
    instance = {"clock": clock, "clock_unit": unit, "header_page": "", "subbuf_size": 4096}
    return parcel_of(Kind.HEADER, pack({
        "format": "ftrace-segment", "version": 1, "run": RUN, "segment": 0, "host": "h\udcff\u00e4", "boot_id": "b",
        "kernel": "k", "created_ns": 0, "tool": "t", "config_hash": "c", "instances": {"main": instance},
        "streams": [], "opening": [],
    }), RUN)  # fmt: skip


def objects(*values: tuple[str, object]) -> list[Parcel]:
    return [parcel_of(Kind.OBJECT, build_object(kind, value)[1], RUN) for kind, value in values]


def clock_pair(trace: int, realtime_ns: int) -> tuple[str, object]:
    return "clock", {
        "instance": "main", "trace": trace, "realtime_ns": realtime_ns, "boottime_ns": 0, "monotonic_ns": 0,
        "error_ns": 100,
    }  # fmt: skip


COMMS = objects(("comms", {1: b"one", 77: b"\xffbytes"}), ("tgids", {77: 7}), ("comms", {1: b"one-and-more"}))


def fast_rows(parcels: Sequence[Parcel], limit_bytes: int = 200) -> list[bytes]:
    """Each row, packed anew by the library, so that only what it says is compared."""
    builder = RecordBuilder(limit_bytes)
    rows = []
    for parcel in parcels:
        for piece in builder.take(parcel, NOW_NS):
            unpacker = msgpack.Unpacker(max_buffer_size=1 << 26)
            unpacker.feed(piece.data)
            found = [msgpack.packb(row) for row in unpacker]
            assert len(found) == piece.count
            rows += found
    return rows


def slow_rows(parcels: Sequence[Parcel]) -> list[bytes]:
    builder = SlowRows()
    return [msgpack.packb(row) for parcel in parcels for row in builder.take(parcel, NOW_NS)]


pairs = st.lists(
    st.tuples(st.integers(0, 2 * T0), st.integers(0, 2**62)).map(lambda p: clock_pair(*p))
    | st.integers(0, 2 * T0).map(lambda at: clock_pair(at, 1_700_000_000_000_000_000 + at + at // 5000)),
    max_size=4,
)


@given(blocks(), pairs, st.sampled_from([("mono", "ns"), ("x86-tsc", "cycles"), ("local", "ns")]))
@settings(max_examples=250, derandomize=True, deadline=None)
def test_made_blocks_give_the_rows_of_the_slow_builder(
    block: tuple[list[Parcel], dict[str, Any]], readings: list[tuple[str, object]], clock: tuple[str, str]
) -> None:
    formats, body = block
    parcels = [head(*clock), *objects(*readings), *COMMS, *formats, with_cols(body, body["cols"])]
    assert fast_rows(parcels) == slow_rows(parcels)


@given(blocks(), st.data())
@settings(max_examples=250, derandomize=True, deadline=None)
def test_damaged_columns_are_refused_or_read_as_the_slow_builder_does(
    block: tuple[list[Parcel], dict[str, Any]], data: st.DataObject
) -> None:
    formats, body = block
    cols = bytearray(body["cols"])
    for _ in range(data.draw(_kinds)):
        at = data.draw(st.integers(0, len(cols) - 1))
        cols[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    parcels = [head(), *formats, with_cols(body, bytes(cols))]
    try:
        found = fast_rows(parcels)
    except SegmentError:
        return
    assert found == slow_rows(parcels)


def plain_block(kind: list[Any], columns_of: list[Any], n: int) -> Parcel:
    zero = [1, [0]]
    cols = pack([zero, [1, [0] * 8], zero, zero, [1, [0] * 4], [columns_of]])
    return with_cols({"run": RUN, "inst": "main", "cpu": 3, "no": 0, "ord": 0, "n": n, "t0": 9, "t1": 9, "raw": 1,
                      "gaps": [], "kinds": [[*kind, n]], "codec": "none"}, cols)  # fmt: skip


def made_format(*rows: list[Any], text: str = "") -> tuple[bytes, Parcel]:
    of = {"id": 1, "system": "made", "name": "e", "columns": list(rows), "text": text}
    format_id, body = build_object("format", of)
    return format_id, parcel_of(Kind.OBJECT, body, RUN)


def test_what_a_block_makes_of_itself_is_bounded() -> None:
    format_id, body = made_format(["a", "data_loc", 1, False, 1])
    huge = plain_block([format_id, 0], [[0, bytes((16 << 20) + 1)]], 2)
    with pytest.raises(SegmentError):
        fast_rows([body, huge])
    many = plain_block([format_id, 0], [[0, b"x" * 100_000]], 1 << 20)
    pieces = RecordBuilder(1 << 20).take(many, NOW_NS)
    builder = RecordBuilder(1 << 20)
    assert list(builder.take(body, NOW_NS)) == []
    pieces = builder.take(many, NOW_NS)
    assert len(next(pieces).data) < (1 << 20) + 101_000
    with pytest.raises(SegmentError):
        fast_rows([body, plain_block([format_id, 0], [[0, b""]], 1 << 23)])
    wide_id, wide = made_format(["a", "chars", 65536, False, 1])
    with pytest.raises(SegmentError):
        fast_rows([wide, plain_block([wide_id, 0], [[3, [1] * 65536]], 1 << 20)])


def test_columns_that_end_before_a_kind_without_any_are_refused() -> None:
    format_id, body = made_format()
    whole = plain_block([format_id, 0], [], 1)
    assert len(fast_rows([body, whole])) == 1
    columns = unpack(whole.body, "block")["cols"]
    for cut in (columns[:-1], columns[:-1] + b"\xc0"):
        with pytest.raises(SegmentError):
            fast_rows([body, with_cols(unpack(whole.body, "block"), cut)])


def test_addresses_are_named_where_their_names_are_known() -> None:
    text = (
        "name: kernel_stack\nID: 4\nformat:\n\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n"
        '\tfield:unsigned long caller[];\toffset:8;\tsize:0;\tsigned:0;\n\nprint fmt: ""\n'
    )
    of = {
        "id": 4,
        "system": "ftrace",
        "name": "kernel_stack",
        "columns": [["caller", "tail", 8, False, 1]],
        "text": text,
    }
    format_id, body = build_object("format", of)
    stacks = [b"".join(to_bytes(a, 8) for a in of) for of in ([0xFFFF_FFFF_8100_0000, 5], [7], [])] + [b"odd"]
    names = objects(("symbols", {0xFFFF_FFFF_8100_0000: ["vfs_read", 0, ""], 9: ["x", 1, "mod"]}))
    parcels = [head(), parcel_of(Kind.OBJECT, body, RUN), *names,
               plain_block([format_id, 0], [encode_variable(stacks, 5)], 4)]  # fmt: skip
    found = [msgpack.unpackb(row)[1].get("symbols") for row in fast_rows(parcels)]
    assert found == [{"caller": ["vfs_read+0x0", None]}, None, None, None]
    assert fast_rows(parcels) == slow_rows(parcels)


def test_a_block_whose_format_was_not_sent_is_refused() -> None:
    with pytest.raises(SegmentError, match="was not sent"):
        fast_rows([head(), plain_block([bytes(8), 0], [], 1)])


def test_a_report_is_a_row() -> None:
    (report,) = objects(("report", {
        "instance": "main", "kind": "latency", "tracer": "wakeup", "value": 81, "unit": "us",
        "realtime_ns": 1_700_000_000_000_000_001, "text": "# tracer: wakeup\n",
    }))  # fmt: skip
    assert fast_rows([head(), report]) == slow_rows([head(), report])
    (row,) = fast_rows([head(), report])
    assert msgpack.unpackb(row)[1]["report"]["value"] == 81


def test_names_are_replaced_and_found_again() -> None:
    names = Names()
    for number in range(1000):
        names.set(number * 4096, pack(f"first {number}"))
    for number in range(0, 1000, 2):
        names.set(number * 4096, pack(f"second {number}"))
    names.set(-1, pack("minus one"))
    assert len(names) == 1001
    for number in range(1000):
        assert names.get(number * 4096) == pack(f"{'first' if number % 2 else 'second'} {number}")
    assert names.get(2**64 - 1) == pack("minus one")
    assert names.get(1) is None
