"""Gathers the facts that `doctor` judges.

Files are opened for reading and closed again. The one thing that is changed is an instance of this process's own,
made with tracing off and removed again.
"""

import contextlib
import errno
import fcntl
import gzip
import os
import stat
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from collector.control.instance import in_initial_pid_namespace
from collector.doctor.capabilities import INSTANCE_FILES, TOP_FILES
from collector.doctor.kconfig import parse_kconfig
from collector.errors import TracefsError, TracefsMissingError, TracefsPermissionError
from collector.tracefs.cpus import parse_cpu_list
from collector.tracefs.facts import OK, HostFacts, InstanceFacts, MountFacts, TreeFacts
from collector.tracefs.files import TracefsDir, errno_of, find_tracefs, read_memory_total_bytes

_PROBE_INSTANCE = "ftc-doctor-"  # and the process id

_LARGE_SUBBUF_KB = "64"
_REMOVE_TRIES = 50
_REMOVE_STEP_S = 0.02
_KALLSYMS_BYTES = 1 << 18  # some thousand symbols: those of the per-CPU area have address 0 on older kernels


@dataclass(frozen=True, slots=True)
class Roots:
    """Where the system's files are; a test has its own."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    boot: Path = Path("/boot")
    modules: Path = Path("/lib/modules")


SYSTEM = Roots()


def read_host(roots: Roots = SYSTEM) -> HostFacts:
    """The machine and this process; what can't be read is unknown."""
    uname = os.uname()
    meminfo = _read_text(roots.proc / "meminfo") or ""
    path, kconfig = _read_kconfig(roots, uname.release)
    return HostFacts(
        release=uname.release,
        machine=uname.machine,
        uid=os.geteuid(),
        capabilities=parse_capabilities(_read_text(roots.proc / "self/status") or ""),
        lockdown=parse_lockdown(_read_text(roots.sys / "kernel/security/lockdown") or ""),
        initial_pid_namespace=in_initial_pid_namespace(),
        symbols=_read_symbols(roots.proc / "kallsyms"),
        kptr_restrict=_number(_read_text(roots.proc / "sys/kernel/kptr_restrict")),
        kconfig=kconfig,
        kconfig_path=path,
        memory_total_bytes=read_memory_total_bytes(),
        memory_available_bytes=parse_available_bytes(meminfo),
        online_cpus=parse_cpu_list(_read_text(roots.sys / "devices/system/cpu/online") or "0"),
    )


def read_mount(roots: Roots = SYSTEM) -> MountFacts:
    """Where tracefs is."""
    try:
        path, access = str(find_tracefs()), OK
    except TracefsMissingError:
        return MountFacts(None)
    except TracefsPermissionError as error:
        path, access = error.where or "?", _errno_name(errno_of(error))
    try:
        status = os.stat(path)
    except OSError as error:
        return MountFacts(path, _errno_name(error.errno))
    mount = parse_mount(_read_text(roots.proc / "self/mounts") or "", path)
    return MountFacts(path, access, mount.options if mount else "?", stat.S_IMODE(status.st_mode), status.st_gid)


def read_tree(tracefs: TracefsDir, *, make_instance: bool = True) -> TreeFacts:
    """What the top level has, and what an instance could do.

    Raises:
      TracefsError: the instance that was made can't be removed.
    """
    return TreeFacts(
        files=_read_access(tracefs, TOP_FILES),
        tracers=tuple((tracefs.try_read_text("available_tracers") or "").split()),
        clocks=tracefs.read_clock()[1],
        events=tuple(tracefs.list_events()),
        options=_names(tracefs, "options"),
        readme=tracefs.try_read_text("README") or "",
        instance=probe_instance(tracefs) if make_instance else None,
    )


def probe_instance(tracefs: TracefsDir) -> InstanceFacts:
    """Make an instance, look at it, and remove it.

    Raises:
      TracefsError: it can't be removed.
    """
    tree = tracefs.instance(f"{_PROBE_INSTANCE}{os.getpid()}")
    with contextlib.ExitStack() as held:
        try:
            os.mkdir(tree.path, 0o750)
            held.enter_context(_hold(tree.path))
        except OSError as error:
            return InstanceFacts(_errno_name(error.errno))
        try:
            tree.write("tracing_on", "0")
            return InstanceFacts(
                made=OK,
                files=_read_access(tree, INSTANCE_FILES),
                tracers=tuple((tree.try_read_text("available_tracers") or "").split()),
                options=_names(tree, "options"),
                large_subbufs=_try_large_subbufs(tree),
            )
        finally:
            _remove(tree.path)


