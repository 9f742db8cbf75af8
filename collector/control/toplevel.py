"""The top-level buffer as what is collected from, for what can't run in an instance.

It is everybody's: it is taken only when nobody uses it and nothing unread is in it, and every file is as before
afterwards. What a killed run has left is read to its end, then taken back, before the next one sets anything up.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace

from collector.control.feasible import check_desired
from collector.control.instance import Instance, without_used
from collector.control.journal import TOP_LEVEL, Journals
from collector.control.lock import find_holder, lock_top_level
from collector.control.neighbours import read_enabled, read_pipe_readers
from collector.control.planner import plan_instance
from collector.control.probing import count_unread, place_of, read_probe, read_snapshot_state
from collector.control.restoring import ALL_EVENTS_FILE, SIZE_FILE, is_size, with_undos
from collector.control.wish import NO_TRACER, TRACER_FILE, InstanceSpec, Probe, Undo, Write
from collector.errors import InstanceBusyError, TracefsError
from collector.tracefs.files import TracefsDir

_SHOWN_EVENTS = 3
_ON_FILE = "tracing_on"


def open_instance(tracefs: TracefsDir, spec: InstanceSpec, journals: Journals | None = None) -> Instance:
    """The instance that the spec means, or the top level; see `Instance.open`."""
    opener = TopLevel if spec.top_level else Instance
    return opener.open(tracefs, spec, journals)


class TopLevel(Instance):
    """The top-level buffer, locked by this process from `open` to `close` or `remove`.

    `existed` says that a killed run has left it set up, until `configure` takes that back.
    """

    @classmethod
    def open(cls, tracefs: TracefsDir, spec: InstanceSpec, journals: Journals | None = None) -> "TopLevel":
        """Lock it. Nothing is set up yet.

        Raises:
          InstanceBusyError: another collector holds it, or somebody else uses it.
          UsageError: the kernel can't do what the spec says.
        """
        top = tracefs.top
        lock_fd = lock_top_level(top)
        try:
            journal = journals.of(TOP_LEVEL, spec.name) if journals is not None else None
            left = journal.left if journal is not None else None
            opened = cls(top, spec, lock_fd, existed=left is not None and left.is_set_up, journal=journal)
            if left is None:
                check_unused(top)
            probe = opened.probe()
            check_desired(spec, probe)
            if journal is not None:
                journal.check_events_free((event.group, event.name) for event in spec.probes)
                journal.check_free([*probe.values, *probe.top_values])
                journal.check_options_free(probe.values)
        except BaseException:
            os.close(lock_fd)
            raise
        return opened

    @property
    def needs_drain_before_configure(self) -> bool:
        """What a killed run has left is taken back first, which clears the rings."""
        return self.existed

    def probe(self) -> Probe:
        return self._with_others(read_top_probe(self.dir, self.spec))

    def configure(self, *, start: bool = True, discard_unread: bool = False) -> None:
        """As for an instance; what a killed run has left is taken back before."""
        if self.existed:
            for problem in without_used(self._restore()).values():
                raise problem
            self.existed = False
        elif self._journal is not None and self._journal.left is not None:
            check_unused(self.dir)  # what is left is an event: others may use all else
        if self._journal is not None:
            self._journal.claim()
        # First of all, so that it is done last: it is as before only when all else is.
        before = self.dir.read_text(_ON_FILE).strip()
        self._executor.run([Write(_ON_FILE, "0", verify="equal", undo=(Undo(_ON_FILE, before),))])
        super().configure(start=start, discard_unread=discard_unread)

    def try_remove(self) -> bool:
        """Take back what was changed; False while somebody has a file open that hinders it.

        Raises:
          TracefsError: something can't be taken back; all else was.
        """
        problems = self._restore()
        if self._is_busy(problems):
            return False
        self._finish(problems)
        return True

    def undo(self, timeout_s: float, *, keep: bool | None = None) -> None:
        """Leave it as it was found. What is still in its rings is kept only with all settings, for the next start."""
        if keep and self._is_set_up:
            self._quiet()
            self._end()
        else:
            self.remove(timeout_s)

    @property
    def _is_set_up(self) -> bool:
        """Tracing is not as before yet. Once it is, a further try for what was hindered must not stop it again."""
        return any(undo.file == _ON_FILE for undo in self._executor.pending)

    def _plan(self, spec: InstanceSpec, probe: Probe, subbuf_size_kb: int) -> list[Write]:
        return plan_top_level(self.dir, spec, probe, subbuf_size_kb)

    def _quiet(self) -> None:
        self.stop_tracing()
        self.dir.write(ALL_EVENTS_FILE, "0")

    def _restore(self) -> Mapping[Undo, TracefsError]:
        """Take back all that was changed, and leave the rings and their counters empty; gives what can't be."""
        if self._is_set_up:
            self.stop_tracing()
            self.dir.clear("trace")
        return self._executor.undo()


