"""Which names an open segment has, and which are to be looked up for its next block."""

import time
from collections.abc import Collection
from typing import Any

# A thread may take another name: how often a segment's threads are looked up again.
COMMS_AGE_S = 10.0

# An address without a name may be of a module that was too new: how often such are looked up again.
ADDRESSES_AGE_S = 10.0


class WrittenMaps:
    """The names of threads that one segment has, as written last, and the addresses that have a name there."""

    def __init__(self) -> None:
        self.comms: dict[int, Any] = {}
        self.proc_comms: dict[int, Any] = {}
        self.tgids: dict[int, Any] = {}
        self._pids: set[int] = set()
        self._recent: set[int] = set()  # that occurred since the threads were last looked up
        self._pids_s = time.monotonic()
        self._addresses: set[int] = set()
        self._nameless: set[int] = set()
        self._nameless_s = time.monotonic()

    def pids_to_ask(self, pids: frozenset[int], now_s: float) -> set[int]:
        """Gives those that are new, and from time to time all that have occurred since."""
        self._recent |= pids
        self._recent.discard(0)  # the idle task has no entry in any map
        if now_s - self._pids_s >= COMMS_AGE_S:
            return set(self._recent)
        return set(pids) - self._pids - {0}

    def note_pids(self, asked: set[int], now_s: float) -> None:
        self._pids |= asked
        if now_s - self._pids_s >= COMMS_AGE_S:
            self._pids_s = now_s
            self._recent.clear()

    def addresses_to_ask(self, addresses: frozenset[int], now_s: float) -> frozenset[int]:
        """Gives those without a name in the segment; those that had none a moment ago, only later."""
        new = addresses - self._addresses
        return new if now_s - self._nameless_s >= ADDRESSES_AGE_S else new - self._nameless

    def note_addresses(self, asked: frozenset[int], found: Collection[int], now_s: float) -> None:
        self._addresses.update(found)
        self._nameless |= asked
        self._nameless.difference_update(found)
        if now_s - self._nameless_s >= ADDRESSES_AGE_S:
            self._nameless_s = now_s
