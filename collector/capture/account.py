"""A stream's side of the ledger: the kernel's counts since the run began, and what its blocks hold."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from collector.archive.totals import Totals
from collector.batch import Block
from collector.capture.visit import LooseGap, Sample, Visit
from collector.ledger import KernelCounts, ReaderCounts, Reset, balance
from collector.tracefs.stats import CpuStats


class Account:
    """Keeps the sums of one stream, and compares them with the kernel's.

    Args:
      read_stats: reads per_cpu/cpuN/stats; None where there is none, and gives None where there is none now.
      base: the kernel's counts when the run began.
    """

    def __init__(self, read_stats: Callable[[], CpuStats | None] | None, base: KernelCounts) -> None:
        self.last_sample: Sample | None = None
        self.blocks = 0  # closed
        self.events = 0  # in them: the ordinal of the next one
        # Of closed blocks, and loose ones: these three can be read at any time, unlike counts().
        self.gaps = 0
        self.gap_known = 0  # sum of their counts
        self.unknown_gaps = 0  # those without a count
        self._raw_bytes = 0  # of closed blocks
        self._read_stats = read_stats
        self._reset = Reset(base)
        self._untold: str | None = None  # why no gap tells of all overwritten entries; settled once

    def continue_after_crash(self) -> None:
        """The base is an earlier run's, which may have been told of losses that it did not archive.

        How many, shows when the ring is drained: what the gaps that this run was told of do not explain.
        """
        self._untold = "told to an earlier run that did not archive it"

    def add_block(self, block: Block) -> None:
        """Count what a block holds."""
        self.blocks += 1
        self.events += block.events
        self._raw_bytes += block.raw_bytes
        self.gaps += len(block.gaps)
        self.gap_known += sum(gap.lost for gap in block.gaps if gap.lost is not None)
        self.unknown_gaps += sum(gap.lost is None for gap in block.gaps)

    def add_loose_gap(self, visit: Visit, lost: int | None, detail: str) -> None:
        """Count overwritten entries of which no block tells, for no entry follows, and let the visit tell of them."""
        visit.loose_gaps.append(LooseGap(lost, detail, after=len(visit.blocks)))
        self.gaps += 1
        self.gap_known += lost or 0
        self.unknown_gaps += lost is None

    def counts(self, decoded: int, skipped: Mapping[str, int], lost: Sequence[int | None]) -> ReaderCounts:
        """What the ledger compares with the kernel.

        Args:
          decoded, skipped: since the run began.
          lost: counts of the open batch's gaps.
        """
        return ReaderCounts(
            decoded=decoded,
            skipped=skipped,
            gap_known=self.gap_known + sum(count for count in lost if count is not None),
            gaps=self.gaps + len(lost),
            unknown_gaps=self.unknown_gaps + lost.count(None),
        )

    def was_reset(self, seen_read: int, count: Callable[[], ReaderCounts]) -> bool:
        """Whether somebody cleared the ring since the last look, at which this is one.

        Args:
          seen_read: entries that were read.
          count: gives the reader's counts; called when there was a reset alone.
        """
        stats = self._look()
        if stats is None:
            return False
        now = KernelCounts.of(stats)
        if not self._reset.shows_in(now, seen_read):
            return False
        self._reset.advance(now, count())
        return True

    def sample(self, visit: Visit, reader: ReaderCounts, settled: bool) -> None:
        """Give the visit a look at the ledger; none where nobody counts.

        Args:
          reader: the reader's counts as of now.
          settled: the ring was found empty.
        """
        stats = self._look()
        if stats is None:
            return
        settled = settled and stats.entries == 0
        kernel = self._reset.advance(KernelCounts.of(stats), reader)
        if self._untold is not None and settled:
            detail, self._untold = self._untold, None
            untold = kernel.overrun - reader.gap_known
            if untold > 0 and reader.unknown_gaps == 0:
                self.add_loose_gap(visit, untold, detail)
                reader = replace(reader, gaps=reader.gaps + 1, gap_known=reader.gap_known + untold)
        reader = self._explained(kernel, reader)
        result = balance(kernel, reader, settled)
        self.last_sample = visit.sample = Sample(
            time.time_ns(), stats.now_ts, kernel, reader, result, settled, stats.bytes,
            stats.oldest_event_ts if stats.entries else None, self._reset.resets,
        )  # fmt: skip

    def totals(self, reader: ReaderCounts, pages: int, decode_errors: Mapping[str, int]) -> Totals:
        """The stream's running totals: what its blocks hold, and what the last sample said.

        Settled only when every entry of the sample is in a block.

        Args:
          reader: the reader's counts as of now.
          pages: sub-buffers read.
          decode_errors: {reason: pages}
        """
        sample = self.last_sample
        held = sample is not None and sample.reader.decoded == self.events and reader.gaps == self.gaps
        kernel = sample.kernel if sample is not None else KernelCounts()
        return Totals(
            blocks=self.blocks,
            events=self.events,
            raw_bytes=self._raw_bytes,
            gaps=self.gaps,
            gap_known_events=self.gap_known,
            unknown_gaps=self.unknown_gaps,
            pages=pages,
            skipped=dict(sample.reader.skipped if sample is not None else reader.skipped),
            unexplained=sample.balance.unexplained if sample is not None else 0,
            decode_errors=dict(decode_errors),
            overrun=kernel.overrun,
            dropped=kernel.dropped,
            commit_overrun=kernel.commit_overrun,
            read=kernel.read,
            entries=kernel.entries,
            residual=sample.balance.total if sample is not None and held else None,
            settled=sample is not None and sample.settled and held,
            left_in_kernel=0,
        )

    def _look(self) -> CpuStats | None:
        return None if self._read_stats is None else self._read_stats()

    def _explained(self, kernel: KernelCounts, reader: ReaderCounts) -> ReaderCounts:
        """The reader's counts with what only the kernel's tell; a ring's sub-buffers tell all."""
        return reader


class RecordedAccount(Account):
    """The account of a recording: its counts are one snapshot, which nobody resets, and which may be too old."""

    def sample(self, visit: Visit, reader: ReaderCounts, settled: bool) -> None:
        stats = self._look()
        seen = reader.decoded + sum(reader.skipped.values())
        if stats is None or (stats.read_events or 0) < seen:
            return  # taken before the last entries were written: they prove nothing
        super().sample(visit, reader, settled)
