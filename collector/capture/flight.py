"""A flight recorder: an instance that is read only where a snapshot stopped it.

While it runs the kernel overwrites what nobody asked for. A snapshot swaps the instance's two rings; the one that is
not live any more is read at the next tick, to its end. Each ring counts what it lost and what was read of it, and the
kernel shows the counters of the live one alone: so the ledger is open while the recorder runs. At the end, when nothing
is written any more, both rings are looked at, and it is settled to the entry.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from collector.capture.source import LiveInstance, LiveSource
from collector.capture.stream import Stream
from collector.control.shutter import disarm_triggers, free_snapshot, read_both, take_snapshot
from collector.ledger import KernelCounts
from collector.tracefs.stats import CpuStats, sum_stats

_TRIES = 3  # of reading both rings to their ends; each one more means that somebody else swapped them


class SnapshotStream(Stream):
    """The reader of one CPU's ring that is not live: poll tells nothing of it, and nobody writes it."""

    is_live = False


class SnapshotSource(LiveSource):
    """The snapshots of an instance of the running kernel.

    Args:
      as for LiveSource.
      interval_s: between the snapshots that the collector takes by itself; None: only the last one.
      is_new: nobody has used the instance before.
    """

    stream_type = SnapshotStream

    def __init__(
        self, instance: LiveInstance, run: bytes, *, interval_s: float | None = None, is_new: bool = False
    ) -> None:
        self.interval_s = interval_s
        self._is_new = is_new
        self._drained = False
        self._has_base = True  # else the ledger stays open
        self._sums: dict[int, CpuStats] = {}  # {cpu: both rings' counters}, when nothing is written any more
        super().__init__(instance, run)
        if not self._has_base:
            self.left_off = {}

    def header(self) -> dict[str, Any]:
        """What a segment's header says of the instance."""
        return {**super().header(), "read": "snapshot"}

    def take(self) -> None:
        """Take a snapshot; the next tick reads it.

        Raises:
          TracefsError: the kernel refuses.
        """
        take_snapshot(self.tree)

    def free(self) -> None:
        """Give the second ring back, for a run that reads the live one; all streams are closed.

        Raises:
          TracefsError: the kernel refuses.
        """
        free_snapshot(self.tree)

    @property
    def is_drained(self) -> bool:
        """Both rings are known to be empty."""
        return self._drained

    def drain_steps(self) -> Iterator[Callable[[], None]]:
        """The snapshot at hand has been read: the last one, then the sums of both rings, which are empty by then."""
        yield self._take_last
        for _ in range(_TRIES):
            yield self._settle
            if self._drained:
                return
            yield self.take

    def give_up(self) -> None:
        """No time is left: find out what stays in the kernel.

        Raises:
          TracefsError: it can't be told.
        """
        self._sums = self._read_sums() or {}

    def _take_last(self) -> None:
        disarm_triggers(self.tree)
        self.take()

    def _settle(self) -> None:
        sums = self._read_sums()
        self._drained = sums is not None and not any(stats.entries for stats in sums.values())
        self._sums = sums if sums is not None and self._drained else {}

    def _counts_now(self) -> Mapping[int, KernelCounts]:
        if not self._has_counts:
            return {}
        if self._is_new:  # what it has lost already is this run's to tell
            return dict.fromkeys(self.cpus, KernelCounts())
        sums = self._read_sums()
        self._has_base = sums is not None
        return {cpu: KernelCounts.of(stats) for cpu, stats in (sums or {}).items()}

    def _read_sums(self) -> dict[int, CpuStats] | None:
        both = read_both(self.tree, self.cpus)
        return None if both is None else {cpu: sum_stats(pair) for cpu, pair in both.items()}

    def _stats_reader(self, cpu: int) -> Callable[[], CpuStats | None]:
        return lambda: self._sums.get(cpu) if self._has_base else None

    def _open_ring(self, cpu: int) -> int:
        return self.tree.open_snapshot(cpu)