def remove_orphans(tracefs: TracefsDir) -> None:
    """Remove what a doctor that was killed left: its process is gone, and nobody holds the instance.

    The process alone would not do: this one may not see it, from a pid namespace of its own.
    """
    for name in _names(tracefs, "instances"):
        number = name.removeprefix(_PROBE_INSTANCE)
        if number == name or not number.isdecimal() or (int(number) != os.getpid() and _is_running(int(number))):
            continue
        path = tracefs.instance(name).path
        with contextlib.suppress(OSError), _hold(path):  # removed by another, held, or in use
            os.rmdir(path)


@contextlib.contextmanager
def _hold(path: Path) -> Iterator[None]:
    """Hold the folder's lock, which doesn't hinder rmdir.

    Raises:
      OSError: somebody else has it, or the folder is gone.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # of another user
    return True


def parse_capabilities(status: str) -> int | None:
    """The effective capabilities in /proc/self/status, as a mask."""
    for line in status.splitlines():
        key, _, value = line.partition(":")
        if key == "CapEff":
            return int(value, 16)
    return None


def parse_lockdown(text: str) -> str | None:
    """The level in brackets: `none [integrity] confidentiality`."""
    words = [word.strip("[]") for word in text.split() if word.startswith("[")]
    return words[0] if len(words) == 1 else None


def parse_available_bytes(meminfo: str) -> int | None:
    """MemAvailable of /proc/meminfo, in bytes."""
    for line in meminfo.splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[0] == "MemAvailable:" and fields[1].isdecimal():
            return int(fields[1]) * 1024
    return None


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mounts."""

    place: str
    filesystem: str
    options: str


def parse_mount(mounts: str, path: str) -> Mount | None:
    """What is mounted at `path` or nearest above it; of several at one place the last, which hides the others."""
    best: Mount | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        place = fields[1].replace("\\040", " ")
        if path != place and not path.startswith(place.rstrip("/") + "/"):
            continue
        if best is None or len(place) >= len(best.place):
            best = Mount(place, fields[2], fields[3])
    return best


def _remove(path: Path) -> None:
    """Somebody who looks at all instances may have a file of it open for a moment."""
    for attempts_left in range(_REMOVE_TRIES - 1, -1, -1):
        try:
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or not attempts_left:
                raise TracefsError(
                    "the instance made for probing can't be removed", where=str(path), got=str(error),
                    hint="remove it with rmdir",
                ) from error  # fmt: skip
        time.sleep(_REMOVE_STEP_S)


def _try_large_subbufs(tree: TracefsDir) -> str | None:
    if not tree.exists("buffer_subbuf_size_kb"):
        return None
    try:
        tree.write("buffer_subbuf_size_kb", _LARGE_SUBBUF_KB)
    except TracefsError as error:
        return _errno_name(errno_of(error))
    return OK


def _read_access(tree: TracefsDir, names: Iterable[str]) -> dict[str, str]:
    """{file: whether it can be opened for reading}"""
    whys = {name: tree.why_unreadable(name) for name in names}
    return {name: OK if why is None else _errno_name(why) for name, why in whys.items()}


def _names(tree: TracefsDir, folder: str) -> frozenset[str]:
    try:
        return frozenset(tree.list_names(folder))
    except TracefsError:
        return frozenset()


def _read_kconfig(roots: Roots, release: str) -> tuple[str | None, dict[str, str] | None]:
    """(where it is, symbols) of the running kernel."""
    for path in (roots.proc / "config.gz", roots.boot / f"config-{release}", roots.modules / release / "config"):
        try:
            data = path.read_bytes()
            text = gzip.decompress(data) if path.suffix == ".gz" else data
        except (OSError, EOFError):
            continue
        return str(path), parse_kconfig(text.decode("utf-8", "replace"))
    return None, None


def _read_symbols(path: Path) -> Literal["shown", "hidden", "absent"]:
    try:
        with path.open("rb") as file:
            lines = file.read(_KALLSYMS_BYTES).splitlines()
    except OSError:
        return "absent"
    return "shown" if any(line.partition(b" ")[0].strip(b"0") for line in lines) else "hidden"


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(errors="surrogateescape")
    except OSError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _errno_name(code: int | None) -> str:
    return errno.errorcode.get(code or 0, str(code))
