"""An instance of the collector's own: made or adopted, locked, set up, removed.

Nothing here touches the top-level buffer or an instance of another name.
"""

import contextlib
import enum
import errno
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from collector.errors import InstanceBusyError, TracefsError, TracefsMissingError
from collector.tracefs.clocks import ClockPair
from collector.tracefs.cpus import parse_cpu_mask
from collector.tracefs.events import EventName
from collector.tracefs.files import ROOT_HINT, TracefsDir, errno_of, read_memory_total_bytes
from collector.tracefs.layout import PageLayout
from collector.tracefs.lock import check_name, make_and_lock
from collector.tracefs.wallclock import read_clock_pair
from collector.tracefs.wish import (
    NOTRACE_FILE,
    OPTIONAL_FILES,
    PERCENT_FILE,
    InstanceSpec,
    Probe,
    Write,
    changes_discard,
    check_spec,
    default_buffer_size_kb,
    plan_exclusion,
    plan_instance,
    subbuf_sizes_to_try_kb,
)

__all__ = [
    "Exclusion",
    "Instance",
    "InstanceSpec",
    "Probe",
    "Write",
    "default_buffer_size_kb",
    "in_initial_pid_namespace",
    "plan_instance",
]

_INITIAL_PID_NAMESPACE = 4026531836  # PROC_PID_INIT_INO of include/linux/proc_ns.h
_PID_NAMESPACE_LINK = "/proc/self/ns/pid"
_REMOVE_STEP_S = 0.02


class Exclusion(enum.Enum):
    """Whether threads could be kept out of the trace."""

    EXCLUDED = "excluded"
    OTHER_NAMESPACE = "this process is in a pid namespace of its own and does not know the ids that the kernel compares"
    UNSUPPORTED = "this kernel has no set_event_notrace_pid (5.7 and later do)"


