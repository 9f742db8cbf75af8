"""The loss accounting of one stream: do the sums of the kernel and ours agree, to the entry?

    read      entries the kernel says were read      = decoded + skipped
    overrun   entries the kernel says it overwrote   = counted gaps + what the gaps without a count hold

The first holds at any moment, for the stream has one reader. What is missing in it is `unexplained`, and stays so:
skipped entries were seen one by one, but nobody has seen what a malformed sub-buffer held behind its fault. The
second holds
once the ring was read to its end: an overwritten entry shows in the page that
comes after it. docs: model.md's "Ledger"; kernel: ring-buffer accounting of
per_cpu/cpuN/stats.

Pure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from collector.tracefs.stats import CpuStats

MALFORMED = "malformed"  # cause of a gap: what a sub-buffer held behind a fault, which nobody has seen

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
    skipped: Mapping[str, int] = field(default_factory=dict)  # {reason: entries} that were seen one by one
    gap_known: int = 0  # sum of the counts that pages carried
    gaps: int = 0
    unknown_gaps: int = 0


@dataclass(frozen=True, slots=True)
class Balance:
    """One check of the identities."""

    unexplained: int  # entries that the kernel handed out, and nobody has seen; they balance nothing
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
    missing = kernel.read - reader.decoded - sum(reader.skipped.values())
    residual: dict[str, int | None] = {IDENTITY_READ: abs(missing), IDENTITY_OVERRUN: None}
    held = None
    if settled:
        held = kernel.overrun - reader.gap_known
        if reader.unknown_gaps == 0:
            residual[IDENTITY_OVERRUN], held = abs(held), 0
        else:
            residual[IDENTITY_OVERRUN], held = max(-held, 0), max(held, 0)
    return Balance(max(missing, 0), residual, held)


@dataclass(frozen=True, slots=True)
class Unproven:
    """What nobody can prove of one stream, or of several: the one story that all commands tell of malformed pages."""

    malformed_pages: int  # sub-buffers with a fault; what stood before it is archived, behind it nobody has seen
    unexplained: int | None  # entries that the kernel handed out, and nobody has seen; None: nobody counted

    @property
    def is_nothing(self) -> bool:
        """All that the kernel handed out is accounted for."""
        return not self.unexplained and not (self.malformed_pages and self.unexplained is None)

    def __add__(self, other: "Unproven") -> "Unproven":
        either = self.unexplained, other.unexplained
        counted = [count for count in either if count is not None]
        unexplained = None if len(counted) < 2 else sum(counted)
        return Unproven(self.malformed_pages + other.malformed_pages, unexplained)

    def __str__(self) -> str:
        """For people; "" when there is nothing to tell."""
        parts = []
        if self.malformed_pages:
            parts.append(f"{self.malformed_pages} malformed sub-buffers")
        if self.unexplained:
            parts.append(f"{self.unexplained} entries unexplained")
        elif parts:
            unknown = "what they held behind their faults is not known"
            parts.append(unknown if self.unexplained is None else "no entry unexplained")
        return ", ".join(parts)


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
            seen = (reader.decoded + sum(reader.skipped.values()), reader.gap_known)
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
