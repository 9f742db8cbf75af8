"""Reports: text that the kernel keeps in a file until something larger replaces it.

    tracing_max_latency   the instance's trace    of the latency tracers: the longest latency, and what led to it
    stack_max_size        stack_trace             of the stack tracer: the deepest kernel stack

Each new maximum is read as soon as a look sees it. Of two between two looks the larger alone is there to be read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from collector.batch import Note, NoteKind, StreamKey
from collector.control.instance import Instance
from collector.errors import TracefsError, TracefsMissingError
from collector.tracefs.files import TracefsDir
from collector.tracefs.snapshots import LATENCY_FILE, LATENCY_TRACERS

MAX_TEXT_BYTES = 4 << 20  # a latency trace of full rings can be hundreds of MiB
CUT_MARK = "\n[cut: the text is longer]\n"
_TRIES = 3  # of reading a value and its text at one moment

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

    def note(self, run: bytes) -> Note:
        """What a sink is given."""
        body = {
            "kind": self.kind, "tracer": self.tracer, "value": self.value, "unit": self.unit,
            "realtime_ns": self.realtime_ns, "text": self.text,
        }  # fmt: skip
        return Note(NoteKind.REPORT, StreamKey(run, self.instance, 0), body)


class Watch:
    """Looks at one maximum again and again.

    Args:
      tree: the folder of both files.
      instance: that the report is of.
      value_file, text_file: their names.
    """

    def __init__(
        self, tree: TracefsDir, instance: str, kind: Kind, tracer: str, unit: str, value_file: str, text_file: str
    ) -> None:
        self.instance = instance
        self.kind = kind
        self._tree = tree
        self._tracer = tracer
        self._unit = unit
        self._value_file = value_file
        self._text_file = text_file
        self._last = 0

    def look(self) -> Report | None:
        """The maximum, if it is another one than at the last look.

        A smaller one is new too: somebody has begun anew, or the tracer reports all that exceed a threshold.

        Raises:
          TracefsError: a file can't be read.
        """
        value = self._read_value()
        if value == self._last:
            return None
        text = ""
        for _ in range(_TRIES if value else 0):
            text = cut_text(self._tree.read_up_to(self._text_file, MAX_TEXT_BYTES + 1))
            before, value = value, self._read_value()
            if value == before:
                break
        self._last = value
        if not value:
            return None
        return Report(self.instance, self.kind, self._tracer, value, self._unit, time.time_ns(), text)

    def _read_value(self) -> int:
        text = self._tree.read_text(self._value_file).strip()
        return int(text) if text.isdecimal() else 0


def build_watches(instances: Sequence[Instance]) -> list[Watch]:
    """What there is to look at in instances that are set up; of the one stack tracer, for the first that asks."""
    watches = []
    stack = [instance for instance in instances if instance.spec.stack_tracer]
    for instance in stack[:1]:
        top = instance.dir.top
        watches.append(Watch(top, instance.spec.name, "stack", "stack", "bytes", "stack_max_size", "stack_trace"))
    for instance in instances:
        tracer = instance.spec.tracer
        if tracer in LATENCY_TRACERS and instance.dir.exists(LATENCY_FILE):
            watches.append(Watch(instance.dir, instance.spec.name, "latency", tracer, "us", LATENCY_FILE, "trace"))
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
