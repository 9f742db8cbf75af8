"""Inside a guest: each kind of dynamic event, made, used, removed, killed, cleaned up; a line for each check.

Usage: python -m tests.guest.dynamic RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import TRACEFS
from tests.control.test_desired_live import libc_function
from tests.guest.checks import check
from tests.guest.tracers import OPENS, ask_for_parent, assert_as_before, config_of, open_files, read_tracefs, run_case
from tests.kernel.daemon import Daemon, run_command, wait_until

DYNAMIC = TRACEFS / "dynamic_events"
USER_DATA = TRACEFS / "user_events_data"
JOURNALS = Path("/run/ftrace-collector")
FIELDS = "u32 a; char[20] b"
PATH, OFFSET = libc_function("getppid")
SYNTHETIC_TRIGGERS = """
[trace.triggers]
"sched:sched_waking" = ["hist:keys=pid:ts0=common_timestamp.usecs"]
"sched:sched_switch" = ["hist:keys=next_pid:onmatch(sched.sched_waking).{name}(next_pid)"]
"""


@dataclass(frozen=True)
class Kind:
    """A kind of event: a line that makes one named `one`, and what lets it happen."""

    name: str
    line: str
    group: str  # "" is the instance's own
    load: Callable[[], None] = open_files
    triggers: str = ""
    since: str = ""  # what available_* or the README has to say: "" is every kernel

    @property
    def is_counted(self) -> bool:
        """Whether it is known how often it happens, at least: the load makes it, OPENS times."""
        return not self.line.startswith(("t:", "e:", "s:"))

    def event(self, instance: str) -> str:
        return f"{self.group or 'ftc_' + instance.replace('-', '_')}:{self.name}"


def write_user_event() -> None:
    with program(f"user {FIELDS}", OPENS):
        pass


KINDS = [
    Kind("kprobe", "p:kprobe do_sys_openat2 dfd=%di", ""),
    Kind("kretprobe", "r:kretprobe do_sys_openat2 fd=$retval", ""),
    Kind("uprobe", f"u:uprobe {PATH}:{OFFSET:#x}", "", ask_for_parent),
    Kind("uretprobe", f"ur:uretprobe {PATH}:{OFFSET:#x} pid=$retval", "", ask_for_parent),
    Kind("fprobe", "f:fprobe do_sys_openat2", "", since="f[:"),
    Kind("tprobe", "t:tprobe sched_switch", "", since="t[:"),
    Kind("eprobe", "e:eprobe sched.sched_switch pid=$next_pid:s32", ""),
    Kind("synthetic", "s:synthetic pid_t pid", "synthetic", triggers=SYNTHETIC_TRIGGERS.format(name="synthetic")),
    Kind("user", f"user:user {FIELDS}", "user_events", write_user_event, since="user_events_data"),
]


@contextlib.contextmanager
def program(name_and_fields: str, count: int) -> Iterator[None]:
    """A program that has registered a user event and, as soon as it is on, written it; it ends with the context."""
    words = [sys.executable, "-m", "tests.guest.userevents", name_and_fields, str(count)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        check(running.stdout.readline() == "registered\n", f"a program has {name_and_fields.split()[0]}")
        check(running.stdout.readline() == "written\n", f"a program wrote {count}")
        yield
        running.communicate()


def keys_of(kinds: list[Kind]) -> str:
    lines = ", ".join(f"'{kind.line}'" for kind in kinds)
    return f"probes = [{lines}]\n" + "".join(kind.triggers for kind in kinds)


def kinds_here() -> list[Kind]:
    readme = (TRACEFS / "README").read_text()
    return [kind for kind in KINDS if kind.since in readme or (TRACEFS / kind.since).exists()]


def listed() -> str:
    return DYNAMIC.read_text()


@contextlib.contextmanager
def started(name: str, keys: str) -> Iterator[Daemon]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemon(f"dynamic-{name}", Path(folder) / "archive", config=config_of(keys)) as daemon,
    ):
        wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, name)
        running = daemon.process.poll() is None
        check(running, f"{name}: collects{'' if running else daemon.messages}")
        yield daemon


def clean_up(name: str, *words: str) -> str:
    done = run_command("cleanup", *words)
    check(done.returncode == 0, f"{name}: {done.stdout.strip()}{done.stderr}")
    return done.stdout


def assert_nothing_left(name: str) -> None:
    check(listed() == "", f"{name}: no event is left {listed()}")
    journals = [path.name for path in JOURNALS.iterdir()] if JOURNALS.exists() else []
    check(journals == [], f"{name}: no journal is left {journals or ''}")


def make_use_and_remove(kinds: list[Kind]) -> None:
    """All kinds at once, in a run that ends well."""

    def load() -> None:
        for use in dict.fromkeys(kind.load for kind in kinds):
            use()

    wanted = {kind.event("tracers-all"): OPENS if kind.is_counted else 10 for kind in kinds}
    run_case("all", keys_of(kinds), load, wanted)
    assert_nothing_left("all")


def kill_and_clean_up(kinds: list[Kind]) -> None:
    before = read_tracefs()
    with started("killed", keys_of(kinds)) as daemon:
        check(len(listed().splitlines()) == len(kinds), f"killed: {len(kinds)} events are made again")
        daemon.stop(signal.SIGKILL)
    check(len(listed().splitlines()) == len(kinds), "killed: they are left")
    said = clean_up("killed")
    for kind in kinds:
        check(f"/{kind.name}" in said, f"killed: cleanup says that it removed {kind.name}")
    assert_nothing_left("killed")
    assert_as_before("killed", before)


def kill_and_start_again(kinds: list[Kind]) -> None:
    """A run that was killed, one that adopts its instance and is killed too, one whose instance is gone."""
    before = read_tracefs()
    keys = keys_of(kinds)
    with started("again", keys) as daemon:
        made = listed()
        daemon.stop(signal.SIGKILL)
    with started("again", keys) as daemon:
        check(listed() == made, "again: the next start has them as they are")
        daemon.stop(signal.SIGKILL)
        remove_instance(daemon.instance)
    check(listed() == made, "again: somebody has removed the instance, the events are there")
    with started("again", keys) as daemon:
        check(listed() == made, "again: the journal says whose they are")
        code = daemon.stop()
        check(code == 0, f"again: exit code {code}{'' if code == 0 else daemon.messages}")
    assert_nothing_left("again")
    assert_as_before("again", before)


def remove_instance(instance: Path) -> None:
    """As a person would."""
    for trigger in instance.glob("events/sched/*/trigger"):
        for line in reversed([t for t in trigger.read_text().splitlines() if not t.startswith("#")]):
            trigger.write_text(f"!{line.strip().removesuffix('[active]').strip()}\n")
    (instance / "events/enable").write_text("0\n")
    instance.rmdir()


def leave_what_a_program_has() -> None:
    """A program may have a user event for longer than it is collected: then it stays, and the journal knows it."""
    before = read_tracefs()
    keys = f"probes = ['user:held {FIELDS}']"
    with started("held", keys) as daemon, program(f"held {FIELDS}", OPENS):
        code = daemon.stop()
        check(code == 0, f"held: exit code {code}{'' if code == 0 else daemon.messages}")
        told = "something is left in tracefs" in daemon.messages and "which may write it" in daemon.messages
        check(told, f"held: told who has it{'' if told else daemon.messages}")
        check(not daemon.instance.exists(), "held: the instance is gone")
        check("held" in listed(), "held: the event is not")
        done = run_command("cleanup")
        check(done.returncode == 1 and "which may write it" in done.stderr, f"held: cleanup says so: {done.stderr}")
        with started("held", keys) as again:
            check(again.stop() == 0, "held: the next start takes it over")
        with (
            tempfile.TemporaryDirectory() as folder,
            Daemon("dynamic-other", Path(folder) / "archive", config=config_of(keys)) as refused,
        ):
            code = refused.wait_end()
            check(code != 0 and "cleanup dynamic-held" in refused.messages, f"held: no other run {refused.messages}")
    check("held" in clean_up("held"), "held: when the program has ended, cleanup removes it")
    assert_nothing_left("held")
    assert_as_before("held", before)


def collect_what_a_program_made() -> None:
    """Whoever is first makes a user event, and it goes with its maker."""
    keys = f"probes = ['user:theirs {FIELDS}']"
    with program(f"theirs {FIELDS}", 0):
        refused = run_command("plan", "--instance", "dynamic-theirs", *config_file("probes = ['user:theirs u64 a']"))
        told = "made by somebody else" in refused.stderr and "-:user_events/theirs " in refused.stderr
        check(refused.returncode != 0 and told, f"theirs: {refused.stderr}")
        with started("theirs", keys) as daemon:
            check(daemon.stop() == 0, "theirs: collected")
            check("left in tracefs" not in daemon.messages, "theirs: it is not ours to remove")
        check("theirs" in listed(), "theirs: the program has it still")
    wait_until(lambda: listed() == "", "it goes with its program")
    assert_nothing_left("theirs")


def tell_who_uses_it() -> None:
    """An event of ours that others use is left to them."""
    other = TRACEFS / "instances/other"
    other.mkdir()
    with started("used", "probes = ['p:used do_sys_openat2']") as daemon:
        (other / "events/ftc_dynamic_used/used/enable").write_text("1\n")
        code = daemon.stop()
        told = "instance other, where it is on" in daemon.messages
        check(code == 1 and told, f"used: exit code {code}, told who uses it{'' if told else daemon.messages}")
    (other / "events/ftc_dynamic_used/used/enable").write_text("0\n")
    other.rmdir()
    clean_up("used")
    assert_nothing_left("used")


@contextlib.contextmanager
def other_tracer(tracer: str) -> Iterator[None]:
    """Another instance has it; those that would slow down everything don't record."""
    other = TRACEFS / "instances/other"
    other.mkdir()
    if tracer != "timerlat":  # stopped, it would make room
        (other / "tracing_on").write_text("0")
    (other / "current_tracer").write_text(tracer)
    try:
        yield
    finally:
        (other / "current_tracer").write_text("nop")
        other.rmdir()


