"""All I/O on tracefs: nothing else names one of its paths. What the files say is parsed elsewhere.

A recorded tree (regular files laid out like the real ones, kallsyms and uname beside it) reads
the same way; many of its files may be missing.
"""

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from collector.errors import (
    TracefsError,
    TracefsFormatError,
    TracefsMissingError,
    TracefsPermissionError,
)
from collector.tracefs.clocks import parse_trace_clock
from collector.tracefs.cpus import parse_cpu_list
from collector.tracefs.events import (
    HYPERVISOR_SYSTEMS,
    EventName,
    enabling_events,
    matching_events,
    near_matches,
    parse_available_events,
    select_events,
)
from collector.tracefs.formats import EventFormat, parse_event_format, parse_format_id
from collector.tracefs.layout import PAGE_HEAD_BYTES, PageLayout, parse_header_event, parse_header_page
from collector.tracefs.stats import CpuStats, parse_cpu_stats

MOUNT_HINT = "mount it with `mount -t tracefs nodev /sys/kernel/tracing`"
ROOT_HINT = "run as root, or mount tracefs with gid= and join that group"

_USUAL_PLACE = Path("/sys/kernel/tracing")
_DEBUGFS_PLACE = "tracing"  # below debugfs, where tracefs is mounted on first use
_MOUNTS = Path("/proc/self/mounts")
_ONLINE_CPUS = Path("/sys/devices/system/cpu/online")
_KALLSYMS = Path("/proc/kallsyms")
_STATS_MAX_BYTES: Final = 4096  # a stats file has about 200
HEAD_BYTES: Final = 4096


def find_tracefs() -> Path:
    """The folder where tracefs is mounted.

    Raises:
      TracefsMissingError: it is mounted nowhere.
      TracefsPermissionError: it is, but can't be looked into.
    """
    mounts = [line.split(" ") for line in _MOUNTS.read_text(errors="surrogateescape").splitlines()]
    places = [Path(_unescape_mount(fields[1])) for fields in mounts if fields[2] == "tracefs"]
    places.sort(key=lambda place: place != _USUAL_PLACE)
    places += [Path(_unescape_mount(fields[1])) / _DEBUGFS_PLACE for fields in mounts if fields[2] == "debugfs"]
    for place in places:
        try:
            os.stat(place / "trace_clock")
        except PermissionError as error:
            raise TracefsPermissionError(
                "tracefs can't be looked into", where=str(place), got=_errno_text(error), hint=ROOT_HINT
            ) from error
        except FileNotFoundError:
            continue
        return place
    raise TracefsMissingError(
        "tracefs is not mounted", where=str(_USUAL_PLACE), expected="a mounted tracefs", got="none", hint=MOUNT_HINT
    )


def errno_of(error: BaseException) -> int | None:
    """The errno behind one of our errors, for the few that are acted on."""
    return error.__cause__.errno if isinstance(error.__cause__, OSError) else None


