"""What `doctor` knows of a machine before it judges: plain values, so that any kernel can be written down. Pure.

An access is "ok", or the name of the errno that an attempt gave ("ENOENT": this kernel has no such file).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from collector.tracefs.events import EventName

OK = "ok"
ABSENT = "ENOENT"
EPERM = "EPERM"  # for root: lockdown, a security module or the host's policy, not the file's mode

CAP_SYSLOG = 34  # include/uapi/linux/capability.h


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The machine and this process."""

    release: str  # uname -r
    machine: str = "x86_64"
    uid: int = 0
    capabilities: int | None = None  # effective, as a mask; None: not readable
    lockdown: str | None = None  # "none", "integrity" or "confidentiality"; None: not readable
    initial_pid_namespace: bool = True
    symbols: Literal["shown", "hidden", "absent"] = "shown"  # addresses in kallsyms
    kptr_restrict: int | None = None
    kconfig: Mapping[str, str] | None = None  # see `kconfig.parse_kconfig`; None: not readable
    kconfig_path: str | None = None
    memory_total_bytes: int = 0
    memory_available_bytes: int | None = None
    online_cpus: tuple[int, ...] = (0,)


@dataclass(frozen=True, slots=True)
class MountFacts:
    """Where tracefs is mounted, and who may enter."""

    path: str | None  # None: nowhere
    access: str = OK  # of looking into it
    options: str = ""  # of the mount, "rw,relatime"
    mode: int = 0o700  # of the top directory
    gid: int = 0


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What an instance made for the purpose could do; it is gone again."""

    made: str  # access: of making it
    files: Mapping[str, str] = field(default_factory=dict)  # {file of INSTANCE_FILES: access}
    tracers: tuple[str, ...] = ()  # that may run in an instance
    options: frozenset[str] = frozenset()
    large_subbufs: str | None = None  # access: of setting sub-buffers of 64 KiB; None: not tried


@dataclass(frozen=True, slots=True)
class TreeFacts:
    """The top level of tracefs."""

    files: Mapping[str, str]  # {file of TOP_FILES: access}
    tracers: tuple[str, ...] = ()
    clocks: tuple[str, ...] = ()
    events: tuple[EventName, ...] = ()
    options: frozenset[str] = frozenset()
    readme: str = ""  # its text says which kinds of dynamic events there are
    instance: InstanceFacts | None = None  # None: not tried


@dataclass(frozen=True, slots=True)
class TracingState:
    """What one buffer does now: the top level or an instance."""

    name: str  # "" is the top level
    tracer: str
    clock: str
    tracing_on: bool
    events: int  # enabled ones
    buffer_kb: int | None = None  # of each CPU; None: CPUs differ
    subbuf_kb: int | None = None
    unread: int | None = None  # entries in the rings
    holder: str | None = None  # the process that has it locked, in words
    holder_pid: int | None = None

    @property
    def busy(self) -> bool:
        """Something is being recorded into it."""
        return self.tracing_on and (self.events > 0 or self.tracer != "nop")


@dataclass(frozen=True, slots=True)
class PipeReader:
    """A process that has a pipe of a trace buffer open."""

    pid: int
    comm: str
    instance: str  # "" is the top level
    pipes: int


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a killed run has left."""

    instance: str  # as the run called it
    pid: int  # of the run
    changes: tuple[str, ...] = ()  # what takes them back, "FILE VALUE"
    unread: int | None = None  # entries in the rings; None: the instance is gone


@dataclass(frozen=True, slots=True)
class Cleaned:
    """What was done about it."""

    instance: str
    restored: tuple[str, ...]  # "FILE VALUE"
    unread: int | None  # entries that were in the rings; None: there was no instance
    kept: bool = False  # with those entries
    top_level: bool = False  # it was the top-level buffer

    def __str__(self) -> str:
        """For people."""
        parts = [f"restored {', '.join(self.restored)}"] if self.restored else []
        if self.kept:
            parts.append(f"kept with {self.unread} unread entries")
        elif self.unread is not None:
            done = "cleared" if self.top_level else "removed"
            parts.append(f"{done} with {self.unread} unread entries" if self.unread else done)
        return f"{self.instance}: {'; '.join(parts) or 'nothing to restore'}"


@dataclass(frozen=True, slots=True)
class NeighbourFacts:
    """Who else is tracing, as far as it can be seen."""

    states: tuple[TracingState, ...] = ()
    readers: tuple[PipeReader, ...] = ()
    hidden_processes: int = 0  # whose open files may not be looked at
    dynamic_events: int = 0  # defined now, by anyone
    leftovers: tuple[Leftover, ...] = ()  # of killed runs


@dataclass(frozen=True, slots=True)
class PlaceFacts:
    """The archive's folder and the address of the metrics."""

    folder: str = ""
    folder_access: str = OK  # of writing there, or of making it
    filesystem: str = "?"
    free_bytes: int = 0
    size_bytes: int = 0
    min_free_bytes: int = 0  # that archiving leaves
    locked_by: int | None = None  # the process that writes the archive; 0: one that does not say who it is
    listen: str = ""  # "": none is served
    listen_access: str = OK  # of binding it


@dataclass(frozen=True, slots=True)
class PlanFacts:
    """What comes of planning the writes of an instance, which `run` does before it changes anything."""

    writes: int = 0
    refusal: str | None = None  # what `run` would end with


@dataclass(frozen=True, slots=True)
class Facts:
    """All of them."""

    host: HostFacts
    mount: MountFacts
    tree: TreeFacts | None = None  # None: tracefs can't be entered
    neighbours: NeighbourFacts = NeighbourFacts()
    place: PlaceFacts = PlaceFacts()
    plans: Mapping[str, PlanFacts] = field(default_factory=dict)  # {instance: its plan}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one instance of the configuration needs of the kernel."""

    instance: str
    events: tuple[str, ...] = ()  # patterns
    clock: str = "mono"  # "": whichever fits
    tracer: str = "nop"
    text: bool = False  # read as text, by trace_pipe
    snapshot: bool = False  # there is a second ring of each CPU
    buffer_kb: int | None = None  # of each CPU; None: the default
    cpu_buffers_kb: Mapping[int, int] = field(default_factory=dict)  # {cpu: KiB} of those that differ
    subbuf_kb: int | None = None
    cpus: tuple[int, ...] | None = None
    options: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()  # names of capabilities beside those that all instances need
    shared: tuple[str, ...] = ()  # settings of what all users of tracing share
    allow_top_level: bool = False
    exclude_self: bool = True
    top_level: bool = False  # the top-level buffer instead of an instance
