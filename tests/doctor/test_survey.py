"""collector.doctor.survey, neighbours and kconfig: what is read, from trees of files."""

import errno
import fcntl
import gzip
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from collector.control.neighbours import (
    parse_enabled,
    parse_flocks,
    parse_pipe_target,
    read_neighbours,
    read_pipe_readers,
    read_states,
)
from collector.doctor import survey
from collector.doctor.kconfig import parse_kconfig, unset_symbols
from collector.errors import TracefsError
from tests.tracefs.tree import header_page, make_fake_kernel, put, stats

KCONFIG = """\
#
# Linux/x86 6.12.117 Kernel Configuration
#
CONFIG_TRACING=y
CONFIG_USER_EVENTS=m
# CONFIG_KPROBES is not set
CONFIG_LOCALVERSION="-cloud"
CONFIG_HZ=250

# CONFIG_ODD
"""


def test_a_kernel_configuration() -> None:
    kconfig = parse_kconfig(KCONFIG)
    assert kconfig == {"TRACING": "y", "USER_EVENTS": "m", "KPROBES": "n", "LOCALVERSION": '"-cloud"', "HZ": "250"}
    assert unset_symbols(kconfig, ("TRACING", "KPROBES", "USER_EVENTS", "FPROBE")) == ("KPROBES", "FPROBE")
    assert unset_symbols(None, ("KPROBES",)) == ()


@pytest.mark.parametrize(
    ("text", "level"),
    [("none [integrity] confidentiality\n", "integrity"), ("[none] integrity confidentiality\n", "none"), ("", None)],
)
def test_lockdown(text: str, level: str | None) -> None:
    assert survey.parse_lockdown(text) == level


def test_capabilities_and_memory() -> None:
    assert survey.parse_capabilities("Name:\tx\nCapEff:\t0000000400000000\n") == 1 << 34
    assert survey.parse_capabilities("Name:\tx\n") is None
    assert survey.parse_available_bytes("MemTotal: 9 kB\nMemAvailable:     512 kB\n") == 512 * 1024
    assert survey.parse_available_bytes("MemTotal: 9 kB\n") is None


def test_the_nearest_mount_and_of_two_the_upper() -> None:
    mounts = (
        "/dev/a / ext4 rw 0 0\nnodev /sys sysfs rw 0 0\nx /data\\040a tmpfs rw 0 0\n"
        "x /data\\040a xfs rw,noatime 0 0\nodd\n"
    )
    assert survey.parse_mount(mounts, "/data a/b/c") == survey.Mount("/data a", "xfs", "rw,noatime")
    assert survey.parse_mount(mounts, "/data") == survey.Mount("/", "ext4", "rw")
    assert survey.parse_mount("", "/data") is None


def test_the_host_from_its_files(tmp_path: Path) -> None:
    release = os.uname().release
    roots = survey.Roots(tmp_path / "proc", tmp_path / "sys", tmp_path / "boot", tmp_path / "modules")
    put(
        tmp_path,
        {
            "proc/meminfo": "MemAvailable: 1024 kB\n",
            "proc/self/status": "CapEff:\t0000000000000001\n",
            "proc/kallsyms": "0000000000000000 A a\n0000000000000000 T b\n",
            "proc/sys/kernel/kptr_restrict": "1\n",
            "sys/kernel/security/lockdown": "none integrity [confidentiality]\n",
            "sys/devices/system/cpu/online": "0,2-3\n",
            f"modules/{release}/config": KCONFIG,
        },
    )
    host = survey.read_host(roots)
    assert (host.capabilities, host.lockdown, host.symbols, host.kptr_restrict) == (1, "confidentiality", "hidden", 1)
    assert (host.memory_available_bytes, host.online_cpus) == (1 << 20, (0, 2, 3))
    assert host.kconfig_path == str(tmp_path / "modules" / release / "config")
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_TRACING=y\n"))
    (tmp_path / "proc/kallsyms").write_text("0000000000000000 A a\nffffffff81000000 T b\n")
    host = survey.read_host(roots)
    assert (host.kconfig, host.symbols) == ({"TRACING": "y"}, "shown")


