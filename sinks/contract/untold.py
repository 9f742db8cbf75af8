"""What was not written, until it can be told: a gap for the blocks of a stream, and notes. Bounded. Pure.

The archive has one while it is suspended; before a network sink, whoever gives up blocks has one.
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collector.archive.tally import DISCARDED
from collector.batch import Note, NoteKind, StreamKey
from collector.errors import ArchiveError


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    # {kind: notes of one stream and cause}; above, gaps are told as a sum, and of others the later ones stay. A kind
    # that is not here has no bound of its own.
    most_alike: Mapping[NoteKind, int]
    most: int | None  # notes in all; above, the newer ones go
    sums_discarded: bool  # a gap about discarded blocks adds to its stream's, instead of being a note


# Clock pairs come a minute apart, and coverage likewise. Of samples and reports a later one says all that the earlier
# ones did: a later maximum is larger.
OF_ARCHIVE = Bounds(
    {NoteKind.GAP: 64, NoteKind.CLOCK: 64, NoteKind.COVERAGE: 64, NoteKind.SAMPLE: 1, NoteKind.REPORT: 1},
    None, sums_discarded=False,
)  # fmt: skip
# More notes are a disk that is away for good. Gaps about blocks go in and out of a log at its limit again and again.
OF_LOG = Bounds({}, 4096, sums_discarded=True)

SEVERAL = "several, told at once: "

_Key = tuple[NoteKind, StreamKey, str]  # notes that are alike


@dataclass(slots=True)
class _Gap:
    """What is missing of a stream."""

    events: int
    blocks: int
    first_ts: int
    last_ts: int


class Untold:
    """One gap for each stream, however many blocks are missing of it, and notes in their order."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._gaps: dict[StreamKey, _Gap] = {}
        self._notes: dict[_Key, deque[tuple[int, Note]]] = {}  # with their places among all
        self._count = 0  # of notes
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._gaps or self._count)

    def miss(self, stream: StreamKey, events: int, first_ts: int, last_ts: int) -> None:
        """Add a block that was not taken, or was given up."""
        gap = self._gaps.setdefault(stream, _Gap(0, 0, first_ts, last_ts))
        gap.events += events
        gap.blocks += 1
        gap.first_ts, gap.last_ts = min(gap.first_ts, first_ts), max(gap.last_ts, last_ts)

    def keep(self, note: Note) -> None:
        """Add a note that was not written, or went with what it was written in; of samples, those to be kept."""
        if not note.keep:
            return
        cause = str(note.body.get("cause") or note.body.get("kind", ""))
        is_gap = note.kind is NoteKind.GAP
        if is_gap and cause == DISCARDED and self._bounds.sums_discarded:
            self.miss(note.stream, note.body["count"], note.body["from_ts"], note.body["to_ts"])
            return
        alike = self._notes.setdefault((note.kind, note.stream, cause), deque())
        place = self._next
        self._next += 1
        if len(alike) < self._bounds.most_alike.get(note.kind, math.inf):
            if self._count == self._bounds.most:
                return
            self._count += 1
        elif is_gap:
            place, last = alike.pop()
            note = _sum(last, note)
        else:
            alike.popleft()
        alike.append((place, note))

    def take_gaps(self, detail: Callable[[int], str]) -> list[Note]:
        """Give the gaps and forget them. What is not written then is to be kept again.

        Args:
          detail: gives a gap's words, from how many blocks it stands for.
        """
        gaps, self._gaps = self._gaps, {}
        return [
            Note(NoteKind.GAP, stream, {
                "cause": DISCARDED, "count": gap.events, "from_ts": gap.first_ts, "to_ts": gap.last_ts,
                "detail": detail(gap.blocks),
            })
            for stream, gap in gaps.items()
        ]  # fmt: skip

    def take_notes(self) -> list[Note]:
        """Give the notes in their order, likewise."""
        placed = sorted((one for alike in self._notes.values() for one in alike), key=lambda one: one[0])
        self._notes, self._count = {}, 0
        return [note for _, note in placed]

    def tell(self, notes: Sequence[Note], write: Callable[[Note], None]) -> None:
        """Write notes; one that cannot be written is kept, with all behind it.

        Raises:
          ArchiveError: as `write` does.
        """
        for at, note in enumerate(notes):
            try:
                write(note)
            except ArchiveError:
                for left in notes[at:]:
                    self.keep(left)
                raise


def _sum(first: Note, second: Note) -> Note:
    """One gap that says what two do."""

    def both(key: str, choose: Any) -> Any:
        values = [note.body.get(key) for note in (first, second)]
        known = [value for value in values if value is not None]
        return choose(known) if known else None

    counts = [first.body["count"], second.body["count"]]
    body = {
        "cause": first.body["cause"], "count": None if None in counts else sum(counts),
        "from_ts": both("from_ts", min), "to_ts": both("to_ts", max),
        "detail": SEVERAL + str(first.body["detail"]).removeprefix(SEVERAL),
    }  # fmt: skip
    return Note(NoteKind.GAP, first.stream, body)
