"""The running totals of a stream, as headers, samples and footers store them. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from collector.archive.fields import Fields
from collector.ledger import MALFORMED, Unproven

StreamId = tuple[str, int]  # (instance, CPU) of one run


@dataclass(frozen=True, slots=True)
class Totals:
    """What one stream came to since its run began.

    The first group is what the archive holds and can be re-added from its blocks; the second is what the kernel
    and the reader say. The kernel's numbers are relative to the sample taken before the first read.
    """

    blocks: int = 0
    events: int = 0
    raw_bytes: int = 0  # of sub-buffers, headers included
    gaps: int = 0  # gaps inside blocks
    gap_known_events: int = 0  # their counts, as far as the pages carry them
    unknown_gaps: int = 0  # those without a count

    pages: int = 0  # sub-buffers read
    skipped: Mapping[str, int] = field(default_factory=dict)  # {reason: entries} that were seen one by one
    unexplained: int = 0  # entries that the kernel handed out and nobody has seen
    decode_errors: Mapping[str, int] = field(default_factory=dict)  # {reason: sub-buffers}
    overrun: int = 0
    dropped: int = 0
    commit_overrun: int = 0
    read: int = 0  # entries taken out of the ring
    entries: int = 0  # entries still in the ring
    residual: int | None = None  # of the ledger's identities; None: not settled
    settled: bool = False  # kernel side and archive side were taken at one moment
    left_in_kernel: int = 0  # entries given up at shutdown

    @property
    def told_overrun(self) -> int:
        """Overwritten entries, by the kernel's count of the last sample or by what the gaps since then have told."""
        return max(self.overrun, self.gap_known_events)

    @property
    def told_lost(self) -> int:
        """Entries the kernel lost, as far as anybody has told."""
        return self.told_overrun + self.dropped + self.commit_overrun

    def unproven(self, malformed_pages: int) -> Unproven:
        """What nobody can prove; without the kernel's counts that is not a number."""
        is_counted = self.settled or self.read > 0
        return Unproven(malformed_pages, self.unexplained if is_counted else None)

    def held(self) -> tuple[int, int, int, int, int]:
        """What must re-add exactly from the blocks: blocks, events, gaps, known and unknown."""
        return self.blocks, self.events, self.gaps, self.gap_known_events, self.unknown_gaps

    def grown(self, blocks: int, events: int, raw_bytes: int, gaps: int, known: int, unknown: int) -> "Totals":
        """These totals after the given blocks."""
        return replace(
            self,
            blocks=self.blocks + blocks,
            events=self.events + events,
            raw_bytes=self.raw_bytes + raw_bytes,
            gaps=self.gaps + gaps,
            gap_known_events=self.gap_known_events + known,
            unknown_gaps=self.unknown_gaps + unknown,
        )


def parse_totals(value: object, what: str) -> Totals:
    """Reads the map that `build_totals` makes.

    Raises:
      SegmentError: a key is missing or has the wrong type.
    """
    top = Fields(value, what)
    kernel = top.fields("kernel")
    skipped = dict(top.counts("skipped"))
    # Before there was a key for it, what malformed sub-buffers may have held was called skipped.
    unexplained = skipped.pop(MALFORMED, 0)
    return Totals(
        blocks=top.integer("blocks"),
        events=top.integer("events"),
        raw_bytes=top.integer("raw_bytes"),
        gaps=top.integer("gaps"),
        gap_known_events=top.integer("gap_known_events"),
        unknown_gaps=top.integer("unknown_gaps"),
        pages=top.integer("pages"),
        skipped=skipped,
        unexplained=top.integer("unexplained") if top.has("unexplained") else unexplained,
        decode_errors=top.counts("decode_errors"),
        overrun=kernel.integer("overrun"),
        dropped=kernel.integer("dropped"),
        commit_overrun=kernel.integer("commit_overrun"),
        read=kernel.integer("read"),
        entries=kernel.integer("entries"),
        residual=top.maybe_integer("residual"),
        settled=top.boolean("settled"),
        left_in_kernel=top.integer("left_in_kernel"),
    )


def build_totals(totals: Totals) -> dict[str, Any]:
    """Gives the map that stands in a segment."""
    return {
        "blocks": totals.blocks,
        "events": totals.events,
        "raw_bytes": totals.raw_bytes,
        "pages": totals.pages,
        "gaps": totals.gaps,
        "gap_known_events": totals.gap_known_events,
        "unknown_gaps": totals.unknown_gaps,
        "skipped": dict(totals.skipped),
        "decode_errors": dict(totals.decode_errors),
        "kernel": {
            "overrun": totals.overrun,
            "dropped": totals.dropped,
            "commit_overrun": totals.commit_overrun,
            "read": totals.read,
            "entries": totals.entries,
        },
        **({"unexplained": totals.unexplained} if totals.unexplained else {}),
        "residual": totals.residual,
        "settled": totals.settled,
        "left_in_kernel": totals.left_in_kernel,
    }