def name_the_tracer_in_the_way() -> None:
    """Tracers that the kernel has once: who has it is told before anything is written."""
    have = (TRACEFS / "available_tracers").read_text().split()
    before = read_tracefs()
    pairs = [("hwlat", "hwlat", "run"), ("preemptoff", "irqsoff", "plan"), ("wakeup_dl", "wakeup_rt", "plan"),
             ("timerlat", "osnoise", "plan")]  # fmt: skip
    for held, wished, command in pairs:
        if not {held, wished} <= {*have}:
            continue
        with other_tracer(held):
            done = run_command(command, "--instance", "dynamic-tracer", *config_file(f'tracer = "{wished}"'))
            told = f"{wished}, while instance other has {held}" in done.stderr
            check(done.returncode != 0 and told, f"{command} {wished} beside {held}: {done.stderr.strip()}")
    if "timerlat" in have:
        with other_tracer("timerlat"), started("beside", 'tracer = "timerlat"') as daemon:
            check(daemon.stop() == 0, "timerlat beside timerlat: collected")
    assert_as_before("in the way", before)


def config_file(keys: str) -> list[str]:
    """Words of the command line that name a configuration."""
    file = Path(tempfile.mkdtemp()) / "config.toml"
    file.write_text(config_of(keys))
    return ["-c", str(file)]


def main() -> None:
    check(os.uname().release.startswith(sys.argv[1]), f"kernel {os.uname().release}")
    kinds = kinds_here()
    check(listed() == "", f"{len(kinds)} kinds: {' '.join(kind.name for kind in kinds)}")
    make_use_and_remove(kinds)
    kill_and_clean_up(kinds)
    kill_and_start_again(kinds)
    if USER_DATA.exists():
        leave_what_a_program_has()
        collect_what_a_program_made()
    tell_who_uses_it()
    name_the_tracer_in_the_way()


if __name__ == "__main__":
    main()