class Instance:
    """One instance, locked by this process from `open` to `close` or `remove`."""

    def __init__(self, tree: TracefsDir, spec: InstanceSpec, lock_fd: int, *, existed: bool) -> None:
        """Use `open`."""
        self.dir = tree
        self.spec = spec
        self.existed = existed  # it was there before: left by a crash, or kept on purpose
        self.notes: list[str] = []  # what is not as wished, in words for the log
        self.exclusion: Exclusion | None = None  # None: nothing was asked for
        self._lock_fd = lock_fd
        self._excluded: frozenset[int] = frozenset()
        self._files = frozenset(name for name in OPTIONAL_FILES if tree.exists(name))
        self._systems = _group(tree.list_events())
        self.layout: PageLayout = tree.read_layout()  # as of now; `configure` may change it
        self.clock: str = tree.read_clock()[0]  # as of now
        self.unread_at_open = _count_unread(tree)  # entries that an earlier run left in the rings

    @classmethod
    def open(cls, tracefs: TracefsDir, spec: InstanceSpec) -> "Instance":
        """Make the instance or adopt the one that is there, and lock it. Nothing is set up yet.

        Raises:
          InstanceBusyError: another process holds it.
          TracefsPermissionError, TracefsMissingError: it can't be made.
          UsageError: its name can't be one, or the kernel can't do what the spec says.
        """
        check_name(spec.name)
        tree = tracefs.instance(spec.name)
        lock_fd, existed = make_and_lock(tree)
        try:
            instance = cls(tree, spec, lock_fd, existed=existed)
            check_spec(spec, instance.probe())
        except BaseException:
            if not existed:
                # Best effort: the error that is on its way says what matters.
                with contextlib.suppress(OSError):
                    os.rmdir(tree.path)
            os.close(lock_fd)
            raise
        return instance

    @property
    def subbuf_size(self) -> int:
        """Bytes of a sub-buffer as of now."""
        return self.layout.subbuf_size

    @property
    def adopted(self) -> bool:
        """It holds entries of an earlier run: read them, in the layout and the clock as they are."""
        return self.existed and self.unread_at_open > 0

    @property
    def needs_drain_before_configure(self) -> bool:
        """Setting it up now would throw unread entries away: stop tracing and read them first."""
        return self.existed and changes_discard(self.spec, self.probe())

    @property
    def cpus(self) -> tuple[int, ...]:
        """CPUs whose rings are to be read: those of the spec, or all that can come."""
        return self.spec.cpus if self.spec.cpus is not None else self.dir.possible_cpus()

    def probe(self) -> Probe:
        """How the instance is set up now."""
        tree = self.dir
        clock, clocks = tree.read_clock()
        percent = tree.try_read_text(PERCENT_FILE)
        return Probe(
            files=self._files,
            clock=clock,
            clocks=clocks,
            buffer_size_kb=_parse_size_kb(tree.read_text("buffer_size_kb")),
            subbuf_size_kb=tree.read_layout().subbuf_size // 1024,
            buffer_percent=int(percent) if percent is not None else None,
            overwrite=tree.read_text("options/overwrite").strip() == "1",
            tracing_on=tree.read_text("tracing_on").strip() == "1",
            cpumask=parse_cpu_mask(tree.read_text("tracing_cpumask")),
            possible_cpus=tree.possible_cpus(),
            cpu_count=len(tree.online_cpus()),
            memory_total_bytes=read_memory_total_bytes(),
            enabled=_read_enabled(tree),
            systems=self._systems,
            unread=_count_unread(tree),
        )

    def configure(self, *, start: bool = True, discard_unread: bool = False) -> None:
        """Set everything up, read it back, and start tracing unless told not to.

        Smaller sub-buffers are taken where memory has no room for the wished ones; `notes` says so.

        Args:
          discard_unread: go on although `needs_drain_before_configure`: the rings are cleared. For entries
            that no read gives, which a change of the sub-buffer size leaves in the kernel's counters.

        Raises:
          TracefsError: the kernel refuses a value, or it doesn't read back; or unread entries would be lost.
        """
        probe = self.probe()
        if changes_discard(self.spec, probe):
            if not discard_unread:
                raise TracefsError(
                    "setting the instance up would discard unread entries", where=str(self.dir.path),
                    expected="empty rings", got=f"{probe.unread} entries of an earlier run",
                    hint="stop tracing and read them first",
                )  # fmt: skip
            self.stop_tracing()
            self.dir.clear("trace")
            self.notes.append(f"cleared the rings, {probe.unread} entries of an earlier run were in them")
            probe = self.probe()
        spec = self._without_impossible_exclusion()
        sizes_kb = subbuf_sizes_to_try_kb(spec, probe)
        for size_kb, smaller_kb in zip(sizes_kb, (*sizes_kb[1:], None), strict=True):
            try:
                self._apply(plan_instance(spec, probe, size_kb), start=start)
                break
            except _NoMemoryError as error:
                if smaller_kb is None:
                    raise error.reason from error
                self.notes.append(
                    f"no memory for sub-buffers of {size_kb} KiB ({error.reason}): trying {smaller_kb} KiB"
                )
                probe = self.probe()
        self._excluded = frozenset(spec.notrace_pids)
        self.layout = self.dir.read_layout()
        self.clock = self.dir.read_clock()[0]

    def exclude_pids(self, pids: Iterable[int]) -> Exclusion:
        """Make `pids` (thread ids as this process sees them) the ones that are not traced.

        Call it again when threads come or go: the kernel doesn't forget an id whose thread has ended, and
        would hide the next one that gets it. Ids that are only added are added, so none leaks in between.
        """
        self.exclusion = self._can_exclude()
        if self.exclusion is Exclusion.EXCLUDED:
            wanted = frozenset(pids)
            if self._excluded and wanted > self._excluded:
                self._apply([Write(NOTRACE_FILE, " ".join(map(str, sorted(wanted - self._excluded))))])
            elif wanted != self._excluded or not wanted:
                self._apply(plan_exclusion(wanted, self._files))
            self._excluded = wanted
        return self.exclusion

    def set_tracing(self, on: bool) -> None:
        """Start or stop writing into the rings; what is in them stays."""
        self.dir.write("tracing_on", str(int(on)))

    def stop_tracing(self) -> None:
        """Stop, so that a drain has an end."""
        self.set_tracing(False)

    def read_clock_pair(self) -> ClockPair | None:
        """The instance's clock beside the system's, now; None when it has no wall time.

        For the clocks that only the kernel knows it is taken from `stats`, so the clock `counter` isn't moved by it.
        """
        cpu = min(self.cpus)
        return read_clock_pair(self.clock, lambda: self.dir.read_stats(cpu).now_ts)

    def try_remove(self) -> bool:
        """Take the instance away now; False while somebody has one of its files open."""
        self._quiet()
        try:
            os.rmdir(self.dir.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno == errno.EBUSY:
                return False
            raise TracefsError(
                "the instance can't be removed", where=str(self.dir.path), got=str(error), hint=ROOT_HINT
            ) from error
        self.close()
        return True

    def remove(self, timeout_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the instance away; waits for whoever has a file of it open, so not in an event loop's thread.

        Raises:
          InstanceBusyError: a file was still open when the time was over. The lock is kept.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.try_remove():
            if time.monotonic() >= deadline_s:
                raise InstanceBusyError(
                    "the instance can't be removed", where=str(self.dir.path), expected="no open file in it",
                    got=f"EBUSY for {timeout_s:g} s", hint=f"`fuser -v {self.dir.path}/*` may find the process",
                )  # fmt: skip
            sleep(_REMOVE_STEP_S)

    def undo(self, timeout_s: float, *, keep: bool | None = None) -> None:
        """Leave the kernel as it was found: events off, and the instance removed, or kept with what is in its rings.

        Args:
          timeout_s, raises: as for `remove`.
          keep: None: as the spec says.
        """
        if not (self.spec.keep if keep is None else keep):
            self.remove(timeout_s)
            return
        self._quiet()
        self.close()

    def close(self) -> None:
        """Give the lock up; the instance stays."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _quiet(self) -> None:
        """Tracing and all events off, no thread excluded: also what makes removal quick."""
        try:
            self.stop_tracing()
            self.dir.write("events/enable", "0")
            if NOTRACE_FILE in self._files:
                self.dir.clear(NOTRACE_FILE)
        except TracefsMissingError:
            return  # somebody else has removed it

    def _without_impossible_exclusion(self) -> InstanceSpec:
        if not self.spec.notrace_pids:
            return self.spec
        self.exclusion = self._can_exclude()
        if self.exclusion is Exclusion.EXCLUDED:
            return self.spec
        self.notes.append(f"the collector's own threads are traced too: {self.exclusion.value}")
        return replace(self.spec, notrace_pids=())

    def _can_exclude(self) -> Exclusion:
        if NOTRACE_FILE not in self._files:
            return Exclusion.UNSUPPORTED
        return Exclusion.EXCLUDED if in_initial_pid_namespace() else Exclusion.OTHER_NAMESPACE

    def _apply(self, writes: Iterable[Write], *, start: bool = True) -> None:
        for write in writes:
            if write.file == "tracing_on" and write.value == "1" and not start:
                continue
            try:
                _WRITERS[write.mode](self.dir, write)
            except TracefsError as error:
                if write.sizes_memory and errno_of(error) == errno.ENOMEM:
                    raise _NoMemoryError(error) from error
                raise
            self._verify(write)

    def _verify(self, write: Write) -> None:
        if write.verify == "none":
            return
        text = self.dir.read_text(write.file).strip()
        if write.file == "trace_clock":
            text = self.dir.read_clock()[0]
        if write.verify == "at_least":
            size_kb = _parse_size_kb(text)  # None: CPUs differ, then each has what there was room for
            good = size_kb is not None and size_kb >= int(write.value)
        elif write.verify == "cpus":
            possible = set(self.dir.possible_cpus())
            good = set(parse_cpu_mask(text)) & possible == set(parse_cpu_mask(write.value)) & possible
        else:
            good = text == write.value
        if not good:
            raise TracefsError(
                "the kernel took the value but has another", where=str(self.dir.path / write.file),
                expected=write.value, got=text, hint="another process may be changing this instance",
            )  # fmt: skip


class _NoMemoryError(Exception):
    """A size was refused with ENOMEM: a smaller one may do."""

    def __init__(self, reason: TracefsError) -> None:
        super().__init__(str(reason))
        self.reason = reason


def in_initial_pid_namespace() -> bool:
    """Whether thread ids of this process are those that the kernel's pid filters compare."""
    try:
        return os.stat(_PID_NAMESPACE_LINK).st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False


def _group(events: Iterable[EventName]) -> dict[str, frozenset[str]]:
    """{system: its events}"""
    systems: dict[str, set[str]] = {}
    for system, name in events:
        systems.setdefault(system, set()).add(name)
    return {system: frozenset(names) for system, names in systems.items()}


def _count_unread(tree: TracefsDir) -> int:
    return sum(tree.read_stats(cpu).entries for cpu in tree.possible_cpus())


def _read_enabled(tree: TracefsDir) -> frozenset[EventName]:
    pairs = (line.strip().split(":", 1) for line in tree.read_text("set_event").splitlines() if ":" in line)
    return frozenset((system, name) for system, name in pairs)


def _parse_size_kb(text: str) -> int | None:
    """The first number of buffer_size_kb ("7 (expanded: 1408)" on a ring not yet used); None for "X": CPUs differ."""
    word = text.split()[0] if text.split() else ""
    return int(word) if word.isdecimal() else None


_WRITERS: dict[str, Callable[[TracefsDir, Write], None]] = {
    "write": lambda tree, write: tree.write(write.file, write.value),
    "append": lambda tree, write: tree.append(write.file, write.value),
    "clear": lambda tree, write: tree.clear(write.file),
    "replace": lambda tree, write: tree.replace(write.file, write.value),
}
