"""Seals what a crash left open: each stale `.part` is cut back to its last good record and gets a footer.

Nothing is ever deleted: a file without a readable header is set aside under another name. Nothing stops the recovery
of the other files, and doing it twice changes nothing. A run that a crash ended between two segments is closed by
a segment without blocks, so that every run has an end that says what it is.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from collector.archive import disk
from collector.archive.bodies import (
    Header,
    parse_block,
    parse_coverage,
    parse_footer,
    parse_gap,
    parse_header,
    parse_sample,
)
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, Record, build_record, build_trailer
from collector.archive.lock import ArchiveLock
from collector.archive.objects import parse_object
from collector.archive.reader import Segment
from collector.archive.reserve import give_up_reserve
from collector.archive.segment import PART_SUFFIX, SUFFIX, SegmentWriter, disk_error, rename_segment
from collector.archive.tally import RECOVERED, SegmentTally
from collector.archive.totals import StreamId, Totals, build_totals
from collector.errors import ArchiveError, SegmentError

BAD_SUFFIX = ".ftseg.part.bad"
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of one stale `.part`."""

    path: Path  # its name now
    blocks: int
    events: int
    cut_bytes: int  # of the torn tail
    reason: str  # recovered: sealed; sealed: only the rename was missing; quarantined: ...; failed: ...


def recover_folder(folder: Path, *, holds_lock: bool = False, up_to_damage: bool = False) -> list[Recovered]:
    """Seals every stale `.part` of an archive.

    Args:
      holds_lock: the caller has the archive's lock already, as the daemon at its start.
      up_to_damage: what comes behind a damaged record is cut off too, for it will come again: a loss of power leaves
        damage in what nobody has synced, and so told nobody that it has it.
    Raises:
      ArchiveLockedError: a live process writes this archive.
      ArchiveError: no such folder, or it cannot be written.
    """
    if not folder.is_dir():
        raise ArchiveError("no such folder", where=str(folder), expected="an archive's folder")
    if holds_lock:
        return _recover_with_reserve(folder, up_to_damage)
    try:
        lock = ArchiveLock(folder)
    except OSError as e:
        raise disk_error(folder, e, "lock the archive") from e
    with lock:
        return _recover_with_reserve(folder, up_to_damage)


def _recover_with_reserve(folder: Path, up_to_damage: bool) -> list[Recovered]:
    """Gives up the archive's reserve of disk space where something failed, and tries that again."""
    done = _recover_all(folder, up_to_damage)
    failed = [found for found in done if found.reason.startswith(FAILED)]
    if failed and give_up_reserve(folder):
        done = [found for found in done if found not in failed] + _recover_all(folder, up_to_damage)
    return done


def _recover_all(folder: Path, up_to_damage: bool) -> list[Recovered]:
    done = []
    for path in sorted(p for p in folder.iterdir() if p.name.endswith(PART_SUFFIX)):
        try:
            done.append(_recover(path, up_to_damage))
        except OSError as e:
            done.append(Recovered(path, 0, 0, 0, f"{FAILED}: {e.strerror}; see to the filesystem and try again"))
    for path in _ends_of_runs(folder):
        try:
            done.append(_close_run(path))
        except (OSError, ArchiveError) as e:
            done.append(Recovered(path, 0, 0, 0, f"{FAILED}: {e}; see to the filesystem and try again"))
    try:
        disk.fsync_folder(folder)  # in any case: who died may have renamed a segment, and not come to this
    except OSError as e:
        raise disk_error(folder, e, "sync the archive's folder") from e
    return done


def _ends_of_runs(folder: Path) -> list[Path]:
    """Gives the last segment of each run that neither ended in order nor was recovered.

    A crash after one segment was sealed and before the next was begun leaves such a run.
    """
    last: dict[bytes, tuple[int, Path, bool]] = {}  # {run: (segment number, path, whether the run is closed)}
    for path in sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIX)):
        try:
            with Segment(path) as segment:
                if segment.number is None or segment.number < last.get(segment.run, (-1,))[0]:
                    continue
                footer = segment.footer
                closed = footer is None or segment.header is None or footer.last or footer.reason == RECOVERED
                last[segment.run] = segment.number, path, closed
        except (OSError, SegmentError):
            continue  # for `verify` to tell
    return [path for _, path, closed in last.values() if not closed]


def _close_run(path: Path) -> Recovered:
    """Writes a segment without blocks behind the last one of a run: from there on, nothing is known."""
    with Segment(path) as segment:
        head = segment.record_at(0)
        if isinstance(head, str) or segment.footer is None or segment.header is None:
            raise SegmentError("changed while it was recovered", where=str(path))
        header = unpack(head.body, "header")
        closing = {s.stream: s.closing for s in segment.footer.streams}
        created_ns = max(segment.footer.sealed_ns, segment.header.created_ns) + 1000
    header |= {
        "segment": header["segment"] + 1,
        "created_ns": created_ns,  # not now: the name must sort behind the run's others and before the next run's
        "streams": [list(key) for key in closing],
        "opening": [build_totals(totals) for totals in closing.values()],
    }
    unsettled = {key: replace(totals, residual=None, settled=False) for key, totals in closing.items()}
    return Recovered(SegmentWriter.create(path.parent, header).seal(unsettled, RECOVERED, False), 0, 0, 0, RECOVERED)


