"""What a segment says of where it comes from: host, kernel, clocks, and from when to when each stream was observed."""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collector.archive.segment import build_header
from collector.archive.totals import StreamId, Totals
from collector.batch import Note, NoteKind, StreamKey
from collector.capture.source import Source
from collector.version import __version__


class Provenance:
    """What the archive asks when a segment begins or ends; called in the archive's thread.

    Args:
      run: id of the run.
      config_hash: names its configuration.
      sources: of the run; more can be added until the first segment begins.
    """

    def __init__(self, run: bytes, config_hash: str, sources: Sequence[Source]) -> None:
        self._run = run
        self._config_hash = config_hash
        self._sources = sources
        self._since: dict[StreamId, int] = {}  # {stream: trace clock at the open segment's start}

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        ids = [(source.name, cpu) for source in self._sources for cpu in source.cpus]
        return build_header(
            run=self._run,
            segment=number,
            host=socket.gethostname(),
            boot_id=boot_id(),
            kernel=self._sources[0].tree.read_uname() or " ".join(os.uname()[i] for i in (0, 2, 3, 4)),
            created_ns=time.time_ns(),
            tool=f"ftrace-collector {__version__}",
            config_hash=self._config_hash,
            instances={source.name: source.header() for source in self._sources},
            opening={key: (opening or {}).get(key, Totals()) for key in ids},
        )

    def opening_notes(self) -> Sequence[Note]:
        return self._look(self._begin)

    def closing_notes(self) -> Sequence[Note]:
        return self._look(self._end)

    def _look(self, coverage: Callable[[StreamKey, int, int], Note]) -> list[Note]:
        """A pair of clock readings of each instance, and of each of its streams what `coverage` makes of them.

        Args:
          coverage: (stream, trace clock, wall time) -> note
        """
        notes = []
        for source in self._sources:
            pair = clock_note(source)
            if pair is not None:
                now_ts, at_ns = pair.body["trace"], pair.body["realtime_ns"]
                notes += [pair, *(coverage(stream.key, now_ts, at_ns) for stream in source.streams)]
        return notes

    def _begin(self, key: StreamKey, now_ts: int, at_ns: int) -> Note:
        self._since[(key.instance, key.cpu)] = now_ts
        return _coverage(key, now_ts, None, at_ns)

    def _end(self, key: StreamKey, now_ts: int, at_ns: int) -> Note:
        return _coverage(key, self._since.get((key.instance, key.cpu), now_ts), now_ts, at_ns)


def boot_id() -> str:
    """Names this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def clock_note(source: Source) -> Note | None:
    """A pair of clock readings of the instance, now; None when its clock has no wall time."""
    pair = source.clock_pair()
    if pair is None or not source.streams:
        return None
    body = {
        "trace": pair.trace, "realtime_ns": pair.realtime_ns, "boottime_ns": pair.boottime_ns,
        "monotonic_ns": pair.monotonic_ns, "error_ns": pair.error_ns,
    }  # fmt: skip
    return Note(NoteKind.CLOCK, source.streams[0].key, body)


def _coverage(key: StreamKey, from_ts: int, to_ts: int | None, at_ns: int) -> Note:
    return Note(NoteKind.COVERAGE, key, {"from_ts": from_ts, "to_ts": to_ts, "state": "observed", "at_ns": at_ns})
