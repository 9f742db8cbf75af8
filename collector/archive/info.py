"""What an archive holds, in numbers: from the footers of sealed segments, by reading those that have none."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from collector.archive.bodies import Clock, GapBody, parse_block, parse_gap, parse_sample
from collector.archive.frame import Damage, Kind, Record
from collector.archive.lock import is_locked
from collector.archive.objects import parse_clock
from collector.archive.reader import Segment, list_segments, open_segment
from collector.archive.tally import CRASH, RECOVERED, SegmentTally
from collector.archive.totals import StreamId, Totals
from collector.config.text import format_size
from collector.errors import ArchiveError, SegmentError
from collector.ledger import MALFORMED, Unproven


@dataclass(slots=True)
class _Stream:
    """Sums over the segments of one run."""

    first: Totals | None = None  # the opening totals of the first segment that is here
    closing: Totals = field(default_factory=Totals)
    events: int = 0
    raw_bytes: int = 0
    blocks: int = 0
    gaps: int = 0
    gap_known_events: int = 0
    unknown_gaps: int = 0
    by_event: Counter[str] = field(default_factory=Counter)
    first_ts: int | None = None
    last_ts: int | None = None
    malformed_pages: int = 0
    crash_lost: int | None = None  # entries that a crash took, as the next run told; None: nobody told
    is_recorder: bool = False  # the kernel's counts come with the last sample alone

    def add(
        self, opening: Totals, closing: Totals, by_event: dict[str, int], first_ts: int | None, last_ts: int | None
    ) -> None:
        self.first = opening if self.first is None else self.first
        self.closing = closing
        self.events += closing.events - opening.events
        self.raw_bytes += closing.raw_bytes - opening.raw_bytes
        self.blocks += closing.blocks - opening.blocks
        self.gaps += closing.gaps - opening.gaps
        self.gap_known_events += closing.gap_known_events - opening.gap_known_events
        self.unknown_gaps += closing.unknown_gaps - opening.unknown_gaps
        self.by_event.update(by_event)
        self.first_ts = first_ts if self.first_ts is None else self.first_ts
        self.last_ts = self.last_ts if last_ts is None else last_ts

    def summary(self) -> dict[str, Any]:
        first = self.first or Totals()
        kernel: dict[str, int | None] = {
            "lost_events": self.closing.told_lost - first.told_lost,
            "overrun": self.closing.told_overrun - first.told_overrun,
            "dropped": self.closing.dropped - first.dropped,
            "commit_overrun": self.closing.commit_overrun - first.commit_overrun,
            "read_events": self.closing.read - first.read,
        }
        if self.is_recorder and not self.closing.settled:
            kernel = dict.fromkeys(kernel)
            if self.crash_lost is not None:  # all that its gaps don't tell of is told by the run after it
                kernel["lost_events"] = kernel["overrun"] = self.gap_known_events
        unproven = self.unproven()
        return {
            "events": self.events,
            "by_event": dict(sorted(self.by_event.items())),
            **kernel,
            "malformed_pages": unproven.malformed_pages,
            "unexplained": unproven.unexplained,
            "skipped": _grown(first.skipped, self.closing.skipped),
            "decode_errors": _grown(first.decode_errors, self.closing.decode_errors),
            "gaps": self.gaps,
            "gap_known_events": self.gap_known_events,
            "unknown_gaps": self.unknown_gaps,
            "residual": self._residual(),
            "crash_lost_events": self.crash_lost or 0,
            "left_in_kernel": self.closing.left_in_kernel,
            "blocks": self.blocks,
            "raw_bytes": self.raw_bytes,
            "first_ts_ns": self.first_ts,
            "last_ts_ns": self.last_ts,
        }

    def unproven(self) -> Unproven:
        """What nobody can prove of the time that the segments cover."""
        found = self.closing.unproven(self.malformed_pages)
        before = self.first.unexplained if self.first is not None else 0
        return found if found.unexplained is None else replace(found, unexplained=found.unexplained - before)

    def _residual(self) -> int | None:
        if self.crash_lost is not None:
            return 0  # the run after the crash has counted what was missing
        return self.closing.residual if self.closing.settled else None


def _grown(first: Mapping[str, int], last: Mapping[str, int]) -> dict[str, int]:
    """{reason: by how much its count has grown}, of those that have."""
    grown = {reason: n - first.get(reason, 0) for reason, n in sorted(last.items())}
    return {reason: n for reason, n in grown.items() if n}


@dataclass(slots=True)
class _Run:
    """One start of the daemon."""

    id: bytes
    streams: dict[StreamId, _Stream] = field(default_factory=dict)
    clocks: dict[str, Clock] = field(default_factory=dict)
    recorders: set[str] = field(default_factory=set)  # instances whose kernel's counts are not known all the time
    reports: int = 0
    segments: int = 0
    host: str = ""
    kernel: str = ""
    created_ns: int | None = None
    sealed_ns: int | None = None
    ended: str = "open"  # how the last segment ended
    wall_offset_ns: dict[str, int] = field(default_factory=dict)  # {instance: wall time - trace time}
    crash_gaps: dict[StreamId, int] = field(default_factory=dict)  # what it found an earlier run to have lost


def summarise(paths: Iterable[Path]) -> dict[str, Any]:
    """Gives the sums of the segments in folders or named themselves, ready for JSON.

    Numbers of the kernel are those of the time that the segments cover. Times are the raw values of the trace clock.

    Raises:
      UsageError, ArchiveError: a path does not exist, or holds no segment.
    """
    runs: dict[bytes, _Run] = {}
    files = list_segments(paths)
    damaged: list[str] = []
    archive_bytes = 0
    for path in files:
        try:
            with open_segment(path) as segment:
                archive_bytes += segment.size_bytes
                _add_segment(segment, runs.setdefault(segment.run, _Run(segment.run)), damaged)
        except SegmentError as e:
            if not (path.name.endswith(".part") and is_locked(path.parent)):
                damaged.append(str(e))
        except OSError as e:
            raise ArchiveError(f"cannot open the segment: {e.strerror}", where=str(path)) from e
    return _build_summary(list(runs.values()), len(files), archive_bytes, damaged)


def _add_segment(segment: Segment, run: _Run, damaged: list[str]) -> None:
    run.segments += 1
    if segment.header is not None:
        run.clocks.update(segment.header.clocks)
        run.recorders |= segment.header.recorders
        run.host, run.kernel = segment.header.host, segment.header.kernel
        run.created_ns = segment.header.created_ns if run.created_ns is None else run.created_ns
    else:
        damaged.append(f"{segment.path}: the header does not read: {segment.header_fault}")
    if segment.footer is None:
        _add_unsealed(segment, run, damaged)
    else:
        for of in segment.footer.streams:
            stream = run.streams.setdefault(of.stream, _Stream())
            stream.add(of.opening, of.closing, of.by_event, of.first_ts, of.last_ts)
        for place in segment.places:
            gap = segment.gap_at(place) if place.kind == Kind.GAP else None
            if gap is not None:
                _note_gap(run, gap)
        run.sealed_ns = segment.footer.sealed_ns
        run.ended = segment.footer.reason if segment.footer.last or segment.footer.reason == "recovered" else "open"
    run.reports += sum(1 for type_name in segment.object_types() if type_name == "report")
    if not run.wall_offset_ns:
        for offset, stored in segment.objects():
            if stored.type == "clock":
                try:
                    pair = parse_clock(stored)
                except SegmentError as e:
                    damaged.append(f"{segment.path}: at {offset}: {e}")
                    continue
                run.wall_offset_ns[pair.instance] = pair.realtime_ns - pair.trace


def _add_unsealed(segment: Segment, run: _Run, damaged: list[str]) -> None:
    """Re-adds a segment without a footer from its records."""
    live = segment.is_part and is_locked(segment.path.parent)
    if not live:
        damaged.append(f"{segment.path}: {segment.footer_fault}")
    tally = SegmentTally({} if segment.header is None else segment.header.opening)
    names = {key: of.full_name for key, of in segment.formats.items()}
    samples: dict[StreamId, Totals] = {}
    for found in segment.records():
        if isinstance(found, Damage):
            if not (live and found.end >= segment.size_bytes):
                damaged.append(f"{segment.path}: {found.length} bytes at {found.offset}: {found.reason}")
            continue
        try:
            _add_record(found, run, tally, samples, names)
        except SegmentError as e:
            damaged.append(f"{segment.path}: at {found.offset}: {e}")
    for key in samples:
        tally.stream(key)
    for key, of in tally.streams.items():
        stream = run.streams.setdefault(key, _Stream())
        stream.add(of.opening, of.closing(samples.get(key)), dict(of.by_event), of.first_ts, of.last_ts)
    run.ended = "open"


def _add_record(
    found: Record, run: _Run, tally: SegmentTally, samples: dict[StreamId, Totals], names: dict[bytes, str]
) -> None:
    if found.kind == Kind.SAMPLE:
        sample = parse_sample(found.body)
        samples[sample.stream] = sample.totals
    elif found.kind == Kind.GAP:
        gap = parse_gap(found.body)
        tally.add_gap(gap.stream, gap.cause, gap.count)
        _note_gap(run, gap)
    elif found.kind == Kind.BLOCK:
        head = parse_block(found.body)
        tally.add_block(
            found.offset, found.crc, head.stream, head.number, head.entries, head.first_ts, head.last_ts,
            head.raw_bytes, head.gaps, head.kinds, names,
        )  # fmt: skip


def _note_gap(run: _Run, gap: GapBody) -> None:
    if gap.cause == MALFORMED:
        run.streams.setdefault(gap.stream, _Stream()).malformed_pages += 1
    if gap.cause == CRASH and gap.count is not None:
        run.crash_gaps[gap.stream] = gap.count


def _settle_crashes(runs: list[_Run]) -> None:
    """Give each crashed run what the run after it found missing."""
    crashed: dict[StreamId, list[_Stream]] = {}
    for run in runs:
        for key, lost in run.crash_gaps.items():
            for before in crashed.pop(key, []):
                before.crash_lost, lost = lost, 0
        if run.ended == RECOVERED:
            for key, of in run.streams.items():
                # A run that was killed at its start has told nothing of the one before: what is missing is that one's.
                crashed[key] = [of] if of.blocks else [*crashed.get(key, []), of]


def _build_summary(runs: list[_Run], segments: int, archive_bytes: int, damaged: list[str]) -> dict[str, Any]:
    _settle_crashes(runs)
    streams: list[dict[str, Any]] = []
    for run in runs:
        for (name, cpu), of in sorted(run.streams.items()):
            of.is_recorder = name in run.recorders
            clock = run.clocks.get(name, Clock("?", "?"))
            about = {"run": run.id.hex(), "instance": name, "cpu": cpu, "clock": clock.name, "clock_unit": clock.unit}
            streams.append(about | of.summary())
    by_event: Counter[str] = Counter()
    for stream in streams:
        by_event.update(stream["by_event"])
    residuals = [s["residual"] for s in streams]
    # An open run is unsettled even where its last sample was: entries come in between.
    open_ended = any(run.ended == "open" for run in runs)
    sums = {key: sum(s[key] for s in streams) for key in _SUMMED}
    lost = [s["lost_events"] for s in streams]
    unexplained = [s["unexplained"] for s in streams]
    return {
        "events": sums["events"],
        "by_event": dict(sorted(by_event.items(), key=lambda item: (-item[1], item[0]))),
        "lost_events": None if None in lost else sum(lost),
        "gaps": sums["gaps"],
        "gap_known_events": sums["gap_known_events"],
        "unknown_gaps": sums["unknown_gaps"],
        "malformed_pages": sums["malformed_pages"],
        "unexplained": None if None in unexplained else sum(unexplained),
        "residual": None if open_ended or None in residuals or damaged else sum(residuals),
        "left_in_kernel": sums["left_in_kernel"],
        "crash_lost_events": sums["crash_lost_events"],
        "reports": sum(run.reports for run in runs),
        "segments": segments,
        "blocks": sums["blocks"],
        "archive_bytes": archive_bytes,
        "raw_bytes": sums["raw_bytes"],
        "first_ts_ns": min((s["first_ts_ns"] for s in streams if s["first_ts_ns"] is not None), default=None),
        "last_ts_ns": max((s["last_ts_ns"] for s in streams if s["last_ts_ns"] is not None), default=None),
        "clock": sorted({s["clock"] for s in streams}),
        "runs": [_run_summary(run) for run in runs],
        "streams": streams,
        "damaged": damaged,
    }


_SUMMED = (
    "events", "malformed_pages", "gaps", "gap_known_events", "unknown_gaps", "left_in_kernel", "crash_lost_events",
    "blocks", "raw_bytes",
)  # fmt: skip


def _run_summary(run: _Run) -> dict[str, Any]:
    return {
        "run": run.id.hex(),
        "host": run.host,
        "kernel": run.kernel,
        "segments": run.segments,
        "created_ns": run.created_ns,
        "sealed_ns": run.sealed_ns,
        "ended": run.ended,
        "wall_offset_ns": run.wall_offset_ns,
        "reports": run.reports,
    }


def format_table(summary: dict[str, Any]) -> str:
    """Gives the sums of `summarise` for people."""
    residual = summary["residual"]
    events, archive_bytes = summary["events"], summary["archive_bytes"]
    lines = [
        f"events       {events:,}",
        f"lost         {_number(summary['lost_events'])}" + (_gap_words(summary) if summary["gaps"] else ""),
        *(
            [f"crashes      {summary['crash_lost_events']:,} entries were read but not archived"]
            if summary["crash_lost_events"]
            else []
        ),
        *([f"unproven     {unproven}"] if (unproven := str(_unproven(summary))) else []),
        f"residual     {'unsettled' if residual is None else residual}",
        *([f"reports      {summary['reports']}, `show --reports` prints them"] if summary["reports"] else []),
        f"segments     {summary['segments']}, {format_size(archive_bytes)}"
        + (f", {archive_bytes / events:.2f} bytes an event" if events else "")
        + (f", from {format_size(summary['raw_bytes'])} in the kernel's pages" if summary["raw_bytes"] else ""),
    ]
    for run in summary["runs"]:
        start = "" if run["created_ns"] is None else _wall(run["created_ns"])
        end = "open" if run["sealed_ns"] is None else _wall(run["sealed_ns"])
        lines.append(f"run          {run['run'][:8]} on {run['host']}, {start} to {end}, {run['ended']}")
    lines += ["", f"{'instance':<24} {'cpu':>4} {'events':>14} {'lost':>12} {'gaps':>7} {'residual':>9}  clock"]
    for s in summary["streams"]:
        lines.append(
            f"{_clean(s['instance']):<24} {s['cpu']:>4} {s['events']:>14,} {_number(s['lost_events']):>12} "
            f"{s['gaps']:>7} {_number(s['residual']):>9}  {_clean(s['clock'])}"
        )
    lines += ["", f"{'event':<48} {'entries':>14}"]
    lines += [f"{_clean(name):<48} {n:>14,}" for name, n in summary["by_event"].items()]
    lines += [f"DAMAGED      {what}" for what in summary["damaged"]]
    return "\n".join(lines) + "\n"


def _unproven(summary: Mapping[str, Any]) -> Unproven:
    return Unproven(summary["malformed_pages"], summary["unexplained"])


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"


def _gap_words(summary: dict[str, Any]) -> str:
    return f", seen as {summary['gaps']} gaps, {summary['unknown_gaps']} of them without a count"


def _wall(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _clean(text: str) -> str:
    """Names come from the kernel and from other programs: nothing of them may steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
