"""One budget of bytes for all that senders make the receiver hold: halves of records, records to be written, names.

Who wants to read waits until there is room. When there is none for a while, and nothing is being written that would
make some, whoever holds most is cut off: a record whose end never comes must not keep all others waiting.
"""

from collections.abc import Callable

import trio

PATIENCE_S = 2.0


class Memory:
    """The budget.

    Args:
      limit_bytes: of all shares together; what is being read at this moment is in it.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._shares: set[Share] = set()
        self._freed = trio.Event()

    def open_share(self, cut: Callable[[], None]) -> "Share":
        """Gives an empty share.

        Args:
          cut: called to make its owner give up what it holds.
        """
        share = Share(self, cut)
        self._shares.add(share)
        return share

    async def wait_room(self, size_bytes: int) -> None:
        """Wait until so much more can be held."""
        deadline_s = trio.current_time() + PATIENCE_S
        while self.used_bytes + size_bytes > self.limit_bytes:
            with trio.move_on_at(deadline_s) as waiting:
                await self._freed.wait()
            if waiting.cancelled_caught:
                self._cut_largest()
                deadline_s = trio.current_time() + PATIENCE_S

    def _cut_largest(self) -> None:
        if any(share.is_busy for share in self._shares):
            return
        largest = max(self._shares, key=lambda share: share.size_bytes, default=None)
        if largest is not None:
            largest.cut()

    def _change(self, by_bytes: int) -> None:
        self.used_bytes += by_bytes
        if by_bytes < 0:
            self._freed.set()
            self._freed = trio.Event()

    def _forget(self, share: "Share") -> None:
        self._shares.discard(share)


class Share:
    """What one sender holds; see Memory.open_share."""

    def __init__(self, memory: Memory, cut: Callable[[], None]) -> None:
        self.size_bytes = 0
        self.is_busy = False  # some of it will be given back without anybody's doing
        self.cut = cut
        self._memory = memory

    def resize(self, size_bytes: int) -> None:
        """It holds so much from now on, whether there is room or not."""
        by_bytes, self.size_bytes = size_bytes - self.size_bytes, size_bytes
        if by_bytes:
            self._memory._change(by_bytes)

    def close(self) -> None:
        """Give everything back, for good."""
        self.resize(0)
        self._memory._forget(self)