def test_a_host_that_tells_nothing_is_unknown(tmp_path: Path) -> None:
    host = survey.read_host(survey.Roots(*[tmp_path] * 4))
    assert (host.kconfig, host.capabilities, host.lockdown, host.memory_available_bytes) == (None,) * 4
    assert host.symbols == "absent"


def test_a_damaged_config_gz_is_passed_over(tmp_path: Path) -> None:
    put(tmp_path, {f"boot/config-{os.uname().release}": "CONFIG_TRACING=y\n", "config.gz": "no gzip"})
    host = survey.read_host(survey.Roots(tmp_path, tmp_path, tmp_path / "boot", tmp_path))
    assert host.kconfig == {"TRACING": "y"}


@pytest.fixture
def kernel_makes_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.mkdir of an instance fills it as the kernel does, os.rmdir empties it first."""
    mkdir, rmdir = os.mkdir, os.rmdir

    def fill(path: Path, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if Path(path).parent.name == "instances":
            files = {"tracing_on": "1\n", "available_tracers": "function nop\n", "options/overwrite": "1\n",
                     "buffer_subbuf_size_kb": "4\n", "per_cpu/cpu0/trace_pipe_raw": "", "trace_pipe": "",
                     "events/header_page": header_page(4)}  # fmt: skip
            put(Path(path), files)

    monkeypatch.setattr(os, "mkdir", fill)
    monkeypatch.setattr(os, "rmdir", lambda path, **more: rmdir(path, **more) if more else shutil.rmtree(path))


def test_probing_makes_an_instance_and_removes_it(tmp_path: Path, kernel_makes_files: None) -> None:
    tracefs = make_fake_kernel(tmp_path, "other")
    put(tmp_path, {"trace_clock": "[local] mono\n", "available_tracers": "blk function nop\n", "README": "f[:\n"})
    facts = survey.read_tree(tracefs)
    assert facts.instance is not None
    assert (facts.instance.made, facts.instance.tracers) == ("ok", ("function", "nop"))
    assert facts.instance.files["trace_pipe"] == "ok"
    assert facts.instance.files["snapshot"] == "ENOENT"
    assert facts.instance.options == {"overwrite"}
    assert (facts.tracers, facts.clocks) == (("blk", "function", "nop"), ("local", "mono"))
    assert facts.events == (("sched", "sched_switch"), ("sched", "sched_waking"))
    assert facts.files["kprobe_events"] == "ENOENT"
    assert os.listdir(tmp_path / "instances") == ["other"]
    assert [name for name, _ in tracefs.written] == ["tracing_on", "buffer_subbuf_size_kb"]


def test_an_instance_that_is_refused_is_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracefs = make_fake_kernel(tmp_path, "other")

    def refuse(path: Path, mode: int) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(os, "mkdir", refuse)
    assert survey.probe_instance(tracefs).made == "ENOMEM"


def test_a_failure_in_between_removes_the_instance_too(
    tmp_path: Path, kernel_makes_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracefs = make_fake_kernel(tmp_path, "other")

    def fail(*_: object) -> None:
        raise TracefsError("no")

    monkeypatch.setattr(type(tracefs), "_write", fail)
    with pytest.raises(TracefsError, match="no"):
        survey.probe_instance(tracefs)
    assert os.listdir(tmp_path / "instances") == ["other"]


def test_an_instance_that_stays_behind_is_said(
    tmp_path: Path, kernel_makes_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracefs = make_fake_kernel(tmp_path, "other")

    def busy(path: Path) -> None:
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(os, "rmdir", busy)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    with pytest.raises(TracefsError, match="remove it with rmdir"):
        survey.probe_instance(tracefs)


def test_what_a_killed_doctor_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    own, gone, running, held = os.getpid(), ended.pid, os.getppid(), (1 << 22) + 1  # more than there can be
    names = [f"ftc-doctor-{pid}" for pid in (own, gone, running, held)] + ["ftc-doctor-x", "ftc-doctor-", "other"]
    tracefs = make_fake_kernel(tmp_path, "ours")
    for name in names:
        (tmp_path / "instances" / name).mkdir()
    folder = os.open(tmp_path / f"instances/ftc-doctor-{held}", os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)  # by a process that cannot be seen here
    survey.remove_orphans(tracefs)
    os.close(folder)
    assert set(os.listdir(tmp_path / "instances")) == {"ours", *names[2:]}
    survey.remove_orphans(tracefs)
    assert f"ftc-doctor-{held}" not in os.listdir(tmp_path / "instances")


def test_flocks_of_others() -> None:
    text = (
        "1: FLOCK  ADVISORY  WRITE 6614 fe:00:2147795 0 EOF\n"
        "1: -> FLOCK  ADVISORY  WRITE 7000 fe:00:2147795 0 EOF\n"
        "2: POSIX  ADVISORY  WRITE 6614 00:0d:1 0 EOF\n3: FLOCK  ADVISORY  READ 9 00:0d:525263 0 EOF\n\n"
    )
    assert parse_flocks(text) == {"fe:00:2147795": 6614, "00:0d:525263": 9}


def test_enabled_events() -> None:
    assert parse_enabled("sched:sched_switch\n:mod:kvm\n\nirq:irq_entry\n") == [
        ("sched", "sched_switch"), ("irq", "irq_entry"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "instance"),
    [
        ("/sys/kernel/tracing/trace_pipe", ""),
        ("/sys/kernel/tracing/per_cpu/cpu12/trace_pipe_raw", ""),
        ("/sys/kernel/debug/tracing/instances/a b/per_cpu/cpu0/trace_pipe", "a b"),
        ("/sys/kernel/tracing/instances/x/trace", None),
        ("socket:[123]", None),
    ],
)
def test_a_link_to_a_pipe(target: str, instance: str | None) -> None:
    assert parse_pipe_target(target) == instance


def test_readers_of_pipes_and_processes_that_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, {"77/comm": "perfetto\n", "78/comm": "x\n", "self/comm": "y\n"})
    for pid in (77, 78):
        (tmp_path / f"{pid}/fd").mkdir()
    (tmp_path / "77/fd/3").symlink_to("/sys/kernel/tracing/instances/p/per_cpu/cpu0/trace_pipe_raw")
    (tmp_path / "77/fd/4").symlink_to("/sys/kernel/tracing/instances/p/per_cpu/cpu1/trace_pipe_raw")
    (tmp_path / "77/fd/5").symlink_to("/dev/null")
    listdir = os.listdir

    def list_some(path: Path) -> list[str]:
        if Path(path) == tmp_path / "78/fd":
            raise PermissionError
        return listdir(path)

    monkeypatch.setattr(os, "listdir", list_some)
    readers, hidden = read_pipe_readers(tmp_path)
    assert [(r.pid, r.comm, r.instance, r.pipes) for r in readers] == [(77, "perfetto", "p", 2)]
    assert hidden == 1


def test_the_state_of_every_buffer(tmp_path: Path) -> None:
    tracefs = make_fake_kernel(tmp_path / "t", "mine", entries=4)
    put(
        tmp_path / "t",
        {
            "trace_clock": "local [mono]\n", "tracing_on": "0\n", "current_tracer": "function\n",
            "buffer_size_kb": "7 (expanded: 1408)\n", "per_cpu/cpu0/stats": stats(2), "per_cpu/cpu1/stats": stats(1),
            "dynamic_events": "p:uprobes/a /bin/sh:0x10\n", "instances/mine/set_event": "sched:sched_switch\n",
        },
    )  # fmt: skip
    status = os.stat(tmp_path / "t/instances/mine")
    key = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    put(tmp_path / "proc", {"locks": f"1: FLOCK  ADVISORY  WRITE 55 {key} 0 EOF\n", "55/comm": "ftrace-collecto\n"})
    top, mine = read_states(tracefs, tmp_path / "proc")
    assert (top.name, top.tracer, top.clock, top.tracing_on, top.buffer_kb, top.unread) == (
        "", "function", "mono", False, 7, 3,
    )  # fmt: skip
    assert (mine.name, mine.events, mine.subbuf_kb, mine.unread) == ("mine", 1, 4, 4)
    assert (mine.holder, mine.holder_pid, mine.busy, top.busy) == ("ftrace-collecto (55)", 55, True, False)
    neighbours = read_neighbours(tracefs, tmp_path / "proc")
    assert (neighbours.states, neighbours.dynamic_events) == ((top, mine), 1)
