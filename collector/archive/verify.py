"""Checks an archive: every checksum, every column, every sum, and the joins between the segments of a run."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from collector.archive.block import decode_block
from collector.archive.bodies import (
    BlockHead,
    Footer,
    parse_block,
    parse_coverage,
    parse_footer,
    parse_gap,
    parse_header,
    parse_sample,
)
from collector.archive.frame import TRAILER_BYTES, Damage, Kind, Record
from collector.archive.lock import is_locked
from collector.archive.objects import FormatObject, check_object, parse_format, parse_object
from collector.archive.pins import read_removed_up_to
from collector.archive.reader import Segment, list_segments, open_segment
from collector.archive.recover import BAD_SUFFIX
from collector.archive.tally import DISCARDED, RECOVERED, SegmentTally, StreamTally
from collector.archive.totals import StreamId, Totals
from collector.errors import ArchiveError, SegmentError


@dataclass(frozen=True, slots=True)
class Problem:
    """Something in an archive that must not be."""

    path: Path
    offset: int | None  # byte in the file; None: it is about the whole
    what: str

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.offset is None else f"{self.path} at byte {self.offset}: {self.what}"


@dataclass(slots=True)
class Report:
    """What a check found."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # odd, but nothing is wrong: an open segment, an unsettled run
    segments: int = 0
    blocks: int = 0
    events: int = 0


def verify_paths(paths: Iterable[Path]) -> list[Problem]:
    """Gives what is wrong with the segments in folders or named themselves; an empty list when nothing is.

    Raises:
      UsageError, ArchiveError: a path does not exist, or holds no segment.
    """
    return verify_archive(paths).problems


def verify_archive(paths: Iterable[Path]) -> Report:
    """As verify_paths, with notes and sums."""
    report = Report()
    paths = list(paths)
    folders = {path for path in paths if path.is_dir()}
    runs: dict[bytes, list[_SegmentCheck]] = defaultdict(list)
    for path in list_segments(paths):
        live = path.name.endswith(".part") and is_locked(path.parent)
        try:
            with open_segment(path) as segment:
                check = _SegmentCheck(segment, live and segment.is_part, report)
                check.run()
                runs[segment.run].append(check)
        except SegmentError as e:
            if live:
                report.notes.append(f"{path}: begun just now ({e.what})")
            else:
                report.problems.append(Problem(path, 0, str(e).removeprefix(f"{path}: ")))
        except OSError as e:
            raise ArchiveError(f"cannot open the segment: {e.strerror}", where=str(path)) from e
        report.segments += 1
    for checks in runs.values():
        _check_joins(checks, folders, report)
    for folder in sorted(folders):
        if bad := sum(1 for path in folder.iterdir() if path.name.endswith(BAD_SUFFIX)):
            report.notes.append(f"{folder}: {bad} files that recovery set aside (*{BAD_SUFFIX})")
    return report


