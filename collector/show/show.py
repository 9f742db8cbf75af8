"""Prints the entries of an archive, merged by time.

The streams of a run are merged lazily, a block of each at a time; runs follow each other, for their clocks need not
compare. What is damaged is passed over and told to the caller.
"""

import heapq
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Literal, TextIO

from collector.archive.block import decode_block
from collector.archive.frame import Damage, Kind, Record
from collector.archive.lock import is_locked
from collector.archive.reader import Place, Segment, list_segments
from collector.archive.totals import StreamId
from collector.errors import ArchiveError, SegmentError, UsageError
from collector.read.segments import Pool, Shown, View
from collector.read.times import Moment, parse_moment, resolve_moment
from collector.read.walltime import wall_clock
from collector.show.json_lines import JsonRenderer
from collector.show.lines import Line, Selection, render_block
from collector.show.renderers import Context, FieldsRenderer, Renderer, TimeMode

# Lines a write: few enough that `show | head` ends soon, many enough that writing costs nothing.
_LINES = 512


def show_paths(
    paths: Iterable[Path],
    out: TextIO,
    since: int | str | None = None,
    until: int | str | None = None,
    cpus: Collection[int] | None = None,
    event_globs: Sequence[str] | None = None,
    pids: Collection[int] | None = None,
    limit: int | None = None,
    format: Literal["fields", "json"] = "fields",
    time: TimeMode = "trace",
) -> Shown:
    """Prints entries in the order of time.

    Args:
      since, until: both included; a value of the trace clock, or text as parse_moment takes it.
      event_globs: `system:name`, globs on both sides; without a colon, a system or a name.
      limit: lines at most.
      time: trace: the trace clock's value; wall: wall time, with its error bound in json; both.
    Raises:
      UsageError, ArchiveError: a path does not exist, holds no segment, or a bound cannot be applied.
      SegmentError: no segment can be read at all.
    """
    shown = Shown()
    if format not in ("fields", "json"):
        raise UsageError("unknown format", got=repr(format), expected="fields or json")
    if time not in ("trace", "wall", "both"):
        raise UsageError("unknown kind of time", got=repr(time), expected="trace, wall or both")
    renderer: Renderer = JsonRenderer() if format == "json" else FieldsRenderer()
    bounds = _moment(since), _moment(until)
    matcher = EventMatcher(event_globs) if event_globs else None
    pool = Pool(shown)
    try:
        runs = _plan(list_segments(paths), pool, bounds, cpus)
        if time != "trace":
            _check_wall_times(runs, pool)
        instances = {stream[0] for run in runs for stream in run}
        budget = limit
        for run in runs:
            streams = [
                _stream_lines(places, number, pool, renderer, len(instances) > 1, pids, matcher, time)
                for number, (_, places) in enumerate(sorted(run.items()))
            ]
            lines: Iterator[str] = map(itemgetter(2), heapq.merge(*streams))
            printed = _write(islice(lines, budget), out)
            shown.events += printed
            budget = None if budget is None else budget - printed
        out.flush()
    except BrokenPipeError:
        shown.closed = True
        _silence(out)
    finally:
        pool.close()
    return shown


def _moment(value: int | str | None) -> Moment | None:
    if isinstance(value, int):
        return Moment(value, "raw", str(value))
    return None if value is None else parse_moment(value)


def _write(lines: Iterator[str], out: TextIO) -> int:
    printed = 0
    while batch := list(islice(lines, _LINES)):
        text = "".join(batch)
        try:
            out.write(text)
        except UnicodeEncodeError:
            encoding = out.encoding or "ascii"
            out.write(text.encode(encoding, "backslashreplace").decode(encoding))
        printed += len(batch)
    return printed


def _silence(out: TextIO) -> None:
    """Keeps the interpreter from complaining about the broken pipe when it flushes at exit."""
    try:
        fd = out.fileno()
    except (OSError, ValueError, AttributeError):
        return
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, fd)
    os.close(null)


class EventMatcher:
    """Whether an event's name fits one of some globs; remembers the answers."""

    def __init__(self, globs: Sequence[str]) -> None:
        self._globs = globs
        self._known: dict[str, bool] = {}

    def __call__(self, full_name: str) -> bool:
        found = self._known.get(full_name)
        if found is None:
            found = self._known[full_name] = any(self._fits(full_name, glob) for glob in self._globs)
        return found

    @staticmethod
    def _fits(full_name: str, glob: str) -> bool:
        system, _, name = full_name.partition(":")
        if ":" not in glob:
            return fnmatchcase(system, glob) or fnmatchcase(name, glob)
        wanted_system, _, wanted_name = glob.partition(":")
        return fnmatchcase(system, wanted_system) and fnmatchcase(name, wanted_name or "*")


