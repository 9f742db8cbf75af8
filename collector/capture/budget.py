"""One budget in bytes for everything between the kernel and the sink."""

import threading
from collections import deque

import trio

from collector.errors import ConfigError


class Lease:
    """Bytes taken from a budget; they only ever shrink, and go back by release()."""

    __slots__ = ("_budget", "size_bytes")

    def __init__(self, budget: "ByteBudget", size_bytes: int) -> None:
        self._budget = budget
        self.size_bytes = size_bytes

    def shrink(self, size_bytes: int) -> None:
        """Keep so many bytes, give the rest back."""
        if size_bytes < self.size_bytes:
            spare, self.size_bytes = self.size_bytes - size_bytes, size_bytes
            self._budget._give_back(spare)

    def release(self) -> None:
        """Give everything back; a second call does nothing."""
        self.shrink(0)


class ByteBudget:
    """A bounded number of bytes, taken before memory is allocated.

    Waiters are served in the order they came, so that a large request is not
    passed over for ever by small ones. `try_take` and `release` may be called
    from any thread, `take` from the event loop only.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._used = 0
        self._lock = threading.Lock()
        self._waiters: deque[tuple[int, trio.Event]] = deque()
        self._token: trio.lowlevel.TrioToken | None = None
        self.peak_bytes = 0

    @property
    def used_bytes(self) -> int:
        return self._used

    def try_take(self, size_bytes: int) -> Lease | None:
        """A lease at once, or None when it does not fit or others are waiting."""
        with self._lock:
            if self._waiters or self._used + size_bytes > self.limit_bytes:
                return None
            return self._taken(size_bytes)

    async def take(self, size_bytes: int) -> Lease:
        """A lease, after waiting for its turn.

        Raises:
          ConfigError: more than the whole budget is asked for.
        """
        if size_bytes > self.limit_bytes:
            raise ConfigError(
                "the memory budget is too small",
                where="capture.memory_budget_bytes",
                expected=f"more than {size_bytes} bytes",
                got=str(self.limit_bytes),
                hint="raise it, or lower capture.block_bytes or trace.subbuf_size_kb",
            )
        await trio.lowlevel.checkpoint_if_cancelled()
        self._token = trio.lowlevel.current_trio_token()
        with self._lock:
            if not self._waiters and self._used + size_bytes <= self.limit_bytes:
                return self._taken(size_bytes)
            turn = trio.Event()
            waiter = (size_bytes, turn)
            self._waiters.append(waiter)
        try:
            await turn.wait()
        except trio.Cancelled:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                else:  # the turn came at the same moment
                    self._used -= size_bytes
            self._wake()
            raise
        return Lease(self, size_bytes)

    def _taken(self, size_bytes: int) -> Lease:
        self._used += size_bytes
        self.peak_bytes = max(self.peak_bytes, self._used)
        return Lease(self, size_bytes)

    def _give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._used -= size_bytes
            waiting = bool(self._waiters)
        if waiting and self._token is not None:
            self._token.run_sync_soon(self._wake, idempotent=True)

    def _wake(self) -> None:
        """Serve waiters from the front, in the event loop."""
        with self._lock:
            while self._waiters and self._used + self._waiters[0][0] <= self.limit_bytes:
                size_bytes, turn = self._waiters.popleft()
                self._taken(size_bytes)
                turn.set()
