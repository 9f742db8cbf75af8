"""What whoever comes in the middle begins with."""

from collector.archive.frame import Kind
from collector.archive.objects import build_object
from sinks.contract.base import Parcel
from sinks.wire.preamble import Preamble

RUN = bytes(16)


def header(body: bytes = b"header") -> Parcel:
    return Parcel(Kind.HEADER, body, RUN)


def named(text: str) -> Parcel:
    _, body = build_object("comms", text)
    return Parcel(Kind.OBJECT, body, RUN)


def filled(*parcels: Parcel) -> Preamble:
    preamble = Preamble()
    for parcel in parcels:
        preamble.add(parcel)
    return preamble


def test_the_header_and_the_objects_behind_it() -> None:
    first, a, b = header(), named("a"), named("b")
    assert filled(first, a, Parcel(Kind.BLOCK, b"", RUN), b).parcels == (first, a, b)


def test_an_object_that_comes_again_stands_in_its_new_place() -> None:
    first, a, b = header(), named("a"), named("b")
    again = named("a")
    found = filled(first, a, b, again).parcels
    assert [*map(id, found)] == [id(first), id(b), id(again)]


def test_the_next_header_begins_anew() -> None:
    second = header(b"second")
    assert filled(header(), named("a"), second).parcels == (second,)


def test_nothing_before_a_header() -> None:
    assert filled(named("a")).parcels == ()


def test_what_is_forgotten_is_left_out_until_it_comes_again() -> None:
    first, a, b = header(), named("a"), named("b")
    preamble = filled(first, a, b)
    preamble.forget(named("a"))
    preamble.forget(named("c"))
    assert preamble.parcels == (first, b)
    preamble.add(a)
    assert preamble.parcels == (first, b, a)


def test_with_a_header_all_behind_it_is_forgotten() -> None:
    first, a = header(), named("a")
    preamble = filled(first, a)
    preamble.forget(first)
    assert preamble.parcels == ()
    preamble.add(first)
    assert preamble.parcels == (first,)
