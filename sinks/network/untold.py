"""What a receiver has still to be told: gaps for blocks that it is not given, and notes that had no room. Pure."""

from dataclasses import dataclass

from collector.archive.tally import DISCARDED
from collector.batch import Note, NoteKind, StreamKey

# Of other notes than ours; more of them is a disk that is away for good.
MOST_NOTES = 4096


@dataclass(slots=True)
class _Gap:
    """What is missing of a stream."""

    events: int
    first_ts: int
    last_ts: int


class Untold:
    """One gap for each stream, however many blocks are missing of it, and notes in their order."""

    def __init__(self) -> None:
        self._gaps: dict[StreamKey, _Gap] = {}
        self._notes: list[Note] = []

    def __bool__(self) -> bool:
        return bool(self._gaps or self._notes)

    def miss(self, stream: StreamKey, events: int, first_ts: int, last_ts: int) -> None:
        """Add a block that the receiver is not given."""
        gap = self._gaps.setdefault(stream, _Gap(0, first_ts, last_ts))
        gap.events += events
        gap.first_ts, gap.last_ts = min(gap.first_ts, first_ts), max(gap.last_ts, last_ts)

    def keep(self, note: Note) -> None:
        """Add a note that was not written, or went with what it was written in; of samples the last will do."""
        if note.kind is NoteKind.GAP and note.body["cause"] == DISCARDED:
            self.miss(note.stream, note.body["count"], note.body["from_ts"], note.body["to_ts"])
        elif note.kind is not NoteKind.SAMPLE and len(self._notes) < MOST_NOTES:
            self._notes.append(note)

    def pop(self) -> Note:
        """Take the next note; one that cannot be written is to be kept again."""
        if self._notes:
            return self._notes.pop(0)
        stream = next(iter(self._gaps))
        gap = self._gaps.pop(stream)
        return Note(NoteKind.GAP, stream, {
            "cause": DISCARDED, "count": gap.events, "from_ts": gap.first_ts, "to_ts": gap.last_ts,
            "detail": "no room before this sink",
        })  # fmt: skip
