"""Prints the reports of an archive: the kernel's own text for each new maximum, with what it is the maximum of."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TextIO

from collector.archive.lock import is_locked
from collector.archive.objects import ReportObject, parse_report
from collector.archive.reader import list_segments, open_segment
from collector.errors import ArchiveError, SegmentError
from collector.show.renderers import format_second


def show_reports(paths: Iterable[Path], out: TextIO, format: Literal["fields", "json"] = "fields") -> list[str]:
    """Prints the reports in the order in which they were found; gives what is damaged.

    Raises:
      UsageError, ArchiveError: a path does not exist, or holds no segment.
    """
    damaged = []
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
                        out.write(as_json(report) if format == "json" else as_text(report))
        except SegmentError as e:
            if not (path.name.endswith(".part") and is_locked(path.parent)):
                damaged.append(str(e))
        except OSError as e:
            raise ArchiveError(f"cannot open the segment: {e.strerror}", where=str(path)) from e
    return damaged


def as_json(report: ReportObject) -> str:
    """One object a line."""
    return json.dumps({
        "instance": report.instance, "kind": report.kind, "tracer": report.tracer, "value": report.value,
        "unit": report.unit, "realtime_ns": report.realtime_ns, "text": report.text,
    }) + "\n"  # fmt: skip


def as_text(report: ReportObject) -> str:
    """A line with what it is, and the text."""
    wall = f"{format_second(report.realtime_ns // 10**9)}Z"
    head = f"{report.kind} {report.value} {report.unit}, {report.tracer}, instance {report.instance}, {wall}"
    text = report.text if report.text.endswith("\n") else f"{report.text}\n"
    return f"{_clean(head)}\n{_clean(text)}\n"


def _clean(text: str) -> str:
    """Names of threads are in it, and they can be anything: nothing of it may steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)
