"""What a suspended archive keeps until it can be written."""

from typing import Any

from collector.batch import Block, Note, NoteKind, StreamKey
from sinks.file.notes import MAX_ALIKE, Pending

KEY = StreamKey(bytes(16), "main", 0)
OTHER = StreamKey(bytes(16), "main", 1)


def gap(cause: str = "dropped", count: int | None = 1, at: int = 0, key: StreamKey = KEY) -> Note:
    return Note(NoteKind.GAP, key, {"cause": cause, "count": count, "from_ts": at, "to_ts": at + 5, "detail": "lost"})


def note(kind: NoteKind, key: StreamKey = KEY, **body: Any) -> Note:
    return Note(kind, key, body)


def block(number: int, events: int, key: StreamKey = KEY) -> Block:
    return Block(
        key, number, 0, events, number * 10, number * 10 + 9, 0, (), (), frozenset(), frozenset(), b""
    )  # fmt: skip


def test_blocks_become_a_gap_of_their_stream() -> None:
    pending = Pending()
    for number, events in ((3, 5), (4, 7)):
        pending.miss(block(number, events))
    pending.miss(block(0, 1, OTHER))
    first, second = pending.take("no room")
    assert (first.stream, first.body) == (KEY, {
        "cause": "discarded", "count": 12, "from_ts": 30, "to_ts": 49, "detail": "2 blocks: no room",
    })  # fmt: skip
    assert (second.stream, second.body["count"]) == (OTHER, 1)
    assert not pending
    assert pending.take("") == []


def test_notes_keep_their_order() -> None:
    pending = Pending()
    notes = [gap(), note(NoteKind.CLOCK, trace=1), gap(key=OTHER), note(NoteKind.COVERAGE), gap()]
    for one in notes:
        pending.add(one)
    assert pending.take("") == notes


def test_of_samples_the_last_stays_and_those_that_need_not_be_kept_don_t() -> None:
    pending = Pending()
    samples = [note(NoteKind.SAMPLE, at_ns=at) for at in range(3)]
    for sample in samples:
        pending.add(sample)
    pending.add(Note(NoteKind.SAMPLE, OTHER, {}, keep=False))
    assert pending.take("") == samples[-1:]


def test_many_gaps_become_one_that_says_the_same() -> None:
    pending = Pending()
    for at in range(1000):
        pending.add(gap(count=2, at=at))
    pending.add(gap("cleared", None))
    *alike, other = pending.take("")
    assert len(alike) == MAX_ALIKE
    assert sum(one.body["count"] for one in alike) == 2000
    assert alike[-1].body | {"count": 0} == {
        "cause": "dropped", "count": 0, "from_ts": MAX_ALIKE - 1, "to_ts": 1004,
        "detail": "several, told at once: lost",
    }  # fmt: skip
    assert other.body["cause"] == "cleared"


def test_a_sum_with_an_unknown_count_is_unknown() -> None:
    pending = Pending()
    for at in range(MAX_ALIKE):
        pending.add(gap(at=at))
    pending.add(gap(count=None))
    assert pending.take("")[-1].body["count"] is None


def test_of_many_clock_pairs_the_later_ones_stay() -> None:
    pending = Pending()
    for at in range(1000):
        pending.add(note(NoteKind.CLOCK, trace=at))
    assert [one.body["trace"] for one in pending.take("")] == list(range(1000 - MAX_ALIKE, 1000))