class _SegmentCheck:
    """One pass over a segment."""

    def __init__(self, segment: Segment, live: bool, report: Report) -> None:
        self.path = segment.path
        self.number = segment.number
        self.header = segment.header
        self.footer = segment.footer
        self.footer_fault = segment.footer_fault
        self.live = live
        self.is_part = segment.is_part
        self.damaged = False
        self.tally = SegmentTally({} if segment.header is None else segment.header.opening)
        self._segment = segment
        self._report = report
        self._formats: dict[bytes, FormatObject] = {}
        self._next: dict[StreamId, tuple[int, int]] = {}  # {stream: (block number, ordinal)} that must come next
        self._given_up: Counter[StreamId] = Counter()  # entries of ours that were discarded since the last block
        self._footers = 0
        self._kinds: list[int] = []

    def _problem(self, what: str, offset: int | None = None) -> None:
        self._report.problems.append(Problem(self.path, offset, what))

    def run(self) -> None:
        """Looks at every record, then at the sums."""
        for found in self._segment.records():
            if isinstance(found, Damage):
                self._damage(found)
                continue
            try:
                self._record(found)
            except SegmentError as e:
                self._problem(str(e), found.offset)
                self.damaged = True
                self._next.clear()
        self._report.blocks += self.tally.blocks
        self._report.events += self.tally.events
        self._check_end()

    def _damage(self, damage: Damage) -> None:
        if self.live and damage.end >= self._segment.size_bytes:
            return  # a record that is being written
        self.damaged = True
        self._next.clear()  # what is missing shows as this one problem, not as a jump of the ordinals too
        held = "" if self.footer is None else self._held(damage, self.footer)
        self._problem(f"{damage.length} bytes are damaged: {damage.reason}{held}", damage.offset)

    def _held(self, damage: Damage, footer: Footer) -> str:
        """Says what the damaged bytes were, by the footer's index."""
        lost = [e for e in footer.index if damage.offset <= e.offset < damage.end]
        names = []
        for e in lost[:4]:
            kind = Kind(e.kind).name.lower() if e.kind in Kind.__members__.values() else f"record of kind {e.kind}"
            if e.kind == Kind.BLOCK and e.stream >= 0:
                name, cpu = footer.streams[e.stream].stream
                kind = f"block {e.number} of {name} CPU {cpu} with {e.entries} events"
            names.append(kind)
        return f"; lost: {', '.join(names)}{' and more' if len(lost) > 4 else ''}" if names else ""

    def _record(self, record: Record) -> None:
        if self._footers and record.kind != Kind.TRAILER:
            raise SegmentError("a record after the footer")
        if (record.offset == 0) != (record.kind == Kind.HEADER):
            parse_header(record.body) if record.kind == Kind.HEADER else None
            raise SegmentError("the header is not the first record")
        stream, first_ts, last_ts = None, 0, 0
        match record.kind:
            case Kind.HEADER:
                parse_header(record.body)
            case Kind.OBJECT:
                self._object(record)
            case Kind.BLOCK:
                return self._block(record)
            case Kind.GAP:
                gap = parse_gap(record.body)
                stream, first_ts, last_ts = gap.stream, gap.from_ts or 0, gap.to_ts or 0
                self._same_run(gap.run)
                self.tally.add_gap(stream, gap.cause, gap.count)
                if gap.cause == DISCARDED:
                    self._given_up[stream] += gap.count or 0
            case Kind.COVERAGE:
                coverage = parse_coverage(record.body)
                stream, first_ts, last_ts = coverage.stream, coverage.from_ts, coverage.to_ts or 0
                self._same_run(coverage.run)
            case Kind.SAMPLE:
                sample = parse_sample(record.body)
                stream = sample.stream
                self._same_run(sample.run)
            case Kind.FOOTER:
                self._footers += 1
                self._same_run(parse_footer(record.body).run)
                return None
            case Kind.TRAILER:
                if record.end != self._segment.size_bytes or self._segment.footer_fault:
                    raise SegmentError(self._segment.footer_fault or "bytes after the trailer")
                return None
            case _:
                raise SegmentError(f"a record of the unknown kind {record.kind}", hint="read it with a newer version")
        self.tally.add_record(record.offset, record.kind, record.crc, stream, first_ts, last_ts)
        return None

    def _same_run(self, run: bytes) -> None:
        if self.header is not None and run != self.header.run:
            raise SegmentError("of another run", expected=self.header.run.hex(), got=run.hex())

    def _object(self, record: Record) -> None:
        stored = parse_object(record.body)
        check_object(stored)
        if stored.type == "format":
            self._formats[stored.id] = parse_format(stored)

    def _block(self, record: Record) -> None:
        head = parse_block(record.body)
        self._same_run(head.run)
        formats = self._formats
        if self.damaged:  # the first copy of a format may be gone, and the second stands at the end
            formats = self._segment.formats | formats
        decode_block(head, formats)
        self._check_place(head)
        names = {key: of.full_name for key, of in formats.items()}
        self.tally.add_block(
            record.offset, record.crc, head.stream, head.number, head.entries, head.first_ts, head.last_ts,
            head.raw_bytes, head.gaps, head.kinds, names,
        )  # fmt: skip

    def _check_place(self, head: BlockHead) -> None:
        """Block numbers and ordinals of a stream go on without a hole, but for entries that we say we gave up."""
        expected = self._next.get(head.stream)
        if expected is None and not self.damaged and self.header is not None:
            opening = self.header.opening.get(head.stream, Totals())
            expected = opening.blocks, opening.events + opening.skipped.get(DISCARDED, 0)
            if DISCARDED in opening.skipped:  # discarded blocks had numbers, which the totals don't count
                expected = max(head.number, opening.blocks), expected[1]
        self._next[head.stream] = head.number + 1, head.ordinal + head.entries
        given_up = self._given_up.pop(head.stream, 0)
        if expected is None or (head.number, head.ordinal) == expected:
            return
        number, ordinal = expected
        if given_up and head.number >= number and head.ordinal == ordinal + given_up:
            return
        name, cpu = head.stream
        self._problem(
            f"{name} CPU {cpu}: block {head.number} begins at entry {head.ordinal}; "
            f"expected block {number} at entry {ordinal}"
        )

    def _check_end(self) -> None:
        footer = self.footer
        if footer is None:
            if self.live:
                self._report.notes.append(f"{self.path}: being written")
            elif self.is_part:
                self._problem("not sealed, and nobody writes it; run `recover` on its folder")
            else:
                self._problem(self.footer_fault, max(self._segment.size_bytes - TRAILER_BYTES, 0))
            return
        if self.is_part and not self.live:
            self._problem("sealed but not renamed, and nobody writes it; run `recover` on its folder")
        if self.header is not None and footer.segment != self.header.segment:
            self._problem(f"footer of segment {footer.segment} in segment {self.header.segment}")
        if self.damaged:
            return  # the sums cannot be right, and the reason is told already
        if footer.records_crc != self.tally.records_crc:
            self._problem(f"the records' checksums come to {self.tally.records_crc:08x}, not {footer.records_crc:08x}")
        by_stream = {s.stream: s for s in footer.streams}
        for key in sorted({*by_stream, *self.tally.streams}):
            found, told = self.tally.streams.get(key), by_stream.get(key)
            if told is None:
                self._problem(f"{key[0]} CPU {key[1]} is not in the footer")
            else:
                self._check_stream(key, found or StreamTally(0, Totals()), told.opening, told.closing, told.by_event)
        self._check_index(footer)

    def _check_stream(
        self, key: StreamId, found: StreamTally, opening: Totals, closing: Totals, by_event: dict[str, int]
    ) -> None:
        where = f"{key[0]} CPU {key[1]}"
        if opening != found.opening:
            self._problem(f"{where}: the footer opens with other totals than the header")
        expected = opening.grown(
            found.blocks, found.events, found.raw_bytes, found.gaps, found.gap_known_events, found.unknown_gaps
        )
        if closing.held() != expected.held() or closing.raw_bytes < expected.raw_bytes:
            self._problem(
                f"{where}: blocks, events, gaps, known and unknown re-add to {expected.held()}, "
                f"the footer says {closing.held()}"
            )
        if {name: n for name, n in found.by_event.items() if n} != by_event:
            self._problem(f"{where}: the events by name re-add to other numbers than the footer's")
        for what in check_identities(closing):
            self._problem(f"{where}: {what}")

    def _check_index(self, footer: Footer) -> None:
        at = {(e.offset, e.kind, e.entries) for e in footer.index}
        streams = list(self.tally.streams)
        built = self.tally.build_footer(b"", 0, {}, "", False, 0)["index"]
        if at != {(row[0], row[1], row[4]) for row in built} or len(streams) > len(footer.streams):
            self._problem("the footer's index does not match the records")


