"""Where an earlier run left off in the archive, so that the next one can tell what a crash lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collector.archive.bodies import KernelBase, StreamFooter
from collector.archive.reader import open_segment
from collector.archive.segment import SUFFIX
from collector.errors import SegmentError
from collector.ledger import KernelCounts


@dataclass(frozen=True, slots=True)
class LeftOff:
    """What the newest run of an instance archived of one CPU, in the kernel's absolute counts."""

    accounted: int  # entries read that are in the archive, or were counted as skipped or unexplained
    overrun: int  # of its last look at stats, as are the others; or what its gaps tell of
    dropped: int
    commit_overrun: int
    last_ts: int | None  # of its last entry
    complete: bool  # it ended in good order

    def unarchived(self, now: KernelCounts) -> int | None:
        """Entries that were read from the ring but not archived; None when the counters have been reset since."""
        lost = now.read - self.accounted
        return lost if lost >= 0 else None

    def loss_base(self, now: KernelCounts) -> KernelCounts:
        """The base for the run that goes on: reading counts from now, losses from the last look.

        After a reset all of them count from now.
        """
        base = KernelCounts(self.overrun, self.dropped, self.commit_overrun, now.read)
        return now if now.read < self.accounted or now.went_backwards_from(base) else base


def find_left_off(folder: Path, instance: str, boot_id: str) -> Mapping[int, LeftOff]:
    """{cpu: where the instance's newest run of this boot left off}; empty when the archive has none.

    To be called when the archive was recovered.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            with open_segment(path) as segment:
                header, footer = segment.header, segment.footer
        except SegmentError:
            continue
        if header is None or footer is None or header.boot_id != boot_id or instance not in header.clocks:
            continue
        return {
            cpu: _left_off(header.bases.get((name, cpu), KernelBase(0, 0, 0, 0)), of, footer.last)
            for of in footer.streams
            for name, cpu in [of.stream]
            if name == instance
        }
    return {}


def _left_off(base: KernelBase, of: StreamFooter, complete: bool) -> LeftOff:
    closing = of.closing
    return LeftOff(
        accounted=base.read + closing.events + sum(closing.skipped.values()) + closing.unexplained,
        # What its gaps have told since its last look, or before its first one, is told.
        overrun=base.overrun + max(closing.overrun, closing.gap_known_events),
        dropped=base.dropped + closing.dropped,
        commit_overrun=base.commit_overrun + closing.commit_overrun,
        last_ts=of.last_ts,
        complete=complete,
    )
