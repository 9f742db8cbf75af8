"""Does a plan's writes: each is read back, and what would outlive the instance is taken back in the reverse order.

No errno is taken for a state of the kernel: what is said to be gone already is looked at.
"""

import errno
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from collector.control.holders import why_tracer_is_busy
from collector.control.journal import Journal
from collector.control.planner import trigger_name
from collector.control.probing import parse_size_kb, place_of
from collector.control.removal import remove_event
from collector.control.wish import TRACER_FILE, Undo, Write
from collector.errors import TracefsError, TracefsMissingError, TracefsPermissionError
from collector.tracefs.cpus import parse_cpu_mask
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import KERNEL_GROUPS, parse_dynamic_events, parse_removal
from collector.tracefs.files import TracefsDir, errno_of
from collector.tracefs.functions import matching_functions, parse_functions
from collector.tracefs.snapshots import parse_snapshot_state

_ERROR_LOG = "error_log"
_EXPLAINED = ("filter", "trigger")  # files of an event whose refusals the kernel logs


class NoMemoryError(Exception):
    """A size was refused with ENOMEM: a smaller one may do."""

    def __init__(self, reason: TracefsError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Executor:
    """Writes to one instance, and remembers what takes it back.

    Args:
      tree: the instance, or the top level.
      journal: where what outlives the instance is noted, with what an earlier run has left there; None: nowhere.
    """

    def __init__(self, tree: TracefsDir, journal: Journal | None = None) -> None:
        self._tree = tree
        self._journal = journal
        self._at_top = tree is tree.top
        self._undo: list[Undo] = journal.undos if journal is not None else []  # the last is done first

    @property
    def pending(self) -> tuple[Undo, ...]:
        """What `undo` has to do still, in its order."""
        return tuple(reversed(self._undo))

    def own(self, undos: Iterable[Undo]) -> None:
        """Take over what an earlier run has left: these are done last."""
        self._undo[:0] = [undo for undo in undos if undo not in self._undo]

    def run(self, writes: Iterable[Write], *, start: bool = True) -> None:
        """Do the writes in order.

        Args:
          start: False leaves out the write that starts tracing.

        Raises:
          NoMemoryError: the sizes are too large, smaller ones may do.
          TracefsError: the kernel refuses a value, or has another afterwards. What was done is the caller's to undo.
        """
        for write in writes:
            if (write.file, write.value) == ("tracing_on", "1") and not start:
                continue
            try:
                self._do(write)
            except TracefsError as error:
                if write.sizes_memory and errno_of(error) == errno.ENOMEM:
                    raise NoMemoryError(error) from error
                raise

    def undo(self, *, only_shared: bool = False) -> Mapping[Undo, TracefsError]:
        """Take back what was done, in reverse; what fails stays for another try. Gives the failures.

        Args:
          only_shared: single values of the top level alone: all else would clear the rings of an instance that is kept.
        """
        problems: dict[Undo, TracefsError] = {}
        kept: list[Undo] = []
        while self._undo:
            undo = self._undo.pop()
            if only_shared and (undo.scope != "top" or undo.file == DYNAMIC_FILE):
                kept.append(undo)
                continue
            try:
                self._write(undo)
            except TracefsError as error:
                if not self._is_taken_back(undo):
                    problems[undo] = error
                    kept.append(undo)
                    continue
            if self._journal is not None:
                self._journal.forget([undo])
        self._undo = kept[::-1]
        return problems

    def outlives(self, undo: Undo) -> bool:
        """Whether removing the instance leaves the change: a tracer's options are the tracer's, not the instance's."""
        return undo.scope == "top" or undo.file.startswith("options/")

    def _is_taken_back(self, undo: Undo) -> bool:
        """Whether the file reads as it should after a write that failed; one that is not there has gone with its event.

        Of events that were made `remove_event` has looked itself.
        """
        tree, name = place_of(self._tree, undo.file, at_top=undo.scope == "top")
        try:
            text = tree.try_read_text(name)
        except TracefsError:
            return False
        if text is None or (undo.mode == "write" and text.strip() == undo.value):
            return True
        if undo.mode == "append" and undo.value.startswith("!"):
            return trigger_name(undo.value[1:]) not in {trigger_name(line) for line in text.splitlines()}
        return False

    def _do(self, write: Write) -> None:
        log = self._explanations() if _is_explained(write) else ""
        undos = self._new_undos(write)
        noted = [undo for undo in undos if self.outlives(undo)]
        self._note(noted)
        try:
            self._write(write)
        except TracefsError as error:
            if _may_have_changed(write, error):
                self._undo += undos
            elif self._journal is not None:
                self._journal.forget(noted)
            if write.file == TRACER_FILE and errno_of(error) == errno.EBUSY:
                raise _with_hint(error, why_tracer_is_busy(self._tree, write.value)) from error.__cause__
            if not _is_explained(write):
                raise
            raise _explained(error, write, log, self._explanations()) from error.__cause__
        # Before it is read back: also a value that is not as wished has replaced the old one.
        self._undo += undos
        self._verify(write)

    def _new_undos(self, write: Write) -> list[Undo]:
        """What takes the write back, the last to be done first; without values whose original is known already.

        After a crash that is what the journal has, not what the killed run has left.
        """
        known = {(undo.scope, undo.file) for undo in self._undo if undo.mode != "append"}
        undos = [replace(undo, scope="top") if self._at_top else undo for undo in reversed(write.undo)]
        return [undo for undo in undos if (undo.scope, undo.file) not in known and undo not in self._undo]

    def _note(self, undos: list[Undo]) -> None:
        if self._journal is None:
            return
        mine = [undo for undo in undos if not self._journal.is_held_here(undo)]
        if mine:
            self._journal.note(mine, needed=self._at_top or not all(map(_is_found_again, mine)))

    def _write(self, write: Write | Undo) -> None:
        tree, name = place_of(self._tree, write.file, at_top=write.scope == "top")
        if _is_removal(write):
            remove_event(tree.top, write.value)
        else:
            _WRITERS[write.mode](tree, name, write.value)

    def _verify(self, write: Write) -> None:
        if write.verify == "none":
            return
        tree, name = place_of(self._tree, write.file, at_top=write.scope == "top")
        # Of a ring that may be full: the kernel formats no more of it than is read.
        text = (tree.read_head(name) if write.verify == "allocated" else tree.read_text(name)).strip()
        if write.file == "trace_clock":
            text = tree.read_clock()[0]
        if not _CHECKS[write.verify](self._tree, write.value, text):
            raise TracefsError(
                "the kernel took the value but has another", where=f"{tree.path}/{name}", expected=write.value,
                got=text if len(text) < 200 else text[:200] + "...",
                hint="another process may be changing this instance",
            )  # fmt: skip

    def _explanations(self) -> str:
        """The kernel's log of refused filters, triggers and probes: the instance's, and that of the top level."""
        texts = (folder.try_read_text(_ERROR_LOG) for folder in dict.fromkeys((self._tree, self._tree.top)))
        return "\n".join(text for text in texts if text)


def _may_have_changed(write: Write, error: TracefsError) -> bool:
    """Whether a write that failed has changed something: it was taken in part, or a list was emptied before it."""
    could_open = not isinstance(error, TracefsMissingError | TracefsPermissionError)
    return errno_of(error) is None or (write.mode == "replace" and could_open)


def _is_removal(write: Write | Undo) -> bool:
    return write.file == DYNAMIC_FILE and write.value.startswith("-:")


def _is_found_again(undo: Undo) -> bool:
    """Whether a later start knows the change for ours without a journal: events in a group of ours are."""
    return _is_removal(undo) and parse_removal(undo.value)[0] not in KERNEL_GROUPS


def _is_explained(write: Write) -> bool:
    return (write.file == DYNAMIC_FILE and not _is_removal(write)) or write.file.rpartition("/")[2] in _EXPLAINED


def _explained(error: TracefsError, write: Write, before: str, after: str) -> TracefsError:
    """The error with what the kernel has logged since; without, where that is nothing: an old entry would mislead."""
    new = [entry for entry in _split_log(after) if entry not in set(_split_log(before))]
    hint = f"the kernel says:\n{new[-1]}" if new else None
    if errno_of(error) not in (errno.EINVAL, errno.ENOENT, errno.EEXIST) and not new:
        hint = error.hint
    if hint is None and write.file == DYNAMIC_FILE:
        hint = "`doctor` says which kinds of probes this kernel has"
    return _with_hint(error, hint)


def _with_hint(error: TracefsError, hint: str | None) -> TracefsError:
    return type(error)(error.what, where=error.where, expected=error.expected, got=error.got, hint=hint)


def _split_log(text: str) -> list[str]:
    """The entries of error_log: a line with the time, the command, and a caret below the place."""
    entries: list[str] = []
    for line in text.splitlines():
        if line.startswith("[") or not entries:
            entries.append(line)
        else:
            entries[-1] += f"\n{line}"
    return [entry.rstrip() for entry in entries]


def _has_cpus(tree: TracefsDir, value: str, text: str) -> bool:
    possible = set(tree.possible_cpus())
    return set(parse_cpu_mask(text)) & possible == set(parse_cpu_mask(value)) & possible


def _at_least(_: TracefsDir, value: str, text: str) -> bool:
    size = parse_size_kb(text)  # None: CPUs differ, then each has what there was room for
    return size is not None and size >= int(value)


def _has_event(_: TracefsDir, value: str, text: str) -> bool:
    wished = {(event.group, event.name) for event in parse_dynamic_events(value)}
    return wished <= {(event.group, event.name) for event in parse_dynamic_events(text)}


_CHECKS: dict[str, Callable[[TracefsDir, str, str], bool]] = {
    "equal": lambda _, value, text: text == value,
    "at_least": _at_least,
    "cpus": _has_cpus,
    "words": lambda _, value, text: set(value.split()) <= set(text.split()),
    "functions": lambda _, value, text: bool(matching_functions(value, parse_functions(text))),
    "listed": _has_event,
    "allocated": lambda _tree, _value, text: parse_snapshot_state(text) != "freed",
    "trigger": lambda _, value, text: trigger_name(value) in {trigger_name(line) for line in text.splitlines()},
}

_WRITERS: dict[str, Callable[[TracefsDir, str, str], None]] = {
    "write": lambda tree, name, value: tree.write(name, value),
    "append": lambda tree, name, value: tree.append(name, value),
    "clear": lambda tree, name, _: tree.clear(name),
    "replace": lambda tree, name, value: tree.replace(name, value),
}