class TracefsDir:
    """tracefs itself, one instance of it, or a recorded tree."""

    def __init__(self, path: Path, *, top: "TracefsDir | None" = None) -> None:
        """`top` is the tracefs that an instance belongs to: some files exist only there."""
        self.path = path
        self.top = top or self
        self.live: bool = top.live if top else _is_tracefs(path)

    def instance(self, name: str) -> "TracefsDir":
        """The instance of that name, whether it exists or not."""
        return TracefsDir(self.top.path / "instances" / name, top=self.top)

    # Reading and writing any file

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def read_bytes(self, name: str) -> bytes:
        """The whole file.

        Raises:
          TracefsMissingError, TracefsPermissionError, TracefsError: it can't be read.
        """
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise self._error(error, name, "can't be read") from error

    def read_text(self, name: str) -> str:
        """The whole file as text; bytes that are no UTF-8 come as surrogates."""
        return self.read_bytes(name).decode("utf-8", "surrogateescape")

    def read_head(self, name: str) -> str:
        """The first page of a file's text: of those that the kernel formats from a ring, the rest isn't formatted.

        Raises:
          as read_bytes.
        """
        try:
            with open(self.path / name, "rb", buffering=0) as file:
                return (file.read(HEAD_BYTES) or b"").decode("utf-8", "surrogateescape")
        except OSError as error:
            raise self._error(error, name, "can't be read") from error

    def read_up_to(self, name: str, max_bytes: int) -> bytes:
        """The file's first bytes; the kernel formats no more of it than that.

        Raises:
          as read_bytes.
        """
        data = bytearray()
        try:
            with open(self.path / name, "rb", buffering=0) as file:
                while len(data) < max_bytes and (more := file.read(max_bytes - len(data))):
                    data += more
        except OSError as error:
            raise self._error(error, name, "can't be read") from error
        return bytes(data)

    def try_read(self, name: str) -> bytes | None:
        """The whole file; None where this kernel or this recorded tree doesn't have it."""
        try:
            return (self.path / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error(error, name, "can't be read") from error

    def try_read_text(self, name: str) -> str | None:
        data = self.try_read(name)
        return None if data is None else data.decode("utf-8", "surrogateescape")

    def read_lines(self, name: str) -> Iterator[str]:
        """The file's lines one after the other, for lists that are too long to hold.

        Raises:
          as read_bytes.
        """
        try:
            with (self.path / name).open(encoding="utf-8", errors="surrogateescape") as file:
                yield from file
        except OSError as error:
            raise self._error(error, name, "can't be read") from error

    def list_names(self, name: str) -> list[str]:
        """The names in a folder, sorted.

        Raises:
          as read_bytes.
        """
        try:
            return sorted(os.listdir(self.path / name))
        except OSError as error:
            raise self._error(error, name, "can't be listed") from error

    def watch_changes(self, name: str) -> "Changes | None":
        """What tells that the kernel has changed a file (inotify); None where nobody does."""
        return _watch_file(self.path / name)

    def why_unreadable(self, name: str) -> int | None:
        """The errno that opening the file for reading ends in, None when it opens."""
        try:
            os.close(os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            return error.errno
        return None

    def write(self, name: str, value: str) -> None:
        """Write a value in ONE write(2) without truncation: truncating clears lists and the trace itself.

        Raises:
          TracefsError and its kinds: the kernel refuses; the message has the value, and what would be right.
        """
        self._write(name, value, 0)

    def append(self, name: str, value: str) -> None:
        """Add an item to a list file."""
        self._write(name, value, os.O_APPEND)

    def clear(self, name: str) -> None:
        """Empty a list file."""
        self._write(name, "", os.O_TRUNC)

    def replace(self, name: str, value: str) -> None:
        """Empty a list file and write one value, through one open file so that the list is empty only for a moment."""
        self._write(name, value, os.O_TRUNC)

    def _write(self, name: str, value: str, flags: int) -> None:
        data = f"{value}\n".encode("utf-8", "surrogateescape") if value else b""
        opened = False
        try:
            fd = os.open(self.path / name, os.O_WRONLY | os.O_CLOEXEC | flags)
            opened = True
            try:
                written = os.write(fd, data) if data else 0
            finally:
                os.close(fd)
        except OSError as error:
            raise self._error(error, name, "the kernel refuses the value", value, opened=opened) from error
        if written < len(data.rstrip()):
            raise TracefsError(
                "the kernel took a part of the value only", where=str(self.path / name), expected=repr(value),
                got=f"{written} of {len(data)} bytes",
            )  # fmt: skip

    # Rings

    def possible_cpus(self) -> tuple[int, ...]:
        """CPUs that have a folder: all that could ever come, or all that were recorded."""
        try:
            names = os.listdir(self.path / "per_cpu")
        except OSError as error:
            raise self._error(error, "per_cpu", "can't be listed") from error
        return tuple(sorted(int(name[3:]) for name in names if name.startswith("cpu") and name[3:].isdecimal()))

    def online_cpus(self) -> tuple[int, ...]:
        """CPUs that run now; in a recorded tree all of it."""
        possible = self.possible_cpus()
        if not self.live:
            return possible
        online = set(parse_cpu_list(_ONLINE_CPUS.read_text()))
        return tuple(cpu for cpu in possible if cpu in online)

    def open_raw(self, cpu: int) -> int:
        """A non-blocking file descriptor on the CPU's trace_pipe_raw. The caller closes it.

        Never duplicate it, and never let a child inherit it: closing the duplicate marks the file closed,
        and from then on an empty read gives 0 and not EAGAIN.
        """
        return self._open(f"per_cpu/cpu{cpu}/trace_pipe_raw")

    def open_snapshot(self, cpu: int) -> int:
        """As `open_raw`, of the ring that is not live: the last snapshot. It follows each swap.

        Raises:
          TracefsError: EBUSY, a tracer keeps its longest trace there.
        """
        return self._open(f"per_cpu/cpu{cpu}/snapshot_raw")

    def open_pipe(self, cpu: int | None) -> int:
        """A non-blocking file descriptor on the CPU's trace_pipe, None: on that of all CPUs. The caller closes it.

        An instance's trace_pipe excludes the CPUs' own ones, and each has one reader.

        Raises:
          TracefsError: EBUSY, another reader has it.
        """
        return self._open("trace_pipe" if cpu is None else f"per_cpu/cpu{cpu}/trace_pipe")

    def open_stats(self, cpu: int) -> int:
        """A file descriptor for `read_stats_fd`: sampling through it saves the path walk. The caller closes it."""
        return self._open(f"per_cpu/cpu{cpu}/stats")

    def read_heads(self, cpu: int, layout: PageLayout, most: int) -> list[bytes]:
        """The beginnings of the first sub-buffers in a recorded file of a ring; reading a live one would take them."""
        heads: list[bytes] = []
        name = f"per_cpu/cpu{cpu}/trace_pipe_raw"
        try:
            with (self.path / name).open("rb") as file:
                while len(heads) < most and len(head := file.read(PAGE_HEAD_BYTES)) == PAGE_HEAD_BYTES:
                    heads.append(head)
                    file.seek(layout.subbuf_size - PAGE_HEAD_BYTES, os.SEEK_CUR)
        except OSError as error:
            raise self._error(error, name, "can't be read") from error
        return heads

    def read_stats(self, cpu: int) -> CpuStats:
        """The CPU's counters now; the kernel's never block."""
        return parse_cpu_stats(self.read_text(f"per_cpu/cpu{cpu}/stats"))

    def try_read_stats(self, cpu: int) -> CpuStats | None:
        """The CPU's counters; None in a recorded tree without them."""
        text = self.try_read_text(f"per_cpu/cpu{cpu}/stats")
        return None if text is None else parse_cpu_stats(text)

    def try_read_ring_size_bytes(self, cpu: int) -> int | None:
        """The size of the CPU's ring, to the KiB; None where no file says it."""
        words = (self.try_read_text(f"per_cpu/cpu{cpu}/buffer_size_kb") or "").split()
        return int(words[0]) * 1024 if words and words[0].isdecimal() and len(words[0]) < 16 else None

    def _open(self, name: str) -> int:
        try:
            return os.open(self.path / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise self._error(error, name, "can't be opened") from error

    def read_layout(self) -> PageLayout:
        """The sub-buffers' layout as of now: it changes with the sub-buffer size of this instance."""
        header_event = self.try_read_text("events/header_event")
        if header_event is not None:
            parse_header_event(header_event)
        return parse_header_page(self.read_text("events/header_page"))

    def read_clock(self) -> tuple[str, tuple[str, ...]]:
        """(current clock, clocks that this kernel has)."""
        return parse_trace_clock(self.read_text("trace_clock"))

    # Maps that exist at the top only

    def read_saved_cmdlines(self) -> bytes | None:
        return self.top.try_read("saved_cmdlines")

    def read_saved_tgids(self) -> str | None:
        return self.top.try_read_text("saved_tgids")

    def read_printk_formats(self) -> str | None:
        return self.top.try_read_text("printk_formats")

    def read_kallsyms(self) -> bytes | None:
        """/proc/kallsyms, or the file beside a recorded tree; None where there is none. Some MB: read when needed."""
        path = _KALLSYMS if self.live else self.top.path.parent / "kallsyms"
        try:
            return path.read_bytes()
        except (FileNotFoundError, PermissionError):
            return None

    def read_uname(self) -> str | None:
        """The kernel of a recorded tree, from the file beside it; None for the live one."""
        path = self.top.path.parent / "uname"
        return None if self.live or not path.exists() else path.read_text(errors="replace").strip()

    # Events

    def list_events(self, pattern: str = "*:*") -> list[EventName]:
        """(system, event) of all events that can be enabled and match the pattern, sorted; [] when none does."""
        return matching_events(pattern, self._available_events())

    def match_events(self, patterns: Iterable[str]) -> list[EventName]:
        """The events that patterns name, see `events.select_events`.

        Raises:
          UsageError: a pattern names nothing.
        """
        return select_events(patterns, self._available_events())

    def _available_events(self) -> list[EventName]:
        text = self.top.try_read_text("available_events")
        if text is not None:
            return parse_available_events(text)
        return enabling_events(self.list_event_folders())

    def list_event_folders(self, system: str | None = None) -> list[EventName]:
        """(system, event) of all folders of events that the rings can have, the tracers' own included, sorted.

        Args:
          system: of this one alone.
        """
        root = self.path / "events"
        found: list[EventName] = []
        try:
            for folder in [system] if system else sorted(set(_folders_of(root)) - HYPERVISOR_SYSTEMS):
                found.extend((folder, name) for name in _folders_of(root / folder))
        except OSError as error:
            raise self._error(error, "events", "can't be listed") from error
        return sorted(found)

    def read_event_format(self, system: str, name: str, word_size: int) -> EventFormat:
        """Raises TracefsMissingError: no such event (a module was unloaded); TracefsFormatError: not as documented."""
        return parse_event_format(self.read_text(f"events/{system}/{name}/format"), system, word_size)

    def read_event_id(self, system: str, name: str) -> int:
        """The event's number, from its `id` file or, where there is none, from its format."""
        text = self.try_read_text(f"events/{system}/{name}/id")
        if text is None:
            return parse_format_id(self.read_text(f"events/{system}/{name}/format"))
        if not text.strip().isdecimal():
            raise TracefsFormatError(
                "not an event id", where=str(self.path / f"events/{system}/{name}/id"), expected="a number",
                got=repr(text),
            )  # fmt: skip
        return int(text)

    def _error(
        self, error: OSError, name: str, what: str, value: str | None = None, *, opened: bool = False
    ) -> TracefsError:
        """Our error for what the kernel said, with what it would have taken.

        Args:
          opened: the file is there; ENOENT is then of something that the value names.
        """
        got = _errno_text(error) if value is None else f"{_errno_text(error)} for {value!r}"
        where = str(self.path / name)
        hint = self._hint(error, name)
        # ENODEV: what the file belongs to, an event or an instance, went while it was open.
        if error.errno == errno.ENODEV or (error.errno in (errno.ENOENT, errno.ENOTDIR) and not opened):
            return TracefsMissingError("no such file", where=where, got=got, hint=hint)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return TracefsPermissionError(what, where=where, got=got, hint=hint)
        return TracefsError(what, where=where, expected=_expected(name), got=got, hint=hint)

    def _hint(self, error: OSError, name: str) -> str | None:
        """What to do; only reads files, and none that could be the one which failed."""
        if error.errno == errno.EROFS:
            return "tracefs is mounted read-only; under systemd, ProtectKernelTunables= does that"
        if error.errno in (errno.EACCES, errno.EPERM):
            return ROOT_HINT if os.geteuid() else "kernel lockdown or a security module forbids it"
        if error.errno == errno.EBUSY and "snapshot" in name:
            return "a latency tracer, or a histogram with a snapshot() action, has this ring to itself"
        if error.errno == errno.EBUSY and name.endswith("trace_pipe"):
            return "another reader has a trace_pipe of this instance open: end it, or take another instance"
        if error.errno == errno.EBUSY:
            return _BUSY.get(name.rpartition("/")[2], "somebody else uses it")
        if error.errno == errno.ENOMEM:
            return "take a smaller size"
        try:
            if name == "trace_clock" and error.errno == errno.EINVAL:
                return f"this kernel has: {' '.join(self.read_clock()[1])}"
            parts = name.split("/")
            if error.errno == errno.ENOENT and parts[0] == "events" and len(parts) == 4:
                near = near_matches(f"{parts[1]}:{parts[2]}", self._available_events())
                return f"near it: {', '.join(near)}" if near else None
            if error.errno == errno.ENOENT and parts[0] == "options":
                return f"this kernel has: {' '.join(sorted(os.listdir(self.path / 'options')))}"
            if error.errno == errno.EINVAL and parts[-1] in ("filter", "trigger"):
                return self._last_logged_error()
        except (OSError, TracefsError):
            return None
        return None

    def _last_logged_error(self) -> str | None:
        """The last entry of error_log: the kernel's own words, with a caret below the place."""
        log = (self.try_read_text("error_log") or self.top.try_read_text("error_log") or "").rstrip()
        start = max(log.rfind("\n["), 0)
        return f"the kernel says: {log[start:].strip()}" if log else None


class Changes:
    """Tells that the kernel has changed a file. Not to be used from several threads at a time."""

    def __init__(self, fd: int) -> None:
        self.fd = fd  # readable when there is a change

    def take(self) -> int:
        """Changes since the last call; those that came before they were taken are one."""
        found = 0
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.fd, 4096):
                found += len(data) // _INOTIFY_EVENT_BYTES
        return found

    def close(self) -> None:
        os.close(self.fd)


_INOTIFY_EVENT_BYTES = 16  # struct inotify_event without a name, as it is for a file
_IN_MODIFY = 2  # sys/inotify.h


def _watch_file(path: Path) -> Changes | None:
    """None where the system has no inotify left, or the file is not there."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        return None
    if libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(fd)
        return None
    return Changes(fd)


def read_stats_fd(fd: int) -> CpuStats:
    """The counters through a descriptor of `open_stats`: each read from offset 0 takes a new sample."""
    return parse_cpu_stats(os.pread(fd, _STATS_MAX_BYTES, 0).decode("ascii", "replace"))


def read_memory_total_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


# {file: what it takes}
_EXPECTED = {
    "buffer_subbuf_size_kb": "4 to 512 KiB",
    "buffer_size_kb": "KiB per CPU, 1 or more, that memory has room for",
    "buffer_percent": "0 to 100",
    "set_event_notrace_pid": "thread ids",
}


# {file: what EBUSY of it means}
_BUSY = {
    "buffer_size_kb": "somebody reads `trace` of this buffer, or has its ring mapped",
    "buffer_subbuf_size_kb": "somebody reads `trace` of this buffer, or has its ring mapped",
    "current_tracer": "a pipe or a mapping of this buffer is open, or another buffer has a tracer of its kind",
    "enable": "somebody else has it on in another way",
    "trigger": "a latency tracer, or another trigger, has the ring of snapshots to itself",
    "trace": "a latency tracer is at work on it",
}


def _expected(name: str) -> str | None:
    return _EXPECTED.get(name)


def _folders_of(folder: Path) -> list[str]:
    """Names of the folders in it; [] when it is gone, as one of a module or a probe may be at any time."""
    try:
        return [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except FileNotFoundError:
        return []


def _errno_text(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, str(error.errno))} ({error.strerror})"


def _unescape_mount(path: str) -> str:
    """Blanks in /proc/mounts are octal."""
    return path.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _is_tracefs(path: Path) -> bool:
    """Whether the path lies in a mounted tracefs."""
    try:
        device = os.stat(path).st_dev
        mounts = _MOUNTS.read_text(errors="surrogateescape")
    except OSError:
        return False
    for line in mounts.splitlines():
        fields = line.split(" ")
        try:
            if fields[2] == "tracefs" and os.stat(_unescape_mount(fields[1])).st_dev == device:
                return True
        except OSError:
            continue
    return False