def read_top_probe(top: TracefsDir, spec: InstanceSpec) -> Probe:
    """How the top level is set up now. Triggers of others stay: what they do is theirs."""
    return replace(read_probe(top, spec, existed=True), existed=False, triggers={}, snapshot="none")


def plan_top_level(top: TracefsDir, spec: InstanceSpec, probe: Probe, subbuf_size_kb: int | None = None) -> list[Write]:
    """The writes that set it up, each with what takes it back."""
    writes = plan_instance(spec, probe, subbuf_size_kb)
    return with_undos(writes, _read_before(top, [write.file for write in writes]))


def check_unused(top: TracefsDir) -> None:
    """Refuse a buffer that somebody else uses.

    Raises:
      InstanceBusyError: with who or what that is.
    """
    uses = []
    tracer = (top.try_read_text(TRACER_FILE) or NO_TRACER).strip()
    if tracer != NO_TRACER:
        uses.append(f"the tracer {tracer}")
    if events := read_enabled(top):
        names = ", ".join(f"{system}:{name}" for system, name in events[:_SHOWN_EVENTS])
        uses.append(f"{len(events)} events that are on ({names}{', ...' if len(events) > _SHOWN_EVENTS else ''})")
    readers = read_pipe_readers()[0] if top.live else ()
    uses += [f"process {reader.pid} ({reader.comm}), which reads it" for reader in readers if not reader.instance]
    if unread := count_unread(top):
        uses.append(f"{unread} entries that nobody has read")
    if read_snapshot_state(top) not in ("none", "freed"):
        uses.append("a snapshot that is kept")
    if uses:
        raise InstanceBusyError(
            "the top-level buffer is in use by somebody else", where=str(top.path),
            expected="no tracer, event, reader, entry or snapshot", got="; ".join(uses),
            hint=f"stop that use; `echo > {top.path}/trace` throws entries away, `echo 0 > snapshot` there a snapshot",
        )  # fmt: skip


def check_free_to_plan(top: TracefsDir, journals: Journals | None) -> None:
    """As `check_unused`, unless it is a collector's: then its lock, or what a killed one has left, is told elsewhere.

    Raises:
      InstanceBusyError: with who or what uses it.
    """
    left = journals is not None and any(record.key == TOP_LEVEL and record.is_set_up for record in journals.read_all())
    if not left and find_holder(top.path) is None:
        check_unused(top)


def _read_before(top: TracefsDir, files: Iterable[str]) -> dict[str, str]:
    """{file: text} of these, and of all sizes where one of them is among them."""
    wanted = list(files)
    if any(is_size(file) for file in wanted):
        wanted += [SIZE_FILE, *(f"per_cpu/cpu{cpu}/{SIZE_FILE}" for cpu in top.possible_cpus())]
    found = {}
    for file in dict.fromkeys(wanted):
        folder, name = place_of(top, file, at_top=True)
        text = folder.try_read_text(name)
        if text is not None:
            found[file] = text
    return found
