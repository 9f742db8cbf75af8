"""Has somebody else changed our instance? What it was set up to be, compared with what it is now."""

from collections.abc import Mapping
from dataclasses import dataclass

from collector.errors import TracefsError
from collector.tracefs.files import TracefsDir
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
    def is_repairable(self) -> bool:
        return self.file in REPAIRABLE

    def __str__(self) -> str:
        return f"{self.file}: {_short(self.expected)} -> {_short(self.found)}"


def parse_setting(file: str, text: str) -> str:
    """A file's value in a form that compares: the clock's name alone, lists sorted."""
    if file == CLOCK_FILE:
        return text.partition("[")[2].partition("]")[0]
    if file == "set_event":
        return "\n".join(sorted(line.strip() for line in text.splitlines() if line.strip()))
    return text.strip()


def compare_settings(expected: Mapping[str, str], found: Mapping[str, str]) -> list[Change]:
    """What is not as expected; files that cannot be read now are passed over."""
    return [Change(file, value, found[file]) for file, value in expected.items() if found.get(file, value) != value]


def read_settings(tree: TracefsDir) -> dict[str, str]:
    """{file: value} of the watched files that the instance has.

    A second ring that appears was made by somebody who takes snapshots: they take the ring away from its reader.
    """
    found = {}
    for file in WATCHED_FILES:
        try:
            text = tree.try_read_text(file)
        except TracefsError:
            continue  # an instance that somebody removes is noticed by its readers
        if text is not None:
            found[file] = parse_setting(file, text)
    try:
        if tree.exists(SECOND_RING_FILE):
            state = parse_snapshot_state(tree.read_head(SECOND_RING_FILE))
            found[SNAPSHOT_FILE] = "freed" if state == "freed" else "allocated"
    except TracefsError:
        pass
    return found


class Guard:
    """Looks at one instance again and again; each change is told once."""

    def __init__(self, tree: TracefsDir) -> None:
        """Takes the instance as it is now for what it should be."""
        self._tree = tree
        self._expected = read_settings(tree)

    def look(self, repair: bool) -> list[tuple[Change, bool]]:
        """[(change, whether it was written back)] since the last look.

        Raises:
          TracefsError: a value cannot be written back.
        """
        found = []
        for change in compare_settings(self._expected, read_settings(self._tree)):
            repaired = change.is_repairable and (repair or change.file == CLOCK_FILE)
            if repaired:
                self._tree.write(change.file, change.expected)
            else:
                self._expected[change.file] = change.found
            found.append((change, repaired))
        return found


def _short(value: str) -> str:
    line = value.replace("\n", ",")
    return line if len(line) <= 60 else line[:57] + "..."
