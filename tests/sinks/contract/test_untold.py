"""What was not written, and is kept until it can be told."""

from typing import Any

import pytest

from collector.batch import Note, NoteKind, StreamKey
from collector.errors import ArchiveFullError
from sinks.contract.untold import OF_ARCHIVE, OF_LOG, Bounds, Untold

KEY = StreamKey(bytes(16), "main", 0)
OTHER = StreamKey(bytes(16), "main", 1)

MOST_GAPS = OF_ARCHIVE.most_alike[NoteKind.GAP]
MOST_CLOCKS = OF_ARCHIVE.most_alike[NoteKind.CLOCK]
EITHER = pytest.mark.parametrize("bounds", [OF_ARCHIVE, OF_LOG], ids=["archive", "log"])


def gap(cause: str = "dropped", count: int | None = 1, at: int = 0, key: StreamKey = KEY) -> Note:
    return Note(NoteKind.GAP, key, {"cause": cause, "count": count, "from_ts": at, "to_ts": at + 5, "detail": "lost"})


def note(kind: NoteKind, key: StreamKey = KEY, **body: Any) -> Note:
    return Note(kind, key, body)


def detail(blocks: int) -> str:
    return f"{blocks} blocks"


@EITHER
def test_blocks_become_a_gap_of_their_stream(bounds: Bounds) -> None:
    untold = Untold(bounds)
    assert not untold
    untold.miss(KEY, 5, 30, 39)
    untold.miss(KEY, 7, 40, 49)
    untold.miss(OTHER, 1, 0, 9)
    assert untold
    first, second = untold.take_gaps(detail)
    assert (first.kind, first.stream, first.body) == (NoteKind.GAP, KEY, {
        "cause": "discarded", "count": 12, "from_ts": 30, "to_ts": 49, "detail": "2 blocks",
    })  # fmt: skip
    assert (second.stream, second.body["count"]) == (OTHER, 1)
    assert not untold
    assert untold.take_gaps(detail) == []


@EITHER
def test_a_gap_spans_blocks_in_any_order(bounds: Bounds) -> None:
    untold = Untold(bounds)
    for first_ts in (20, 40, 0):
        untold.miss(KEY, 1, first_ts, first_ts + 9)
    (told,) = untold.take_gaps(detail)
    assert (told.body["from_ts"], told.body["to_ts"]) == (0, 49)


@EITHER
def test_notes_keep_their_order(bounds: Bounds) -> None:
    untold = Untold(bounds)
    notes = [gap(), note(NoteKind.CLOCK, trace=1), gap(key=OTHER), note(NoteKind.COVERAGE), gap()]
    for one in notes:
        untold.keep(one)
    assert untold
    assert untold.take_notes() == notes
    assert not untold
    assert untold.take_notes() == []


@EITHER
def test_notes_and_gaps_are_taken_apart(bounds: Bounds) -> None:
    untold = Untold(bounds)
    untold.miss(KEY, 5, 0, 9)
    untold.keep(gap())
    assert [one.body["cause"] for one in untold.take_notes()] == ["dropped"]
    assert untold
    assert [one.body["cause"] for one in untold.take_gaps(detail)] == ["discarded"]


@EITHER
def test_what_cannot_be_written_is_kept_with_all_behind_it(bounds: Bounds) -> None:
    untold = Untold(bounds)
    notes = [gap(), note(NoteKind.CLOCK), gap(key=OTHER)]
    written: list[Note] = []

    def write(one: Note) -> None:
        if written:
            raise ArchiveFullError("no room")
        written.append(one)

    with pytest.raises(ArchiveFullError):
        untold.tell(notes, write)
    assert written == notes[:1]
    assert untold.take_notes() == notes[1:]
    untold.tell(notes, written.append)
    assert written[1:] == notes
    assert not untold


def test_before_an_archive_a_gap_about_blocks_that_did_not_get_written_stays_itself() -> None:
    untold = Untold(OF_ARCHIVE)
    untold.miss(KEY, 5, 0, 9)
    before = gap("discarded", 7)
    untold.keep(before)
    assert [one.body["count"] for one in untold.take_gaps(detail)] == [5]
    assert untold.take_notes() == [before]


def test_before_a_log_it_adds_to_its_streams() -> None:
    untold = Untold(OF_LOG)
    untold.miss(KEY, 5, 20, 29)
    untold.keep(gap("discarded", 7, at=10))
    untold.keep(gap("discarded", 1, at=0, key=OTHER))
    told = [(one.stream, one.body["count"], one.body["from_ts"]) for one in untold.take_gaps(detail)]
    assert told == [(KEY, 12, 10), (OTHER, 1, 0)]
    assert not untold


def test_of_samples_the_last_stays_and_those_that_need_not_be_kept_don_t() -> None:
    untold = Untold(OF_ARCHIVE)
    samples = [note(NoteKind.SAMPLE, at_ns=at) for at in range(3)]
    for sample in samples:
        untold.keep(sample)
    untold.keep(Note(NoteKind.SAMPLE, OTHER, {}, keep=False))
    assert untold.take_notes() == samples[-1:]


def test_many_gaps_become_one_that_says_the_same() -> None:
    untold = Untold(OF_ARCHIVE)
    for at in range(1000):
        untold.keep(gap(count=2, at=at))
    untold.keep(gap("cleared", None))
    *alike, other = untold.take_notes()
    assert len(alike) == MOST_GAPS
    assert sum(one.body["count"] for one in alike) == 2000
    assert alike[-1].body | {"count": 0} == {
        "cause": "dropped", "count": 0, "from_ts": MOST_GAPS - 1, "to_ts": 1004,
        "detail": "several, told at once: lost",
    }  # fmt: skip
    assert other.body["cause"] == "cleared"


def test_a_sum_with_an_unknown_count_is_unknown() -> None:
    untold = Untold(OF_ARCHIVE)
    for at in range(MOST_GAPS):
        untold.keep(gap(at=at))
    untold.keep(gap(count=None))
    assert untold.take_notes()[-1].body["count"] is None


def test_of_many_clock_pairs_the_later_ones_stay() -> None:
    untold = Untold(OF_ARCHIVE)
    for at in range(1000):
        untold.keep(note(NoteKind.CLOCK, trace=at))
    assert [one.body["trace"] for one in untold.take_notes()] == list(range(1000 - MOST_CLOCKS, 1000))


def test_of_more_notes_than_a_log_keeps_the_earlier_ones_stay() -> None:
    untold, most = Untold(OF_LOG), OF_LOG.most
    assert most is not None
    for at in range(most + 3):
        untold.keep(note(NoteKind.REPORT, at_ns=at))
    untold.keep(gap("discarded", 7))  # no note: a sum has no such bound
    assert [one.body["at_ns"] for one in untold.take_notes()] == list(range(most))
    assert [one.body["count"] for one in untold.take_gaps(detail)] == [7]
    untold.keep(gap())  # there is room again
    assert untold.take_notes()
