"""Reports: text that the kernel keeps in a file until something larger replaces it.

    tracing_max_latency   the instance's trace    of the latency tracers: the longest latency, and what led to it
    stack_max_size        stack_trace             of the stack tracer: the deepest kernel stack

Each new maximum is read as soon as a look sees it. Of two between two looks the larger alone is there to be read; where
the kernel tells of each change of the file (5.7), how many there were is counted, as far as they were not at once.

The tracers that swap rings can't swap while `trace` is read, so a maximum of that moment has a value and never a text;
`snapshot`, the same ring, answers EBUSY to everybody. With the option pause-on-trace off (5.8) nothing else stops
meanwhile. What text and value are of different latencies says so.
"""

import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from collector.batch import Note, NoteKind, StreamKey
from collector.control.instance import Instance
from collector.errors import TracefsError, TracefsMissingError
from collector.tracefs.files import Changes, TracefsDir
from collector.tracefs.snapshots import LATENCY_FILE, LATENCY_TRACERS

MAX_TEXT_BYTES = 4 << 20  # a latency trace of full rings can be hundreds of MiB
CUT_MARK = "\n[cut: the text is longer]\n"
_TRIES = 3  # of reading a value and its text at one moment

# What a latency tracer's text says of itself: "# latency: 74 us, #4/4, CPU#0 | ...".
_TEXT_VALUE = re.compile(r"^# latency: (\d+) us\b", re.MULTILINE)

Kind = Literal["latency", "stack"]


@dataclass(frozen=True, slots=True)
class Report:
    """One maximum, as docs/segment-format.md has it."""

    instance: str
    kind: Kind
    tracer: str
    value: int
    unit: str
    realtime_ns: int  # when it was found; it was reached up to a look earlier
    text: str
    clock: str = ""  # of the times in the text; "": it has none
    trace_ts: int | None = None  # the instance's clock when it was found
    text_value: int | None = None  # what the text says it is of, where that is another latency
    values: int = 1  # new values since the report before, this one included, as far as they were noticed

    def note(self, run: bytes) -> Note:
        """What a sink is given."""
        body: dict[str, Any] = {
            "kind": self.kind, "tracer": self.tracer, "value": self.value, "unit": self.unit,
            "realtime_ns": self.realtime_ns, "text": self.text, "clock": self.clock, "values": self.values,
        }  # fmt: skip
        for key, more in (("trace_ts", self.trace_ts), ("text_value", self.text_value)):
            if more is not None:
                body[key] = more
        return Note(NoteKind.REPORT, StreamKey(run, self.instance, 0), body)


class Watch:
    """Looks at one maximum again and again.

    Args:
      tree: the folder of both files.
      instance: that the report is of.
      value_file, text_file: their names.
      clock: of the times in the text.
    """

    def __init__(
        self, tree: TracefsDir, instance: str, kind: Kind, tracer: str, unit: str, value_file: str, text_file: str,
        clock: str = "",
    ) -> None:  # fmt: skip
        self.instance = instance
        self.kind = kind
        self._tree = tree
        self._tracer = tracer
        self._unit = unit
        self._value_file = value_file
        self._text_file = text_file
        self._clock = clock
        self._changes: Changes | None = tree.watch_changes(value_file)
        self._lock = threading.Lock()
        self._noticed = 0  # changes since the last look
        self._last = 0

    @property
    def fd(self) -> int | None:
        """Is readable when the value has changed: then note_change() should be called soon. None: nobody tells."""
        return self._changes.fd if self._changes is not None else None

    def note_change(self) -> None:
        """Count changes of the value; those that come before the last one was taken are one. From any thread."""
        if self._changes is not None:
            with self._lock:
                self._noticed += self._changes.take()

    def close(self) -> None:
        """No more looks."""
        if self._changes is not None:
            self._changes.close()
            self._changes = None

    def look(self) -> Report | None:
        """The maximum, if it is another one than at the last look.

        A smaller one is new too: somebody has begun anew, or the tracer reports all that exceed a threshold.
        One of the same size is new as well, where the kernel says that the file has changed.

        Raises:
          TracefsError: a file can't be read.
        """
        self.note_change()
        value = self._read_value()
        if value == self._last and not self._noticed:
            return None
        text, text_value = "", None
        for _ in range(_TRIES if value else 0):
            text = cut_text(self._tree.read_up_to(self._text_file, MAX_TEXT_BYTES + 1))
            text_value = _value_of(text)
            before, value = value, self._read_value()
            if value == before and text_value in (None, value):
                break
        self._last = value
        self.note_change()
        with self._lock:
            changes, self._noticed = self._noticed, 0
        if not value:
            return None
        return Report(
            self.instance, self.kind, self._tracer, value, self._unit, time.time_ns(), text, self._clock,
            self._tree.read_stats(self._tree.possible_cpus()[0]).now_ts if self._clock else None,
            None if text_value == value else text_value, max(1, changes),
        )  # fmt: skip

    def _read_value(self) -> int:
        text = self._tree.read_text(self._value_file).strip()
        return int(text) if text.isdecimal() else 0


def _value_of(text: str) -> int | None:
    """The latency that a text says it is of; None where it says none."""
    match = _TEXT_VALUE.search(text)
    return int(match[1]) if match else None


def build_watches(instances: Sequence[Instance]) -> list[Watch]:
    """What there is to look at in instances that are set up; of the one stack tracer, for the first that asks."""
    watches = []
    stack = [instance for instance in instances if instance.spec.stack_tracer]
    for instance in stack[:1]:
        top = instance.dir.top
        watches.append(Watch(top, instance.spec.name, "stack", "stack", "bytes", "stack_max_size", "stack_trace"))
    for instance in instances:
        tracer, tree = instance.spec.tracer, instance.dir
        if tracer in LATENCY_TRACERS and tree.exists(LATENCY_FILE):
            clock = instance.spec.clock
            watches.append(Watch(tree, instance.spec.name, "latency", tracer, "us", LATENCY_FILE, "trace", clock))
    return watches


def look_at_all(watches: Sequence[Watch]) -> tuple[list[Report], list[TracefsError]]:
    """(the new maxima of all of them, why some can't be read); who removes an instance is noticed by its readers."""
    found: list[Report] = []
    problems: list[TracefsError] = []
    for watch in watches:
        try:
            report = watch.look()
        except TracefsMissingError:
            continue
        except TracefsError as error:
            problems.append(error)
            continue
        if report is not None:
            found.append(report)
    return found, problems


def cut_text(data: bytes) -> str:
    """The text, with a mark where it is cut when it is too long."""
    text = data[:MAX_TEXT_BYTES].decode("utf-8", "surrogateescape")
    return text if len(data) <= MAX_TEXT_BYTES else text + CUT_MARK
