"""The journal: what takes back a run's changes that outlive its instance, on disk before each of them is made.

`FOLDER/INSTANCE.undo`, lines of JSON:

    {"boot_id": "...", "instance": "...", "pid": 123}                                      whose it is
    {"n": 1, "file": "max_graph_depth", "value": "0", "mode": "write", "scope": "top"}     what takes a change back
    {"done": 1}                                                                            it was done

The last is done first. The first line appears with the file, at once; the others are appended with one write each, and
a last line that is torn counts for nothing. Nothing is synced: it has to survive the process, not the machine, for
after a boot tracefs is as new and the journal void. The file goes with the last undo.
"""

import contextlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args

from collector.control.wish import Mode, Scope, Undo
from collector.errors import InstanceBusyError, TracefsError
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import parse_removal
from collector.tracefs.events import EventName
from collector.tracefs.tracers import is_tracers_option

SUFFIX = ".undo"
DEFAULT_FOLDER = Path("/run/ftrace-collector")
TOP_LEVEL = "@top"  # the top-level buffer's journal; no instance is named so
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Record:
    """A journal as it is read."""

    key: str  # its file's name: an instance's, or TOP_LEVEL
    boot_id: str
    instance: str  # as the run called it
    pid: int  # of the run, in its own PID namespace
    undos: Mapping[int, Undo] = field(default_factory=dict)  # {number: undo} of those to be done, the last one first

    @property
    def shared_files(self) -> frozenset[str]:
        """Files of all users of tracing whose values it has: events that were made are their maker's alone."""
        return frozenset(u.file for u in self.undos.values() if u.scope == "top" and u.file != DYNAMIC_FILE)

    @property
    def is_set_up(self) -> bool:
        """Whether more is left than events that somebody used when the run ended."""
        return not self.undos or any(undo.file != DYNAMIC_FILE for undo in self.undos.values())

    @property
    def events(self) -> frozenset[EventName]:
        """Events that were made."""
        return frozenset(parse_removal(undo.value) for undo in self.undos.values() if undo.file == DYNAMIC_FILE)


def runtime_folder(environment: Mapping[str, str]) -> Path:
    """Where journals are: what systemd gives the service, or the same place without it."""
    given = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return Path(given) if given else DEFAULT_FOLDER


def read_boot_id() -> str:
    """Names this boot of the kernel."""
    return _BOOT_ID.read_text().strip()


def parse_journal(text: str, key: str) -> Record | None:
    """Parse a journal; None when its first line doesn't say whose it is. Lines that can't be understood are left out.

    Args:
      key: the name of its file, without the suffix.
    """
    lines = _parse_lines(text)
    undos: dict[int, Undo] = {}
    match next(lines, None):
        case {"boot_id": str(boot_id), "instance": str(instance), "pid": int(pid)}:
            record = Record(key, boot_id, instance, pid, undos)
        case _:
            return None
    for line in lines:
        match line:
            case {"done": int(number)}:
                undos.pop(number, None)
            case {"n": int(number), "file": str(file), "value": str(value), "mode": mode, "scope": scope}:
                if mode in get_args(Mode) and scope in get_args(Scope):
                    undos[number] = Undo(file, value, mode, scope)
    return record


def build_journal(record: Record) -> bytes:
    """The text of a journal."""
    head = {"boot_id": record.boot_id, "instance": record.instance, "pid": record.pid}
    return b"".join([_line(head), *(_line({"n": number, **asdict(undo)}) for number, undo in record.undos.items())])


class Journals:
    """The folder of journals, and those of this run.

    Args:
      folder: made when the first journal is written.
      boot_id: of the running kernel; journals of others are void.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        self.folder = folder
        self.boot_id = boot_id
        self._own: dict[str, Journal] = {}

    @classmethod
    def of_system(cls) -> "Journals":
        """Those of the running kernel."""
        return cls(runtime_folder(os.environ), read_boot_id())

    def of(self, key: str, instance: str) -> "Journal":
        """The journal of an instance that this process has locked, with what an earlier run left in it."""
        path = self.folder / f"{key}{SUFFIX}"
        self._own[key] = journal = Journal(path, Record(key, self.boot_id, instance, os.getpid()), self._others)
        return journal

    def read_all(self) -> list[Record]:
        """All journals of this boot, sorted by name; what can't be read is left out."""
        try:
            paths = sorted(path for path in self.folder.iterdir() if path.suffix == SUFFIX)
        except OSError:
            return []
        records = (read_journal(path) for path in paths)
        return [record for record in records if record is not None and record.boot_id == self.boot_id]

    def _others(self) -> tuple[list[Record], list[Record]]:
        """(journals of other runs, those of this one)"""
        records = self.read_all()
        own = [record for record in records if record.key in self._own]
        return [record for record in records if record.key not in self._own], own


def read_journal(path: Path) -> Record | None:
    """A journal; None when there is none, or none that can be read."""
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return parse_journal(text, path.name.removesuffix(SUFFIX))


