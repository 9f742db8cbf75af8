"""Prints the reports of an archive: the kernel's own text for each new maximum, with what it is the maximum of."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TextIO

from collector.archive.lock import is_locked
from collector.archive.objects import ReportObject, parse_report
from collector.archive.reader import list_segments, open_segment
from collector.errors import ArchiveError, SegmentError
from collector.show.renderers import format_second
from collector.show.show import show_paths
from collector.tracefs.formats import INTERNAL_SYSTEM
from collector.tracefs.snapshots import LATENCY_TRACERS, SWAPPING_TRACERS

# The last so many entries before a maximum of a tracer that leaves them in the ring: they led to it.
ENTRIES = 24
_BEFORE_NS = 2_000_000_000  # the daemon looks each second


def show_reports(paths: Iterable[Path], out: TextIO, format: Literal["fields", "json"] = "fields") -> list[str]:
    """Prints the reports in the order in which they were found; gives what is damaged.

    hwlat, osnoise and timerlat keep no text beside the ring, which the daemon has emptied: the archive's own entries
    stand in its place.

    Raises:
      UsageError, ArchiveError: a path does not exist, or holds no segment.
    """
    damaged = []
    paths = list(paths)
    for path in list_segments(paths):
        try:
            with open_segment(path) as segment:
                for offset, stored in segment.objects():
                    if stored.type == "report":
                        try:
                            report = parse_report(stored)
                        except SegmentError as e:
                            damaged.append(f"{path} at {offset}: {e}")
                            continue
                        entries = _entries_before(report, paths, format)
                        out.write(as_json(report, entries) if format == "json" else as_text(report, entries))
        except SegmentError as e:
            if not (path.name.endswith(".part") and is_locked(path.parent)):
                damaged.append(str(e))
        except OSError as e:
            raise ArchiveError(f"cannot open the segment: {e.strerror}", where=str(path)) from e
    return damaged


def _entries_before(report: ReportObject, paths: list[Path], format: Literal["fields", "json"]) -> list[str] | None:
    """The lines of the entries that led to a maximum; None where the kernel's text has them."""
    if report.tracer not in LATENCY_TRACERS - SWAPPING_TRACERS or report.trace_ts is None:
        return None
    found = io.StringIO()
    event = f"{INTERNAL_SYSTEM}:{report.tracer}"
    show_paths(paths, found, max(0, report.trace_ts - _BEFORE_NS), report.trace_ts, event_globs=[event], format=format)
    return found.getvalue().splitlines()[-ENTRIES:]


def as_json(report: ReportObject, entries: list[str] | None = None) -> str:
    """One object a line.

    Args:
      entries: what led to the maximum, as lines of JSON; None: the text has it.
    """
    more = {
        key: value
        for key, value in (
            ("clock", report.clock), ("trace_ts", report.trace_ts), ("text_value", report.text_value),
            ("entries", None if entries is None else [json.loads(line) for line in entries]),
        )
        if value not in (None, "")
    }  # fmt: skip
    return json.dumps({
        "instance": report.instance, "kind": report.kind, "tracer": report.tracer, "value": report.value,
        "unit": report.unit, "realtime_ns": report.realtime_ns, "values": report.values, "text": report.text, **more,
    }) + "\n"  # fmt: skip


def as_text(report: ReportObject, entries: list[str] | None = None) -> str:
    """A line with what it is, and the text, or the entries that led to it."""
    wall = f"{format_second(report.realtime_ns // 10**9)}Z"
    head = f"{report.kind} {report.value} {report.unit}, {report.tracer}, instance {report.instance}, {wall}"
    if report.clock:
        head += f", clock {report.clock}"
    if report.values > 1:
        head += f", {report.values} new values since the report before"
    if report.text_value is not None:
        head += f"; THE TEXT IS OF ANOTHER ONE, of {report.text_value} {report.unit}"
    text = report.text if report.text.endswith("\n") else f"{report.text}\n"
    if entries is not None:
        text += "".join(f"{line}\n" for line in entries)
    return f"{_clean(head)}\n{_clean(text)}\n"


def _clean(text: str) -> str:
    """Names of threads are in it, and they can be anything: nothing of it may steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
