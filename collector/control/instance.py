"""An instance of the collector's own: made or adopted, locked, set up, removed.

Nothing here touches the top-level buffer, which is toplevel.py's, or an instance of another name.
"""

import contextlib
import enum
import errno
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from collector.control.executor import Executor, NoMemoryError
from collector.control.feasible import check_desired
from collector.control.holders import read_rival_tracers
from collector.control.journal import Journal, Journals
from collector.control.lock import check_name, make_and_lock
from collector.control.planner import (
    changes_discard,
    events_of_earlier,
    files_named,
    plan_instance,
    plan_owned,
    plan_untrigger,
    scope_of,
)
from collector.control.probing import count_unread, read_functions, read_probe, read_systems, read_triggers
from collector.control.wish import (
    NO_TRACER,
    NOTRACE_FILE,
    OPTIONAL_FILES,
    TRACER_FILE,
    InstanceSpec,
    Probe,
    Undo,
    Write,
    explain_unheeded,
    subbuf_sizes_to_try_kb,
)
from collector.errors import InstanceBusyError, TracefsError, TracefsMissingError
from collector.tracefs.clocks import ClockPair
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import USER_GROUP, group_of, parse_dynamic_events, parse_removal
from collector.tracefs.files import ROOT_HINT, TracefsDir, errno_of
from collector.tracefs.layout import PageLayout
from collector.tracefs.wallclock import read_clock_pair

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

    def __init__(
        self, tree: TracefsDir, spec: InstanceSpec, lock_fd: int, *, existed: bool, journal: Journal | None
    ) -> None:
        """Use `open`."""
        self.dir = tree
        self.spec = spec
        self.existed = existed  # it was there before: left by a crash, or kept on purpose
        # An earlier run of this boot did not end in good order.
        self.was_killed = journal is not None and journal.left is not None and journal.left.is_set_up
        self.notes: list[str] = []  # what is not as wished, in words for the log
        self.exclusion: Exclusion | None = None  # None: nothing was asked for
        self._lock_fd = lock_fd
        self._files = frozenset(name for name in OPTIONAL_FILES if tree.exists(name))
        self._systems = read_systems(tree)
        self._functions = read_functions(tree, spec)
        self._journal = journal
        self._executor = Executor(tree, journal)
        self._busy: list[TracefsError] = []  # what could not be taken back yet
        self.left: list[str] = []  # what stays after `undo` because others use it, in words; it is in the journal
        self.layout: PageLayout = tree.read_layout()  # as of now; `configure` may change it
        self.clock: str = tree.read_clock()[0]  # as of now
        self.unread_at_open = count_unread(tree)  # entries that an earlier run left in the rings

    @classmethod
    def open(cls, tracefs: TracefsDir, spec: InstanceSpec, journals: Journals | None = None) -> "Instance":
        """Make the instance or adopt the one that is there, and lock it. Nothing is set up yet.

        Args:
          journals: where what outlives the instance is noted; None: nowhere, a crash leaves it as it is.

        Raises:
          InstanceBusyError: another process holds it, or has changed a shared value that the spec wants changed.
          TracefsPermissionError, TracefsMissingError: it can't be made.
          UsageError: its name can't be one, or the kernel can't do what the spec says.
        """
        check_name(spec.name)
        tree = tracefs.instance(spec.name)
        lock_fd, existed = make_and_lock(tree)
        try:
            journal = journals.of(spec.name, spec.name) if journals is not None else None
            instance = cls(tree, spec, lock_fd, existed=existed, journal=journal)
            if journal is not None:
                journal.check_events_free((probe.group, probe.name) for probe in spec.probes)
            probe = instance.probe()
            check_desired(spec, probe)
            if journal is not None:
                # Also a value that is as wished already: whoever made it so takes it back.
                journal.check_free(file for file in files_named(spec) if scope_of(file, probe) == "top")
                journal.check_options_free(probe.values)
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
    def missing(self) -> Mapping[str, str]:
        """{file that this kernel does not have: what that costs}"""
        return {name: cost for name, cost in OPTIONAL_FILES.items() if name not in self._files}

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
        return self._with_others(
            read_probe(self.dir, self.spec, existed=self.existed, functions=self._functions, systems=self._systems)
        )

    def configure(self, *, start: bool = True, discard_unread: bool = False) -> None:
        """Set everything up, read it back, and start tracing unless told not to.

        After a failure what would outlive the instance is taken back as far as it can be now; `undo` tries the rest
        once more, and the instance itself is the caller's to remove.
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
        if self._journal is not None:
            self._journal.claim()
        spec = self._without_impossible_exclusion()
        self.notes += explain_unheeded(spec)
        self._executor.own(plan_owned(spec, probe))
        sizes_kb = subbuf_sizes_to_try_kb(spec, probe)
        for size_kb, smaller_kb in zip(sizes_kb, (*sizes_kb[1:], None), strict=True):
            try:
                self._executor.run(self._plan(spec, probe, size_kb), start=start)
                break
            except NoMemoryError as error:
                if smaller_kb is None:
                    raise error.reason from error
                self.notes.append(
                    f"no memory for sub-buffers of {size_kb} KiB ({error.reason}): trying {smaller_kb} KiB"
                )
                probe = self.probe()
            except TracefsError:
                self._take_back_half()
                raise
        self.layout = self.dir.read_layout()
        self.clock = self.dir.read_clock()[0]

    def stop_tracing(self) -> None:
        """Nothing is written into the rings any more, so that a drain has an end; what is in them stays."""
        self.dir.write("tracing_on", "0")

    def read_clock_pair(self) -> ClockPair | None:
        """The instance's clock beside the system's, now; None when it has no wall time.

        For the clocks that only the kernel knows it is taken from `stats`, so the clock `counter` isn't moved by it.
        """
        cpu = min(self.cpus)
        return read_clock_pair(self.clock, lambda: self.dir.read_stats(cpu).now_ts)

    def try_remove(self) -> bool:
        """Take the instance away now, and what it would leave behind; False while others hinder it.

        They have one of its files open, or use an event that was made here: but for user events, which the programs
        that write them have as long as they run. Those stay, in the journal; `left` says so.

        Raises:
          TracefsError: something can't be taken back or removed; all else was.
        """
        self._quiet()
        problems = self._take_back()
        if self._is_busy(problems):
            return False
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
        # All that was the instance's own is gone now.
        self._finish({undo: problem for undo, problem in problems.items() if self._executor.outlives(undo)})
        return True

    def remove(self, timeout_s: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Take the instance away; waits for whoever has a file of it open, so not in an event loop's thread.

        Raises:
          InstanceBusyError: a file was still open when the time was over. The lock is kept.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self.try_remove():
            if time.monotonic() >= deadline_s:
                what = "".join(f" ({problem})" for problem in self._busy)
                files = f"`fuser -v {self.dir.path}/*` may find the process"
                raise InstanceBusyError(
                    "the instance can't be removed", where=str(self.dir.path),
                    expected="no open file in it" if not self._busy else "that nobody uses what was made with it",
                    got=f"EBUSY for {timeout_s:g} s{what}",
                    hint=f"`ftrace-collector cleanup {self.spec.name}` does it later" if self._busy else files,
                )  # fmt: skip
            sleep(_REMOVE_STEP_S)

    def undo(self, timeout_s: float, *, keep: bool | None = None) -> None:
        """Leave the kernel as it was found: events off, and the instance removed, or kept with what is in its rings.

        A kept instance keeps its tracer and its probes: taking them away clears its rings and their counters.

        Args:
          timeout_s, raises: as for `remove`.
          keep: None: as the spec says.
        """
        if not (self.spec.keep if keep is None else keep):
            self.remove(timeout_s)
            return
        self._quiet()
        self._finish(self._executor.undo(only_shared=True))

    def _plan(self, spec: InstanceSpec, probe: Probe, subbuf_size_kb: int) -> list[Write]:
        """The writes that set it up."""
        return plan_instance(spec, probe, subbuf_size_kb)

    def _is_busy(self, problems: Mapping[Undo, TracefsError]) -> bool:
        """Whether others hinder taking something back that is worth waiting for."""
        self._busy = [p for p in without_used(problems).values() if errno_of(p) == errno.EBUSY]
        return bool(self._busy)

    def _finish(self, problems: Mapping[Undo, TracefsError]) -> None:
        """The end: what is still to be taken back stays in the journal.

        Raises:
          TracefsError: the first of the problems, but for user events that are in use.
        """
        worse = without_used(problems)
        self.left = [
            f"{problem}; `ftrace-collector cleanup {self.spec.name}` removes it later"
            for undo, problem in problems.items()
            if undo not in worse
        ]
        self._end()
        for problem in worse.values():
            raise problem

    def _end(self) -> None:
        if self._journal is not None:
            self._journal.close()
        self.close()

    def close(self) -> None:
        """Give the lock up; the instance stays, and so does its journal."""
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
            if self.dir.exists(""):
                raise
            # Somebody else has removed it.

    def _take_back_half(self) -> None:
        """After a failure: an event that is on, or has a trigger, can't be removed, so these go first."""
        with contextlib.suppress(TracefsError):  # the failure says what matters, and `undo` tries it again
            self._quiet()
        self._executor.undo()

    def _take_back(self) -> dict[Undo, TracefsError]:
        """What this run has done, and what an earlier one may have left: triggers, probes of our group, the tracer."""
        problems: dict[Undo, TracefsError] = {}
        if self.existed:
            triggers = Executor(self.dir)
            with contextlib.suppress(TracefsMissingError):  # somebody else has removed the instance
                triggers.own(plan_untrigger(read_triggers(self.dir)))
            problems.update(triggers.undo())
        listed = parse_dynamic_events(self.dir.top.try_read_text(DYNAMIC_FILE) or "")
        group = group_of(self.spec.name)
        self._executor.own(Undo(DYNAMIC_FILE, e.removal, "append", "top") for e in listed if e.group == group)
        # The kernel refuses to change the tracer while the ring is open, and to remove the instance then.
        tracer = (self.dir.try_read_text(TRACER_FILE) or NO_TRACER).strip()
        self._executor.own([Undo(TRACER_FILE, NO_TRACER)] if tracer != NO_TRACER else [])
        problems.update(self._executor.undo())
        return problems

    def _with_others(self, probe: Probe) -> Probe:
        """With what is known of other buffers and of earlier runs."""
        owned = self._journal.events if self._journal is not None else events_of_earlier(self.spec, self.existed)
        return replace(probe, owned=owned, other_tracers=read_rival_tracers(self.dir, self.spec))

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


def without_used(problems: Mapping[Undo, TracefsError]) -> dict[Undo, TracefsError]:
    """Without user events that a program uses: that is what they are for, and it may run longer than we do."""
    return {
        undo: problem
        for undo, problem in problems.items()
        if errno_of(problem) != errno.EBUSY or undo.file != DYNAMIC_FILE or parse_removal(undo.value)[0] != USER_GROUP
    }


def in_initial_pid_namespace() -> bool:
    """Whether thread ids of this process are those that the kernel's pid filters compare."""
    try:
        return os.stat(_PID_NAMESPACE_LINK).st_ino == _INITIAL_PID_NAMESPACE
    except OSError:
        return False
