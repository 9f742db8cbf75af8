"""Where an earlier run left off in the archive, so that the next one can tell what a crash lost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from collector.archive.bodies import KernelBase, StreamFooter
from collector.archive.frame import Kind
from collector.archive.reader import Segment, open_segment
from collector.archive.segment import SUFFIX
from collector.archive.tally import CRASH
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

    A run that was killed before it had told what an earlier one lost, and so before it archived an entry, is passed
    over: that is told from the earlier one on.

    To be called when the archive was recovered.
    """
    found: dict[int, LeftOff] = {}
    untold: dict[int, LeftOff] = {}  # of runs that may have begun behind a crash, and archived nothing
    for path in sorted(folder.glob(f"*{SUFFIX}"), reverse=True):
        try:
            with open_segment(path) as segment:
                header, footer = segment.header, segment.footer
                if header is None or footer is None or header.boot_id != boot_id or instance not in header.clocks:
                    continue
                ends = {
                    cpu: _left_off(header.bases.get((name, cpu), KernelBase(0, 0, 0, 0)), of, footer.last)
                    for of in footer.streams
                    for name, cpu in [of.stream]
                    if name == instance
                }
                missing = ends.keys() - found.keys()
                quiet = {of.stream[1] for of in footer.streams if of.stream[0] == instance and not of.closing.blocks}
                if not footer.last and not header.segment and missing & quiet:
                    quiet -= _told_crashes(segment, instance)
                    # Where the earlier run ended in good order, this one's own beginning is as true.
                    untold |= {cpu: ends[cpu] for cpu in missing & quiet}
                    missing -= quiet
        except SegmentError:
            continue
        for cpu in missing:
            found[cpu] = untold.get(cpu, ends[cpu]) if ends[cpu].complete else ends[cpu]
        if not untold.keys() - found.keys():
            break
    return {**untold, **found}


def _told_crashes(segment: Segment, instance: str) -> set[int]:
    """CPUs of which the segment tells what an earlier run lost."""
    gaps = (segment.gap_at(place) for place in segment.places if place.kind == Kind.GAP)
    return {gap.stream[1] for gap in gaps if gap is not None and gap.stream[0] == instance and gap.cause == CRASH}


def _left_off(base: KernelBase, of: StreamFooter, complete: bool) -> LeftOff:
    closing = of.closing
    return LeftOff(
        accounted=base.read + closing.events + sum(closing.skipped.values()) + closing.unexplained,
        overrun=base.overrun + closing.told_overrun,
        dropped=base.dropped + closing.dropped,
        commit_overrun=base.commit_overrun + closing.commit_overrun,
        last_ts=of.last_ts,
        complete=complete,
    )
