"""Has somebody else changed our instance? What it was set up to be, compared with what it is now."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from collector.control.planner import switches_tracing, trigger_name, untrigger
from collector.control.wish import (
    FUNCTIONS_FILE,
    GRAPH_FUNCTIONS_FILE,
    GRAPH_NOTRACE_FILE,
    NOTRACE_FUNCTIONS_FILE,
    InstanceSpec,
)
from collector.errors import TracefsError
from collector.tracefs.files import TracefsDir
from collector.tracefs.functions import parse_functions
from collector.tracefs.snapshots import SNAPSHOT_FILE, parse_snapshot_state

# What changes what is recorded, or what the entries mean. Not every kernel has every file. The pid filters are not
# among them: the kernel itself changes them as threads of ours come and go.
WATCHED_FILES = (
    "tracing_on",
    "trace_clock",
    "current_tracer",
    "buffer_size_kb",
    "buffer_subbuf_size_kb",
    "buffer_percent",
    "tracing_cpumask",
    "set_event",
    "options/overwrite",
)

SECOND_RING_FILE = "per_cpu/cpu0/snapshot"  # the smallest of those that tell whether there is a second ring

# Of the events that the settings give a filter or triggers, and of the tracers' lists that they set.
FUNCTION_LISTS = (FUNCTIONS_FILE, NOTRACE_FUNCTIONS_FILE, GRAPH_FUNCTIONS_FILE, GRAPH_NOTRACE_FILE)
FILTER, TRIGGER = "filter", "trigger"
NO_FILTER = "none"  # as the kernel prints it

RING_FILE = "trace_pipe_raw"  # what another reader takes is missing in our ledger

# Written back only on request are all but the clock: times of another clock, taken for those of ours, would be wrong.
CLOCK_FILE = "trace_clock"

# Writing these back can be done without losing what is in the rings, apart from the clock.
REPAIRABLE = frozenset({"tracing_on", CLOCK_FILE, "buffer_percent", "tracing_cpumask", "options/overwrite"})


@dataclass(frozen=True, slots=True)
class Change:
    """One file that reads differently."""

    file: str
    expected: str
    found: str

    @property
    def what(self) -> str:
        """The file; of those of an event their kind alone, for there may be many events."""
        kind = _event_file(self.file)
        return self.file if kind is None else kind

    def __str__(self) -> str:
        return f"{self.file}: {_short(self.expected)} -> {_short(self.found)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """A change and what was done about it."""

    change: Change
    repaired: bool = False
    error: TracefsError | None = None  # it could not be written back


def parse_setting(file: str, text: str) -> str:
    """A file's value in a form that compares: the clock's name alone, lists sorted, triggers without their counts."""
    if file == CLOCK_FILE:
        return text.partition("[")[2].partition("]")[0]
    if file == "set_event":
        return _lines(line.strip() for line in text.splitlines())
    if _event_file(file) == TRIGGER:
        return _lines(trigger_name(line) for line in text.splitlines() if not line.startswith("#"))
    if file in FUNCTION_LISTS:
        return _lines({name for name, _ in parse_functions(text)})
    return text.strip()


def compare_settings(expected: Mapping[str, str], found: Mapping[str, str]) -> list[Change]:
    """What is not as expected; files that cannot be read now are passed over."""
    return [Change(file, value, found[file]) for file, value in expected.items() if found.get(file, value) != value]


def files_to_watch(spec: InstanceSpec) -> tuple[str, ...]:
    """Those of every instance, and what the settings say of single events and of functions."""
    always = [file for file in WATCHED_FILES if file != "tracing_on" or not switches_tracing(spec)]
    events = [f"events/{system}/{name}/{FILTER}" for system, name in spec.filters]
    events += [f"events/{system}/{name}/{TRIGGER}" for system, name in spec.triggers]
    return (*always, *events, *spec.pattern_lists)


class Guard:
    """Looks at one instance again and again; each change is told once."""

    def __init__(self, tree: TracefsDir, spec: InstanceSpec) -> None:
        """Takes the instance as it is now for what it should be."""
        self._tree = tree
        self._spec = spec
        self._files = files_to_watch(spec)
        texts = self._read()
        self._expected = _parse(texts)
        self._triggers = {file: text.splitlines() for file, text in texts.items() if _event_file(file) == TRIGGER}

    def look(self, repair: bool) -> list[Finding]:
        """The changes since the last look."""
        findings = []
        texts = self._read()
        for change in compare_settings(self._expected, _parse(texts)):
            finding = Finding(change)
            if change.file == CLOCK_FILE or (repair and self._is_repairable(change.file)):
                finding = self._repair(change, texts[change.file])
            if not finding.repaired:
                self._expected[change.file] = change.found
            findings.append(finding)
        return findings

    def _read(self) -> dict[str, str]:
        """{file: text} of the watched files that the instance has.

        A second ring that appears was made by somebody who takes snapshots: they take the ring away from its reader.
        """
        found = {}
        for file in self._files:
            try:
                text = self._tree.try_read_text(file)
            except TracefsError:
                continue  # an instance that somebody removes is noticed by its readers
            if text is not None:
                found[file] = text
        with contextlib.suppress(TracefsError):
            if self._tree.exists(SECOND_RING_FILE):
                state = parse_snapshot_state(self._tree.read_head(SECOND_RING_FILE))
                found[SNAPSHOT_FILE] = "freed" if state == "freed" else "allocated"
        return found

    def _is_repairable(self, file: str) -> bool:
        return file in REPAIRABLE or file in FUNCTION_LISTS or _event_file(file) is not None

    def _repair(self, change: Change, text: str) -> Finding:
        file = change.file
        try:
            if _event_file(file) == TRIGGER:
                self._repair_triggers(file, text)
            elif file in FUNCTION_LISTS:
                first, *more = self._spec.pattern_lists[file]
                self._tree.replace(file, first)
                for pattern in more:
                    self._tree.append(file, pattern)
            else:
                no_filter = _event_file(file) == FILTER and change.expected == NO_FILTER
                self._tree.write(file, "0" if no_filter else change.expected)
        except TracefsError as error:
            return Finding(change, error=error)
        return Finding(change, repaired=True)

    def _repair_triggers(self, file: str, text: str) -> None:
        """Remove those that are too many, then add those that are missing, in their order."""
        ours, present = (
            {trigger_name(line): line for line in lines if line.strip() and not line.startswith("#")}
            for lines in (self._triggers[file], text.splitlines())
        )
        for name, line in reversed(present.items()):
            if name not in ours:
                self._tree.append(file, untrigger(line))
        for name, line in ours.items():
            if name not in present:
                self._tree.append(file, line.strip().removesuffix("[active]").strip().replace(":count=", ":"))


def _parse(texts: Mapping[str, str]) -> dict[str, str]:
    return {file: parse_setting(file, text) for file, text in texts.items()}


def _event_file(file: str) -> str | None:
    """`filter` or `trigger` for such a file of an event."""
    kind = file.rpartition("/")[2]
    return kind if kind in (FILTER, TRIGGER) else None


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(sorted(line for line in lines if line))


def _short(value: str) -> str:
    line = value.replace("\n", ",")
    return line if len(line) <= 60 else line[:57] + "..."
