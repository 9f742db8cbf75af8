"""The notes that a suspended archive keeps until it goes on. Bounded. Pure."""

from collections import deque
from dataclasses import dataclass
from typing import Any

from collector.batch import Block, Note, NoteKind, StreamKey

# Gaps of one stream and cause are told one by one up to so many, above as a sum. Clock pairs: so many of each
# instance, a minute apart, the later ones; coverage likewise of each stream.
MAX_ALIKE = 64


@dataclass(slots=True)
class _Missing:
    """Blocks of a stream that were not taken."""

    entries: int = 0
    blocks: int = 0
    first_ts: int = 0
    last_ts: int = 0


SEVERAL = "several, told at once: "

_Key = tuple[NoteKind, StreamKey, str]  # notes that are alike


class Pending:
    """Holds notes until they can be written."""

    def __init__(self) -> None:
        self._missing: dict[StreamKey, _Missing] = {}
        self._notes: dict[_Key, deque[tuple[int, Note]]] = {}  # with their places among all
        self._next = 0

    def __bool__(self) -> bool:
        return bool(self._missing or self._notes)

    def miss(self, block: Block) -> None:
        """A block that was not taken: it becomes part of a gap."""
        missing = self._missing.setdefault(block.stream, _Missing(first_ts=block.first_ts))
        missing.entries += block.events
        missing.blocks += 1
        missing.last_ts = block.last_ts

    def add(self, note: Note) -> None:
        """A note that was not written. Of samples that the archive need not keep, nothing stays."""
        if not note.keep:
            return
        key = (note.kind, note.stream, str(note.body.get("cause") or note.body.get("kind", "")))
        alike = self._notes.setdefault(key, deque())
        place = self._next
        self._next += 1
        if note.kind in (NoteKind.SAMPLE, NoteKind.REPORT):
            alike.clear()  # a later one says all that the earlier ones did; a later maximum is larger
        elif len(alike) >= MAX_ALIKE and note.kind is NoteKind.GAP:
            place, last = alike.pop()
            note = _sum(last, note)
        elif len(alike) >= MAX_ALIKE:
            alike.popleft()
        alike.append((place, note))

    def take(self, why: str) -> list[Note]:
        """Gives all there is to tell, in its order, and forgets it. What is not written then is added again.

        Args:
          why: the blocks were not taken.
        """
        gaps = [
            Note(NoteKind.GAP, stream, {
                "cause": "discarded", "count": missing.entries, "from_ts": missing.first_ts, "to_ts": missing.last_ts,
                "detail": f"{missing.blocks} blocks: {why}",
            })
            for stream, missing in self._missing.items()
        ]  # fmt: skip
        notes = sorted((placed for alike in self._notes.values() for placed in alike), key=lambda placed: placed[0])
        self._missing, self._notes = {}, {}
        return [*gaps, *(note for _, note in notes)]


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
