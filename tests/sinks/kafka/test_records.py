"""What a parcel becomes as a message, and segments again from messages."""

from pathlib import Path

import pytest

from collector.archive.frame import Kind
from collector.archive.recover import recover_folder
from collector.archive.segment import build_name
from collector.errors import SegmentError
from sinks.kafka.rebuild import Rebuilder
from sinks.kafka.records import Message, RepeatedMaps, TopicMaps
from tests.sinks.made import counts_of, make_segment
from tests.sinks.parcels import parcels_of

LIMIT = 1_000_000


def messages_of(path: Path, maps: TopicMaps | RepeatedMaps) -> list[Message]:
    return [message for parcel in parcels_of(path) for message in maps.messages(parcel)]


def rebuild(messages: list[Message], folder: Path) -> Rebuilder:
    folder.mkdir()
    rebuilder = Rebuilder()
    early = {}  # {run: what came before its header}
    for message in messages:
        for piece in rebuilder.add(message.headers, message.value):
            if piece.header is None:
                early[piece.run] = early.get(piece.run, b"") + piece.data
                continue
            with open(folder / (build_name(piece.header) + ".part"), "ab") as file:
                file.write(piece.data + early.pop(piece.run, b""))
    recover_folder(folder)
    return rebuilder


def test_a_block_says_in_its_headers_what_it_is(tmp_path: Path) -> None:
    message = next(m for m in messages_of(make_segment(tmp_path), TopicMaps("host", "t", "m")) if not m.is_map)
    assert (message.topic, message.key) == ("t", b"host/main/0")
    assert dict(message.headers) == {
        "format": b"ftrace-segment/1", "kind": b"block", "run": bytes(range(16)).hex().encode(), "host": b"host",
        "instance": b"main", "cpu": b"0", "number": b"0", "events": b"20", "first_ts": b"0", "last_ts": b"19",
    }  # fmt: skip
    assert message.size_bytes > len(message.value)


def test_maps_are_keyed_so_that_compaction_keeps_what_each_run_needs(tmp_path: Path) -> None:
    one = messages_of(make_segment(tmp_path, run=b"1" * 16), TopicMaps("a", "t", "m"))
    two = messages_of(make_segment(tmp_path, run=b"2" * 16), TopicMaps("b", "t", "m"))
    kinds = {}  # {type: (keys of one, keys of two)}
    for at, messages in enumerate((one, two)):
        for message in messages:
            if message.is_map:
                assert message.topic == "m"
                of = dict(message.headers)
                kinds.setdefault(of.get("type", b"header").decode(), (set(), set()))[at].add(message.key)
    assert kinds["format"][0] == kinds["format"][1]
    assert not kinds["comms"][0] & kinds["comms"][1]
    assert not kinds["header"][0] & kinds["header"][1]


@pytest.mark.parametrize("repeat", [False, True])
def test_a_segment_is_rebuilt_from_its_messages(repeat: bool, tmp_path: Path) -> None:
    path = make_segment(tmp_path / "a")
    maps = RepeatedMaps("h", "t", LIMIT) if repeat else TopicMaps("h", "t", "m")
    messages = messages_of(path, maps)
    rebuild(messages, tmp_path / "b")
    assert counts_of(tmp_path / "b") == counts_of(tmp_path / "a") == {"made:every": 100, "made:plain": 100}


def test_a_message_that_comes_twice_counts_once(tmp_path: Path) -> None:
    messages = messages_of(make_segment(tmp_path / "a"), TopicMaps("h", "t", "m"))
    rebuilder = rebuild(messages + messages[3:], tmp_path / "b")
    assert rebuilder.duplicates == 10
    assert sum(counts_of(tmp_path / "b").values()) == 200


def test_one_stream_alone_decodes_where_maps_are_repeated(tmp_path: Path) -> None:
    """A consumer of one partition has no other messages than these."""
    messages = messages_of(make_segment(tmp_path / "a"), RepeatedMaps("h", "t", LIMIT))
    rebuild([m for m in messages if m.key == b"h/main/1"], tmp_path / "b")
    assert sum(counts_of(tmp_path / "b").values()) == 100


def test_maps_are_repeated_after_each_header_and_after_a_failure(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path))
    maps = RepeatedMaps("h", "t", LIMIT)
    for parcel in parcels:
        list(maps.messages(parcel))
    block = parcels[-1]
    assert [dict(m.headers)["kind"] for m in maps.messages(block)] == [b"block"]
    maps.forget()
    told = [dict(m.headers)["kind"] for m in maps.messages(block)]
    assert told[0] == b"header"
    assert told[-1] == b"block"
    assert told.count(b"object") == len([p for p in parcels if p.kind is Kind.OBJECT])
    list(maps.messages(parcels[0]))
    assert [dict(m.headers)["kind"] for m in maps.messages(block)] == [b"header", b"block"]


def test_a_map_above_the_limit_is_given_once_and_told_to_no_stream(tmp_path: Path) -> None:
    parcels = parcels_of(make_segment(tmp_path))
    large = max((p for p in parcels if p.stream is None), key=lambda p: len(p.body))
    maps = RepeatedMaps("h", "t", len(large.body))
    given = [m for parcel in parcels for m in maps.messages(parcel) if m.value == large.body]
    assert [m.repeats for m in given] == [None]
    assert given[0].size_bytes > len(large.body)


def test_what_is_not_ours_is_left_out_and_what_is_broken_is_told() -> None:
    rebuilder = Rebuilder()
    assert list(rebuilder.add([("format", b"other/1")], b"x")) == []
    assert list(rebuilder.add([], b"")) == []
    assert rebuilder.foreign == 2
    ours = [("format", b"ftrace-segment/1"), ("run", b"00" * 16)]
    with pytest.raises(SegmentError, match="without instance"):
        list(rebuilder.add([*ours, ("kind", b"block")], b"\x80"))
    with pytest.raises(SegmentError, match="object"):
        list(rebuilder.add([*ours, ("kind", b"object")], b"\xc1"))
    with pytest.raises(SegmentError, match="no id of a run"):
        list(rebuilder.add([*ours[:1], ("run", b"../../x"), ("kind", b"gap")], b"\x80"))
    assert rebuilder.headless == ["00" * 16]


def test_a_header_of_another_run_is_no_header(tmp_path: Path) -> None:
    message = next(m for m in messages_of(make_segment(tmp_path), TopicMaps("h", "t", "m")) if m.is_map)
    headers = [*(of for of in message.headers if of[0] != "run"), ("run", b"11" * 16)]
    with pytest.raises(SegmentError, match="of another run"):
        list(Rebuilder().add(headers, message.value))


def test_blocks_that_come_before_their_header_are_not_lost(tmp_path: Path) -> None:
    """As behind a retention that took the beginning of a topic in which maps are repeated."""
    messages = messages_of(make_segment(tmp_path / "a"), TopicMaps("h", "t", "m"))
    maps = [m for m in messages if m.is_map]
    rebuild([m for m in messages if not m.is_map] + maps, tmp_path / "b")
    assert counts_of(tmp_path / "b") == counts_of(tmp_path / "a")
