"""Items that were put before a network sink and are not in its log yet; each holds memory of the budget. Pure."""

from dataclasses import replace
from itertools import islice

from collector.batch import Block, Note, NoteKind, StreamKey
from sinks.contract.base import Item, Release
from sinks.contract.untold import Untold
from sinks.network.backlog import Lost

# That one hop to the log's thread takes.
APPEND_BYTES = 8 << 20


class Intake:
    """A queue, first in, first out; of each stream's samples it keeps the last, in its place."""

    def __init__(self) -> None:
        self.events = 0
        self.size_bytes = 0  # of the blocks' bodies
        self._items: dict[int, tuple[Item, Release | None]] = {}  # {number, growing: (item, release)}
        self._number = 0  # of the last item
        self._lent = 0  # items up to this number may be on their way into the log
        self._samples: dict[StreamKey, int] = {}  # {stream: number of its sample}

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Item, release: Release | None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._number += 1
        if isinstance(item, Block):
            self.events += item.events
            self.size_bytes += len(item.body)
        elif item.kind is NoteKind.SAMPLE:
            item = self._replace_sample(item)
        self._items[self._number] = (item, release)

    def _replace_sample(self, sample: Note) -> Note:
        """Take an earlier sample of the stream out: while nothing goes on, one comes every few seconds."""
        number = self._samples.get(sample.stream, 0)
        self._samples[sample.stream] = self._number
        if number <= self._lent or number not in self._items:
            return sample
        before, release = self._items.pop(number)
        self._forget(before, release)
        return replace(sample, keep=sample.keep or (isinstance(before, Note) and before.keep))

    def front(self, room_bytes: float, *, at_least_one: bool) -> list[Item]:
        """Give the items that are next to go into the log; they stay here until they are taken.

        Args:
          room_bytes: for their bodies, of which one hop to the log takes APPEND_BYTES.
          at_least_one: also where the first one is larger than the room.
        """
        found: list[Item] = []
        size_bytes = 0
        room_bytes = min(room_bytes, APPEND_BYTES)
        for number, (item, _) in self._items.items():
            size_bytes += len(item.body) if isinstance(item, Block) else 0
            if size_bytes > room_bytes and (found or not at_least_one):
                break
            found.append(item)
            self._lent = number
        return found

    def take(self, count: int) -> None:
        """The first so many are off our hands; the log has no others."""
        for number in list(islice(self._items, count)):
            self._forget(*self._items.pop(number))
        self._lent = 0

    def refuse(self, room_bytes: int, reason: str, untold: Untold, *, at_least_one: bool) -> Lost:
        """Give up the newest blocks, those for which there is no room.

        Args:
          untold: gets the blocks.
          at_least_one: the first one may be larger than the room.
        """
        size_bytes = 0
        lost = Lost()
        for number, (item, release) in list(self._items.items()):
            if isinstance(item, Block):
                is_alone = at_least_one and not size_bytes
                if number > self._lent and size_bytes + len(item.body) > room_bytes and not is_alone:
                    del self._items[number]
                    self._forget(item, release)
                    lost.add(reason, item.events, len(item.body))
                    untold.miss(item.stream, item.events, item.first_ts, item.last_ts)
                    continue
                size_bytes += len(item.body)
        return lost

    def clear(self, reason: str) -> Lost:
        """Give up everything."""
        lost = Lost()
        for item, release in self._items.values():
            if isinstance(item, Block):
                lost.add(reason, item.events, len(item.body))
            self._forget(item, release)
        self._items.clear()
        return lost

    def _forget(self, item: Item, release: Release | None) -> None:
        if isinstance(item, Block):
            self.events -= item.events
            self.size_bytes -= len(item.body)
        if release is not None:
            release()
