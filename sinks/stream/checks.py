"""Numbers that no kernel and no clock comes to: sums of larger ones would fit no footer. Pure."""

from collector.archive.totals import Totals
from collector.errors import SegmentError

MAX_COUNT = 1 << 40  # of one block or gap
MAX_TOTAL = 1 << 58
MAX_CREATED_NS = 1 << 63  # wall time; those of the next segments are later


def check_counts(*counts: int) -> None:
    """Raises SegmentError for a count of one block or gap."""
    if max(counts) > MAX_COUNT:
        raise SegmentError("a count that no kernel comes to", expected=f"at most {MAX_COUNT}", got=str(max(counts)))


def check_totals(of: Totals) -> None:
    """Raises SegmentError for sums of a run."""
    most = max(
        of.blocks, of.events, of.raw_bytes, of.gaps, of.gap_known_events, of.unknown_gaps, of.pages, of.overrun,
        of.dropped, of.commit_overrun, of.read, of.entries, of.left_in_kernel, of.residual or 0,
        *of.skipped.values(), *of.decode_errors.values(),
    )  # fmt: skip
    if most > MAX_TOTAL:
        raise SegmentError("totals that no kernel comes to", expected=f"at most {MAX_TOTAL}", got=str(most))


def check_time(created_ns: int) -> None:
    """Raises SegmentError for a header's wall time."""
    if created_ns > MAX_CREATED_NS:
        raise SegmentError("a time that no clock shows", expected=f"at most {MAX_CREATED_NS}", got=str(created_ns))