@dataclass(frozen=True, slots=True)
class _Part:
    """The wanted records of one stream in one segment."""

    path: Path
    stream: StreamId
    places: tuple[Place, ...]
    since: int | None  # in the stream's clock
    until: int | None


_Run = dict[StreamId, list[_Part]]


def _plan(
    files: list[Path], pool: Pool, bounds: tuple[Moment | None, Moment | None], cpus: Collection[int] | None
) -> list[_Run]:
    """Finds the records to read, run by run, without reading them."""
    runs: dict[bytes, _Run] = {}
    last_error: SegmentError | None = None
    for path in files:
        live = path.name.endswith(".part") and is_locked(path.parent)
        try:
            view = pool.view(path)
        except SegmentError as e:
            if not live:
                last_error = e
                pool.shown.damaged.append(str(e))
            continue
        except OSError as e:
            raise ArchiveError(f"cannot open the segment: {e.strerror}", where=str(path)) from e
        _note_damage(view.segment, live, pool.shown)
        by_stream: dict[StreamId, list[Place]] = defaultdict(list)
        for place in view.segment.places:
            if place.stream is not None and place.kind in (Kind.BLOCK, Kind.GAP):
                by_stream[place.stream].append(place)
        run = runs.setdefault(view.segment.run, {})
        for stream, places in by_stream.items():
            if cpus is None or stream[1] in cpus:
                run.setdefault(stream, []).append(_cut_part(view, path, stream, places, bounds))
    if not runs and last_error is not None:
        raise last_error
    return list(runs.values())


def _check_wall_times(runs: list[_Run], pool: Pool) -> None:
    """Wall time is asked for: of each instance, at least one segment must tell it.

    Raises:
      UsageError
    """
    parts: dict[str, list[_Part]] = defaultdict(list)
    for run in runs:
        for stream, of in run.items():
            parts[stream[0]] += of
    for instance, of in parts.items():
        if all(pool.view(part.path).wall(instance) is None for part in of):
            wall_clock(instance, *pool.view(of[0].path).clock_and_pairs(instance), "wall time")


def _note_damage(segment: Segment, live: bool, shown: Shown) -> None:
    """Tells of damage that the way over the index does not meet."""
    if segment.footer is None and not live:
        shown.damaged.append(f"{segment.path}: {segment.footer_fault}")
        for found in segment.records():
            if isinstance(found, Damage):
                shown.damaged.append(f"{segment.path}: {found.length} bytes at {found.offset}: {found.reason}")


def _cut_part(
    view: View, path: Path, stream: StreamId, places: list[Place], bounds: tuple[Moment | None, Moment | None]
) -> _Part:
    """Leaves out blocks that lie outside of the wanted time altogether."""
    since, until = (
        None if moment is None else resolve_moment(moment, stream[0], *view.clock_and_pairs(stream[0]), last=last)
        for moment, last in zip(bounds, (False, True), strict=True)
    )
    kept = tuple(p for p in places if (since is None or p.last_ts >= since) and (until is None or p.first_ts <= until))
    return _Part(path, stream, kept, since, until)


def _stream_lines(
    parts: list[_Part],
    number: int,
    pool: Pool,
    renderer: Renderer,
    with_instance: bool,
    pids: Collection[int] | None,
    matcher: EventMatcher | None,
    time: TimeMode,
) -> Iterator[Line]:
    """Gives the lines of one stream over all segments of its run."""
    wanted_pids = None if pids is None else frozenset(pids)
    last_ts = 0
    for part in parts:
        selection = Selection(part.since, part.until, wanted_pids, matcher)
        instance, cpu = part.stream
        for place in part.places:
            try:
                view = pool.view(part.path)
                if place.kind == Kind.GAP:
                    gap = view.segment.gap_at(place) if renderer.shows_gaps else None
                    if gap is not None:
                        ts = gap.to_ts or gap.from_ts or last_ts
                        yield ts, number, FieldsRenderer.gap(cpu, gap.count, gap.cause)
                    continue
                record = view.segment.record_at(place.offset)
                if not isinstance(record, Record) or record.kind != Kind.BLOCK:
                    raise SegmentError(record if isinstance(record, str) else "not a block where the index says so")
                block = decode_block(record.body, view.formats)
            except (SegmentError, OSError) as e:
                pool.shown.damaged.append(f"{part.path} at {place.offset}: {e}")
                continue
            context = Context(
                cpu, instance if with_instance else None, view.clock(instance), view.threads(instance, place.offset),
                view.symbols, time, view.wall(instance) if time != "trace" else None,
            )  # fmt: skip
            yield from render_block(block, number, renderer, context, selection)
            last_ts = place.last_ts
