"""Items that were put before a network sink and are not in its log yet; each holds memory of the budget. Pure."""

from collections import deque
from collections.abc import Callable

from collector.batch import Block
from sinks.base import Item
from sinks.log import QUEUE_FULL, Lost

Release = Callable[[], None]

# That one hop to the log's thread takes.
APPEND_BYTES = 8 << 20


class Intake:
    """A queue, first in, first out."""

    def __init__(self) -> None:
        self.events = 0
        self.size_bytes = 0  # of the blocks' bodies
        self._items: deque[tuple[Item, Release | None]] = deque()

    def __bool__(self) -> bool:
        return bool(self._items)

    def put(self, item: Item, release: Release | None) -> None:
        """Queue an item; `release` is called when it is off our hands."""
        self._items.append((item, release))
        if isinstance(item, Block):
            self.events += item.events
            self.size_bytes += len(item.body)

    def front(self, room_bytes: float, *, at_least_one: bool) -> list[Item]:
        """Give the items that are next to go into the log; they stay here until they are taken.

        Args:
          room_bytes: for their bodies, of which one hop to the log takes APPEND_BYTES.
          at_least_one: also where the first one is larger than the room.
        """
        found: list[Item] = []
        size_bytes = 0
        room_bytes = min(room_bytes, APPEND_BYTES)
        for item, _ in self._items:
            size_bytes += len(item.body) if isinstance(item, Block) else 0
            if size_bytes > room_bytes and (found or not at_least_one):
                break
            found.append(item)
        return found

    def take(self, count: int) -> None:
        """The first so many are off our hands."""
        for _ in range(count):
            self._forget(*self._items.popleft())

    def refuse(self, room_bytes: int, *, at_least_one: bool) -> Lost:
        """Give up the blocks for which there is no room, the first one excepted where nothing else is held."""
        kept: deque[tuple[Item, Release | None]] = deque()
        size_bytes = 0
        lost = Lost()
        for item, release in self._items:
            if isinstance(item, Block):
                if size_bytes + len(item.body) > room_bytes and (size_bytes or not at_least_one):
                    self._forget(item, release)
                    lost.add(QUEUE_FULL, item.events, len(item.body))
                    continue
                size_bytes += len(item.body)
            kept.append((item, release))
        self._items = kept
        return lost

    def clear(self, reason: str) -> Lost:
        """Give up everything."""
        lost = Lost()
        for item, release in self._items:
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
