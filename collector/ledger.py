"""The loss accounting of one stream: do the sums of the kernel and ours agree, to the entry?

    read      entries the kernel says were read      = decoded + skipped
    overrun   entries the kernel says it overwrote   = counted gaps + what the gaps without a count hold

The first holds at any moment, for the stream has one reader. The second holds
once the ring was read to its end: an overwritten entry shows in the page that
comes after it. docs: model.md's "Ledger"; kernel: ring-buffer accounting of
per_cpu/cpuN/stats.

Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from collector.tracefs.stats import CpuStats

MALFORMED = "malformed"  # reason of skipped entries whose number only the kernel knows

MOST_RESIDUAL = (1 << 64) - 1  # what a record can hold; only a damaged recording of stats comes near

IDENTITY_READ = "read"
IDENTITY_OVERRUN = "overrun"
IDENTITIES = (IDENTITY_READ, IDENTITY_OVERRUN)


@dataclass(frozen=True, slots=True)
class KernelCounts:
    """A stream's numbers in per_cpu/cpuN/stats, relative to the run's base; entries."""

    overrun: int = 0
    dropped: int = 0
    commit_overrun: int = 0
    read: int = 0
    entries: int = 0  # unread, absolute

    @property
    def lost(self) -> int:
        """All that the kernel lost."""
        return self.overrun + self.dropped + self.commit_overrun

    @staticmethod
    def of(stats: CpuStats) -> "KernelCounts":
        """The counts of a stats file as they are; only of kernels that count what is read."""
        assert stats.read_events is not None, "whoever asks has looked"
        return KernelCounts(stats.overrun, stats.dropped_events, stats.commit_overrun, stats.read_events, stats.entries)

    def since(self, base: "KernelCounts") -> "KernelCounts":
        """These counts relative to a base."""
        return KernelCounts(
            self.overrun - base.overrun,
            self.dropped - base.dropped,
            self.commit_overrun - base.commit_overrun,
            self.read - base.read,
            self.entries,
        )

    def went_backwards_from(self, earlier: "KernelCounts") -> bool:
        """Whether somebody reset the counters in between: a clock was set, the buffer cleared."""
        return (
            self.read < earlier.read
            or self.overrun < earlier.overrun
            or self.dropped < earlier.dropped
            or self.commit_overrun < earlier.commit_overrun
        )


@dataclass(frozen=True, slots=True)
class ReaderCounts:
    """What the reader of a stream came to since the run began."""

    decoded: int = 0  # entries in batches
    skipped: Mapping[str, int] = None  # type: ignore[assignment]  # {reason: entries}, without MALFORMED
    malformed_pages: int = 0
    gap_known: int = 0  # sum of the counts that pages carried
    gaps: int = 0
    unknown_gaps: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """One check of the identities."""

    skipped: Mapping[str, int]  # {reason: entries}, MALFORMED included
    residual: Mapping[str, int | None]  # {identity: |left - right|}; None: cannot be told yet
    unknown_held: int | None  # entries that the gaps without a count hold; None: cannot be told yet

    @property
    def total(self) -> int | None:
        """The residual over all identities, None while one of them is open."""
        values = list(self.residual.values())
        return None if None in values else min(sum(v for v in values if v is not None), MOST_RESIDUAL)


def balance(kernel: KernelCounts, reader: ReaderCounts, settled: bool) -> Balance:
    """Check the identities.

    Args:
      kernel: relative to the base that the reader started at.
      settled: the ring had been read to its end when `kernel` was taken.
    """
    skipped = dict(reader.skipped or {})
    missing = kernel.read - reader.decoded - sum(skipped.values())
    if reader.malformed_pages and missing > 0:
        skipped[MALFORMED] = missing
        missing = 0
    residual: dict[str, int | None] = {IDENTITY_READ: abs(missing), IDENTITY_OVERRUN: None}
    held = None
    if settled:
        held = kernel.overrun - reader.gap_known
        if reader.unknown_gaps == 0:
            residual[IDENTITY_OVERRUN], held = abs(held), 0
        else:
            residual[IDENTITY_OVERRUN], held = max(-held, 0), max(held, 0)
    return Balance(skipped, residual, held)


class Reset:
    """Keeps counts growing over resets that somebody else made: what was counted before is added on top.

    What the kernel counted between the last look and the reset is gone; the reader's own counts stand for it.
    """

    def __init__(self, base: KernelCounts) -> None:
        self._base = base
        self._last = base
        self._seen = (0, 0)  # by the reader, at the last look: entries, and the sum of the gaps' counts
        self.resets = 0

    def shows_in(self, counts: KernelCounts, seen_read: int) -> bool:
        """Whether there was a reset since the last look.

        Counters that have passed their old values again show all the same: nobody can have read more than was read.

        Args:
          seen_read: entries that were read when `counts` were taken.
        """
        return counts.went_backwards_from(self._last) or counts.since(self._base).read < seen_read

    def advance(self, counts: KernelCounts, reader: ReaderCounts | None = None) -> KernelCounts:
        """The counts since the run's base, over all resets.

        Args:
          reader: what has been read when `counts` were taken; None: nothing since the last look.
        """
        seen = self._seen
        if reader is not None:
            seen = (reader.decoded + sum((reader.skipped or {}).values()), reader.gap_known)
        if self.shows_in(counts, seen[0]):
            self.resets += 1
            before = self._last.since(self._base)
            unseen_read = max(0, seen[0] - self._seen[0] - counts.read)
            unseen_overrun = max(0, seen[1] - self._seen[1] - counts.overrun)
            self._base = KernelCounts(
                -before.overrun - unseen_overrun, -before.dropped, -before.commit_overrun, -before.read - unseen_read
            )
        self._last, self._seen = counts, seen
        return counts.since(self._base)
