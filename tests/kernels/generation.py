"""What a kernel's tracefs is made of, as far as it differs from another's."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class HeadField:
    """One field of the head that all records share."""

    name: str
    type: str  # as the format file prints it
    offset: int  # bytes
    size: int  # bytes
    signed: bool


HEAD = (
    HeadField("common_type", "unsigned short", 0, 2, False),
    HeadField("common_flags", "unsigned char", 2, 1, False),
    HeadField("common_preempt_count", "unsigned char", 3, 1, False),
    HeadField("common_pid", "int", 4, 4, True),
)
RHEL_HEAD = (*HEAD, HeadField("common_preempt_lazy_count", "unsigned char", 8, 1, False))
RT_HEAD = (*HEAD, HeadField("common_migrate_disable", "unsigned char", 8, 1, False),
           HeadField("common_preempt_lazy_count", "unsigned char", 9, 1, False))  # fmt: skip


@dataclass(frozen=True)
class TextColumns:
    """The columns of `trace` and `trace_pipe`."""

    flags: tuple[str, ...] = ("irqs-off", "need-resched", "hardirq/softirq", "preempt-depth", "migrate-disable")
    pid_width: int = 7  # digits that the column has room for
    tgid_width: int = 7


@dataclass(frozen=True)
class Generation:
    """One kind of kernel."""

    name: str
    release: str  # as in uname -r
    machine: str = "x86_64"  # as in uname -m
    word_size: int = 8  # bytes of a long
    byte_order: Literal["little", "big"] = "little"
    head: tuple[HeadField, ...] = HEAD
    has_time_stamp: bool = True  # header_event has the line, since 4.17
    text: TextColumns = field(default_factory=TextColumns)
    absent: frozenset[str] = frozenset()  # files of tracefs that this kernel does not have, relative to its top


# {file: the release that brought it}; relative to the top, and in each instance where it is there too. Sources: the
# kernel's log; docs/tracefs.md has the same and what the daemon does without.
SINCE = {
    "snapshot": "3.9", "saved_cmdlines_size": "3.17", "set_event_pid": "4.4", "options/event-fork": "4.7",
    "trace_marker_raw": "4.10", "saved_tgids": "4.13", "synthetic_events": "4.17", "dynamic_events": "5.0",
    "buffer_percent": "5.0", "error_log": "5.2", "set_event_notrace_pid": "5.7", "set_ftrace_notrace_pid": "5.7",
    "options/pause-on-trace": "5.8", "buffer_subbuf_size_kb": "6.8",
}  # fmt: skip
# {clock: the release that brought it}
CLOCKS = {"local": "2.6", "global": "2.6", "counter": "3.0", "uptime": "3.10", "perf": "3.10", "mono": "3.17",
          "mono_raw": "4.2", "boot": "4.10", "tai": "5.18"}  # fmt: skip


def release_of(text: str) -> tuple[int, ...]:
    """(major, minor) of "5.10" or "4.19.0"."""
    return tuple(int(part) for part in text.split(".")[:2])


def of_release(release: str, **how: Any) -> Generation:
    """A kernel of this release, without what came later."""
    at = release_of(release)
    absent = frozenset(file for file, since in SINCE.items() if release_of(since) > at)
    flags = TextColumns().flags if at >= (5, 15) else TextColumns().flags[:4]
    width = 7 if at >= (5, 10) else 5
    return Generation(
        how.pop("name", release), release, has_time_stamp=at >= (4, 17), text=TextColumns(flags, width, width),
        absent=absent, **how,
    )  # fmt: skip


GENERATIONS = (
    *map(of_release, ("3.10", "4.4", "4.9", "4.14", "4.19", "5.4", "5.10", "5.15", "6.1", "6.8", "6.12", "6.18")),
    of_release("4.13", name="i686", machine="i686", word_size=4),
    of_release("4.9", name="arm", machine="armv7l", word_size=4),
    of_release("5.10", name="android", machine="aarch64"),
    of_release("5.14", name="rhel9", head=RHEL_HEAD),
    of_release("5.10", name="rt", head=RT_HEAD),
)