def check_identities(totals: Totals) -> list[str]:
    """Gives the ledger's identities that do not hold; none for totals that are not settled."""
    wrong = []
    if totals.residual:
        wrong.append(f"residual {totals.residual}, must be 0")
    if not totals.settled:
        return wrong
    accounted = totals.events + sum(totals.skipped.values()) + totals.unexplained
    if totals.read != accounted:
        wrong.append(f"the kernel handed out {totals.read} entries, {accounted} are accounted for")
    held = totals.overrun - totals.gap_known_events
    # Discarded blocks took their gaps with them.
    if held < 0 or (held and not totals.unknown_gaps and DISCARDED not in totals.skipped):
        wrong.append(
            f"the kernel overwrote {totals.overrun} entries, the gaps count {totals.gap_known_events} "
            f"and {totals.unknown_gaps} have no count"
        )
    return wrong


def _check_joins(checks: list[_SegmentCheck], folders: set[Path], report: Report) -> None:
    """Checks the segments of one run against each other; those missing at its start were dropped by retention.

    Args:
      folders: those given as a whole, where a run's end must be.
    """
    numbered = sorted((c for c in checks if c.number is not None), key=lambda c: (c.number or 0, c.path.name))
    for before, after in pairwise(numbered):
        assert before.number is not None
        assert after.number is not None
        if after.number == before.number:
            report.problems.append(Problem(after.path, None, f"the same segment of the run as {before.path.name}"))
        elif after.number > before.number + 1:
            missing = f"{before.number + 1}" + (f" to {after.number - 1}" if after.number > before.number + 2 else "")
            if _removed_behind(before):
                report.notes.append(f"{before.path}: segment {missing} of its run, behind it, was removed by retention")
                continue
            report.problems.append(
                Problem(after.path, None, f"segment {missing} of its run is missing before it; was it removed?")
            )
        elif before.footer is not None and after.header is not None:
            closing = {s.stream: s.closing for s in before.footer.streams}
            for key, totals in closing.items():
                if after.header.opening.get(key, totals) != totals:
                    what = f"{key[0]} CPU {key[1]}: opens with other totals than {before.path.name} closed with"
                    report.problems.append(Problem(after.path, None, what))
    _check_proven(numbered, report)
    if numbered:
        folder = numbered[-1].path.parent
        _check_final(numbered[-1], folder in folders and not is_locked(folder), report)