class Journal:
    """The journal of one instance, whose lock this process holds."""

    def __init__(self, path: Path, owner: Record, others: Callable[[], tuple[list[Record], list[Record]]]) -> None:
        """Use `Journals.of`."""
        left = read_journal(path)
        self.path = path
        self._owner = owner
        self._others = others
        # What an earlier run of this boot has left: None when it ended in good order.
        self.left = left if left is not None and left.boot_id == owner.boot_id else None
        self._undos = dict(self.left.undos) if self.left is not None else {}
        self._problem: OSError | None = None  # why it can't be written

    @property
    def undos(self) -> list[Undo]:
        """What is to be done still, the last one first."""
        return list(self._undos.values())

    @property
    def events(self) -> frozenset[EventName]:
        """Events that were made and are still to be removed."""
        return self._record.events

    def claim(self) -> None:
        """Write it anew in this process's name. Where that can't be, `note` says so when it matters."""
        record = self._record
        try:
            self.path.parent.mkdir(mode=0o750, exist_ok=True)
            fresh = self.path.with_suffix(f".{self._owner.pid}")
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640), "wb") as file:
                file.write(build_journal(record))
            fresh.replace(self.path)
        except OSError as error:
            self._problem = error

    def check_free(self, files: Iterable[str]) -> None:
        """Refuse to change shared values that another run has changed: what it found is the original, not what is now.

        Raises:
          InstanceBusyError: with whose they are.
        """
        wanted = set(files)
        for record in self._others()[0]:
            _refuse_held(record, wanted & record.shared_files)

    def check_options_free(self, values: Mapping[str, str]) -> None:
        """The same for options of tracers, where all instances have the same flags: then the change is seen here too.

        Args:
          values: {file: its value now} of what is wished for.

        Raises:
          InstanceBusyError: with whose they are.
        """
        mine = {undo.file for undo in self._undos.values()}
        now = {file: text.strip() for file, text in values.items() if file not in mine and _is_tracers(file)}
        for record in self._others()[0]:
            changed = (undo for undo in record.undos.values() if now.get(undo.file, undo.value) != undo.value)
            _refuse_held(record, {undo.file for undo in changed})

    def check_events_free(self, events: Iterable[EventName]) -> None:
        """Refuse to make events that another run has made.

        Raises:
          InstanceBusyError: with whose they are.
        """
        wanted = frozenset(events)
        for record in self._others()[0]:
            for group, name in sorted(wanted & record.events):
                raise InstanceBusyError(
                    "another run has made an event of this name, and removes it at its end", where="probes",
                    expected="a name that is free", got=f"{group}/{name} of process {record.pid}, "
                    f"instance {record.instance}",
                    hint=f"take another name; if that run was killed: `ftrace-collector cleanup {record.instance}`",
                )  # fmt: skip

    def note(self, undos: Sequence[Undo], *, needed: bool) -> None:
        """Have these on disk before the change is made.

        Args:
          undos: the last is done first.
          needed: without a journal the change must not be made.

        Raises:
          InstanceBusyError: another run has changed the value.
          TracefsError: they can't be written.
        """
        number = max(self._undos, default=0) + 1
        fresh = dict(enumerate(undos, number))
        try:
            self._append([{"n": n, **asdict(undo)} for n, undo in fresh.items()])
        except OSError as error:
            if needed:
                raise TracefsError(
                    "what takes a change of shared values back can't be noted, so it isn't made", where=str(self.path),
                    expected="a folder that can be written", got=str(error),
                    hint=f"make {self.path.parent} writable, or set RUNTIME_DIRECTORY to another folder; under "
                    "systemd, RuntimeDirectory=ftrace-collector does that",
                ) from error  # fmt: skip
            return
        self._undos |= fresh
        # Noted first, then looked: of two runs that change the same at once, one at least sees the other.
        try:
            self.check_free(Record("", "", "", 0, fresh).shared_files)
        except InstanceBusyError:
            self.forget(undos)
            raise

    def forget(self, undos: Iterable[Undo]) -> None:
        """These are done, or their change was not made."""
        for undo in undos:
            number = next((n for n, noted in reversed(self._undos.items()) if noted == undo), None)
            if number is not None:
                del self._undos[number]
                with contextlib.suppress(OSError):  # done once more is no harm, and the file goes in the end
                    self._append([{"done": number}])

    def is_held_here(self, undo: Undo) -> bool:
        """Whether another instance of this run has noted the shared value: it restores the original."""
        return any(record.key != self._owner.key and undo.file in record.shared_files for record in self._others()[1])

    def close(self) -> None:
        """The run of this instance is over: the file stays only with what is still to be done."""
        if not self._undos:
            with contextlib.suppress(OSError):
                self.path.unlink()

    @property
    def _record(self) -> Record:
        return replace(self._owner, undos=self._undos)

    def _append(self, lines: Sequence[Mapping[str, object]]) -> None:
        if self._problem is not None:
            raise self._problem
        data = b"".join(map(_line, lines))
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            size_bytes = os.fstat(fd).st_size
            written = os.write(fd, data)
            if written < len(data):
                os.ftruncate(fd, size_bytes)
                raise OSError(f"{written} of {len(data)} bytes were written")
        finally:
            os.close(fd)


def _is_tracers(file: str) -> bool:
    folder, _, name = file.rpartition("/")
    return folder == "options" and is_tracers_option(name)


def _refuse_held(record: Record, files: Collection[str]) -> None:
    if files:
        raise InstanceBusyError(
            "another run has changed this value of all users of tracing, and restores it at its end",
            where=", ".join(sorted(files)), expected="one run at a time that changes it",
            got=f"a change by process {record.pid}, instance {record.instance}",
            hint=f"stop it, or leave the key out here; if it was killed: "
            f"`ftrace-collector cleanup {record.instance}` restores the value",
        )  # fmt: skip


def _line(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogateescape") + b"\n"


def _parse_lines(text: str) -> Iterator[object]:
    """The lines that are JSON; the last only when it is whole."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            with contextlib.suppress(ValueError):
                yield json.loads(line)
