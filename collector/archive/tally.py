"""What a segment holds, added up record by record: one sum for the writer, for recovery and for `verify`. Pure."""

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from collector.archive.frame import Kind
from collector.archive.totals import StreamId, Totals, build_totals
from collector.batch import KindCount, Missed
from collector.ledger import MALFORMED

RECOVERED = "recovered"  # the reason in the footer of a segment that a crash left open

CRASH = "crash"  # cause of a gap: an earlier run of the instance read the entries and died before they were archived
OVERRUN = "overrun"  # cause of a gap that is in no block: no entry came after it, or a crashed run was told of it
DISCARDED = "discarded"  # cause of a gap, and reason of skipped entries: decoded, but the archive had no room


@dataclass(slots=True, eq=False)
class StreamTally:
    """One stream's part of one segment; changes as records are added."""

    position: int  # in the footer's list
    opening: Totals
    blocks: int = 0
    events: int = 0
    raw_bytes: int = 0
    gaps: int = 0
    gap_known_events: int = 0
    unknown_gaps: int = 0
    discarded: int = 0  # entries of ours that gap records say were not archived
    malformed_pages: int = 0  # that gap records tell of
    by_event: Counter[str] = field(default_factory=Counter)
    first_ts: int | None = None
    last_ts: int | None = None

    def closing(self, given: Totals | None) -> Totals:
        """The totals after this segment.

        What the archive holds is this tally's own sum, and entries that were decoded but given up (a full disk) are
        added to `skipped`; the kernel's and the reader's numbers are the given ones, or stay at the opening's. When
        the given totals count other events than that, blocks are still on their way: then both sides were not taken
        at one moment, and the residual is unknown.
        """
        theirs = given or self.opening
        held = self.opening.grown(
            self.blocks, self.events, self.raw_bytes, self.gaps, self.gap_known_events, self.unknown_gaps
        )
        given_up = self.opening.skipped.get(DISCARDED, 0) + self.discarded
        at_one_moment = theirs.held() == held.held()
        if given_up:  # with their gaps, which nobody can count again
            at_one_moment = theirs.events == held.events + given_up
        return replace(
            theirs,
            blocks=held.blocks,
            events=held.events,
            raw_bytes=max(held.raw_bytes, theirs.raw_bytes),  # pages without an entry are in no block
            gaps=held.gaps,
            gap_known_events=held.gap_known_events,
            unknown_gaps=held.unknown_gaps,
            skipped={**theirs.skipped, DISCARDED: given_up} if given_up else theirs.skipped,
            residual=theirs.residual if given is not None and at_one_moment else None,
            settled=theirs.settled and given is not None and at_one_moment,
        )


class SegmentTally:
    """Sums, index and checksum chain of one segment.

    Args:
      opening: totals at the segment's start, in the order of the header's streams.
    """

    def __init__(self, opening: Mapping[StreamId, Totals]) -> None:
        self.streams = {key: StreamTally(at, totals) for at, (key, totals) in enumerate(opening.items())}
        self.records_crc = 0
        self._index: list[tuple[int, int, int, int, int, int, int]] = []  # see IndexEntry

    @property
    def blocks(self) -> int:
        return sum(s.blocks for s in self.streams.values())

    @property
    def events(self) -> int:
        return sum(s.events for s in self.streams.values())

    def stream(self, key: StreamId) -> StreamTally:
        """The stream's tally; one that the header does not know begins at zero (a CPU that came up later)."""
        found = self.streams.get(key)
        if found is None:
            found = self.streams[key] = StreamTally(len(self.streams), Totals())
        return found

    def add_record(
        self, offset: int, kind: int, crc: int, key: StreamId | None = None, first_ts: int = 0, last_ts: int = 0
    ) -> None:
        """Adds any record but a block, the footer and the trailer."""
        self.records_crc = zlib.crc32(crc.to_bytes(4, "big"), self.records_crc)
        if kind != Kind.HEADER:
            position = -1 if key is None else self.stream(key).position
            self._index.append((offset, kind, position, 0, 0, first_ts, last_ts))

    def add_gap(self, key: StreamId, cause: str, count: int | None) -> None:
        """Notes what a stand-alone gap record says; add_record takes the record itself."""
        of = self.stream(key)
        if cause == DISCARDED:
            of.discarded += count or 0
        elif cause == MALFORMED:
            of.malformed_pages += 1
        elif cause == OVERRUN:
            of.gaps += 1
            of.gap_known_events += count or 0
            of.unknown_gaps += count is None

    def add_block(
        self,
        offset: int,
        crc: int,
        key: StreamId,
        number: int,
        entries: int,
        first_ts: int,
        last_ts: int,
        raw_bytes: int,
        gaps: Iterable[Missed],
        kinds: Iterable[KindCount],
        names: Mapping[bytes, str],
    ) -> None:
        """Adds a block record.

        Args:
          names: {format object id: "system:name"}.
        """
        self.records_crc = zlib.crc32(crc.to_bytes(4, "big"), self.records_crc)
        of = self.stream(key)
        self._index.append((offset, Kind.BLOCK, of.position, number, entries, first_ts, last_ts))
        of.blocks += 1
        of.events += entries
        of.raw_bytes += raw_bytes
        for gap in gaps:
            of.gaps += 1
            if gap.lost is None:
                of.unknown_gaps += 1
            else:
                of.gap_known_events += gap.lost
        for kind in kinds:
            of.by_event[names.get(kind.format_id, kind.format_id.hex())] += kind.entries
        if entries:
            of.first_ts = first_ts if of.first_ts is None else of.first_ts
            of.last_ts = last_ts

    def build_footer(
        self,
        run: bytes,
        segment: int,
        closing: Mapping[StreamId, Totals],
        reason: str,
        last: bool,
        sealed_ns: int,
    ) -> dict[str, Any]:
        """Gives the footer's body as a map.

        Args:
          closing: the ledger's totals by stream, see StreamTally.closing; a stream without them is unsettled.
        """
        for key in closing:
            self.stream(key)
        return {
            "run": run,
            "segment": segment,
            "index": self._index,
            "streams": [
                {
                    "inst": key[0],
                    "cpu": key[1],
                    "opening": build_totals(of.opening),
                    "closing": build_totals(of.closing(closing.get(key))),
                    "by_event": {name: n for name, n in sorted(of.by_event.items()) if n},
                    "t0": of.first_ts,
                    "t1": of.last_ts,
                }
                for key, of in self.streams.items()
            ],
            "sealed_ns": sealed_ns,
            "reason": reason,
            "last": last,
            "records_crc": self.records_crc,
        }