def _recover(path: Path, up_to_damage: bool) -> Recovered:
    try:
        with Segment(path) as segment:
            if segment.header is None:
                return _set_aside(path, f"its header does not read ({segment.header_fault})")
            state = _Scan(segment.header, {key: of.full_name for key, of in segment.formats.items()})
            for found in segment.records():
                if isinstance(found, Record) and state.add(found):
                    break
                if up_to_damage and state.end != found.end:
                    break
            size_bytes = segment.size_bytes
    except SegmentError as e:
        return _set_aside(path, e.what)
    final = path.with_name(path.name.removesuffix(".part"))
    if final.exists():
        return _set_aside(path, f"{final.name} exists already")
    try:
        ending = state.ending()
    except (ValueError, OverflowError) as e:  # what somebody else sent, for we write no such names and counts
        return _set_aside(path, f"no footer can hold what it has ({e})")
    fd = disk.open_again(path)
    try:
        if size_bytes != state.end + len(ending) or os.pread(fd, len(ending), state.end) != ending:
            # The ending goes over the torn tail before what is left of that is cut: a crash here is recovered again.
            disk.write_whole(fd, ending, state.end)
            disk.truncate(fd, state.end + len(ending))
        disk.fsync(fd)
    finally:
        os.close(fd)
    rename_segment(path, final)
    cut_bytes = max(size_bytes - state.end, 0) if state.footer is None else 0
    reason = RECOVERED if state.footer is None else "sealed"
    return Recovered(final, state.tally.blocks, state.tally.events, cut_bytes, reason)


def _set_aside(path: Path, why: str) -> Recovered:
    """Renames a file that cannot be sealed, never over another one."""
    stem, number = path.name.removesuffix(PART_SUFFIX), 0
    target = path.with_name(stem + BAD_SUFFIX)
    while target.exists():
        number += 1
        target = path.with_name(f"{stem}.{number}{BAD_SUFFIX}")
    disk.rename(path, target)
    return Recovered(target, 0, 0, 0, f"quarantined: {why}")


class _Scan:
    """Adds up the good records of a `.part` up to its footer, where it came as far.

    Args:
      names: {format object id: "system:name"} of all formats in the file: a block may need the second copy.
    """

    def __init__(self, header: Header, names: Mapping[bytes, str], clock: Callable[[], int] = time.time_ns) -> None:
        self.header = header
        self.tally = SegmentTally(header.opening)
        self.end = 0  # of the last good record before the footer
        self.footer: Record | None = None
        self._clock = clock
        self._samples: dict[StreamId, Totals] = {}
        self._names = names
        self._formats: dict[bytes, list[bytes]] = {}  # {object id: its copies}
        self._last: dict[StreamId, int] = {}  # {stream: number of its last block}

    def add(self, record: Record) -> bool:
        """Adds a record; True when it is the footer, after which nothing counts."""
        if self._take(record) and self.footer is None:
            self.end = record.end
        return self.footer is not None

    def _take(self, record: Record) -> bool:
        """False for what a torn tail happened to carry: another run's records, second copies, blocks without format."""
        key, first_ts, last_ts = None, 0, 0
        try:
            match record.kind:
                case Kind.FOOTER:
                    # One that came to the disk before the records that it tells of would call them complete.
                    found = parse_footer(record.body)
                    held = self.end == record.offset and found.records_crc == self.tally.records_crc
                    if found.run != self.header.run or not held:
                        return False
                    self.footer = record
                    return True
                case Kind.HEADER:
                    if record.offset or parse_header(record.body).run != self.header.run:
                        return False
                case Kind.BLOCK:
                    block = parse_block(record.body)
                    if block.run != self.header.run or block.number <= self._last.get(block.stream, -1):
                        return False
                    if any(kind.format_id not in self._names for kind in block.kinds):
                        return False  # a power cut took its format, so nobody can read it
                    self._last[block.stream] = block.number
                    self.tally.add_block(
                        record.offset, record.crc, block.stream, block.number, block.entries, block.first_ts,
                        block.last_ts, block.raw_bytes, block.gaps, block.kinds, self._names,
                    )  # fmt: skip
                    return True
                case Kind.OBJECT:
                    stored = parse_object(record.body)
                    if stored.type == "format":
                        self._formats.setdefault(stored.id, []).append(bytes(record.body))
                case Kind.SAMPLE:
                    sample = parse_sample(record.body)
                    if sample.run != self.header.run:
                        return False
                    key = sample.stream
                    self._samples[key] = sample.totals
                case Kind.GAP:
                    gap = parse_gap(record.body)
                    key, first_ts, last_ts = gap.stream, gap.from_ts or 0, gap.to_ts or 0
                    self.tally.add_gap(key, gap.cause, gap.count)
                case Kind.COVERAGE:
                    seen = parse_coverage(record.body)
                    key, first_ts, last_ts = seen.stream, seen.from_ts, seen.to_ts or 0
                case _:
                    return False
        except SegmentError:
            return False
        self.tally.add_record(record.offset, record.kind, record.crc, key, first_ts, last_ts)
        return True

    def ending(self) -> bytes:
        """Gives what comes behind the good records: the footer and trailer that the file has, or new ones.

        Before new ones stand second copies of the formats, as SegmentWriter.write_formats_again makes them.
        """
        if self.footer is not None:
            at = self.footer.offset
            return build_record(Kind.FOOTER, bytes(self.footer.body)) + build_trailer(at, self.footer.length)
        # What the kernel said last is all that is known of its side; what was on its way since then is lost with the
        # crash, so nothing is settled.
        copies = b""
        for only in [found[0] for found in self._formats.values() if len(found) == 1]:
            copy = build_record(Kind.OBJECT, only)
            self.tally.add_record(self.end + len(copies), Kind.OBJECT, int.from_bytes(copy[-4:], "big"))
            copies += copy
        closing = {key: replace(totals, residual=None, settled=False) for key, totals in self._samples.items()}
        body = self.tally.build_footer(self.header.run, self.header.segment, closing, RECOVERED, False, self._clock())
        footer = build_record(Kind.FOOTER, pack(body))
        return copies + footer + build_trailer(self.end + len(copies), len(footer))