def _check_proven(checks: list[_SegmentCheck], report: Report) -> None:
    """What the kernel handed out in a run and nobody has seen, is told once, with the last footer that says it."""
    malformed: Counter[StreamId] = Counter()
    last: dict[StreamId, tuple[Path, Totals]] = {}
    for check in checks:
        malformed.update({key: of.malformed_pages for key, of in check.tally.streams.items()})
        if check.footer is not None:
            last.update({of.stream: (check.path, of.closing) for of in check.footer.streams})
    for key, (path, closing) in sorted(last.items()):
        unproven = closing.unproven(malformed[key])
        what = f"{key[0]} CPU {key[1]}: {unproven}"
        if not unproven.is_nothing:
            report.problems.append(Problem(path, None, what))
        elif unproven.malformed_pages:
            report.notes.append(f"{path}: {what}")


def _removed_behind(check: _SegmentCheck) -> bool:
    """Whether retention says that it removed what stood behind a segment, which then was pinned or waited for."""
    return check.path.name < read_removed_up_to(check.path.parent)


def _check_final(final: _SegmentCheck, final_known: bool, report: Report) -> None:
    """The last segment of a run says that it is the last, or that a crash ended the run."""
    footer = final.footer
    if footer is None or final.damaged:
        return  # told already, or being written
    unsettled = [s for s in footer.streams if not s.closing.settled]
    if footer.last:
        if unsettled:
            left = sum(s.closing.left_in_kernel for s in footer.streams)
            what = f"{len(unsettled)} streams are not settled, {left} entries were left in the kernel"
            report.notes.append(f"{final.path}: {what}")
    elif footer.reason == RECOVERED:
        report.notes.append(f"{final.path}: its run ended in a crash; what the last moments lost is not known")
    elif _removed_behind(final):
        report.notes.append(f"{final.path}: the rest of its run was removed by retention")
    elif final_known:
        what = "its run does not end here, but nothing of it follows; after a crash, run `recover` on the folder"
        report.problems.append(Problem(final.path, None, what))
