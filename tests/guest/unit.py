"""Inside a guest with systemd: install the unit, start it, watch it, kill it, stop it; a line for each check.

Usage: unit.py COMMAND FOLDER, where FOLDER is the project's systemd/ and COMMAND the ftrace-collector to start.
Exits 1 when a check fails; the journal of the unit is then on stderr. Waiting here is waiting for systemd and for
its watchdog, which go by the real time.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

UNIT = "ftrace-collector.service"
WATCHDOG_S = 10  # instead of the unit's own, so that two periods pass soon; emulation makes less unfair
DROP_IN = f"""\
[Service]
WatchdogSec={WATCHDOG_S}
# The tests' interpreter and working folder may be in a home folder or below /tmp; installed ones aren't.
ProtectHome=no
PrivateTmp=no
"""
INSTANCES = Path("/sys/kernel/tracing/instances")


class CheckError(Exception):
    """A check that does not hold."""


def check(holds: object, what: str) -> None:
    if not holds:
        raise CheckError(what)


def run(*command: str | Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout_s)


def show(name: str) -> str:
    """A property of the unit."""
    return run("systemctl", "show", "--value", "-p", name, UNIT).stdout.strip()


def wait_until(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        check(time.monotonic() < end, f"{what}, not within {timeout_s} s; status: {show('StatusText')!r}")
        time.sleep(0.3)


class UnitTest:
    """The checks, in their order; each goes on from where the one before left the unit."""

    def __init__(self, command: Path, folder: Path) -> None:
        self.command = command
        self.folder = folder
        self.archive = Path()
        self.instance = Path()
        self.pid = ""

    def installs(self) -> None:
        text = (self.folder / UNIT).read_text()
        system = Path("/etc/systemd/system")
        # The unit names the place of an installed package: here it is the one under test.
        started = re.sub(r"(?m)^(Exec\w+=[-@:+!]*)\S*/ftrace-collector\b", rf"\g<1>{self.command}", text)
        check(started != text, f"{UNIT}: no Exec line with an absolute path to ftrace-collector")
        (system / UNIT).write_text(started)
        drop_in = system / f"{UNIT}.d/test.conf"
        drop_in.parent.mkdir()
        drop_in.write_text(DROP_IN)
        named = re.search(r"(?m)^ExecStart=.*\s(?:-c|--config)[\s=](\S+)", text)
        config = Path(named[1]) if named else Path("/etc/ftrace-collector/config.toml")
        config.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "config.toml", config)
        settings = tomllib.loads(config.read_text())
        self.archive = Path(settings["archive"]["folder"])
        self.instance = INSTANCES / settings.get("trace", {}).get("instance", "ftrace-collector")
        for tool, suffix in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
            for file in self.folder.glob(f"{suffix}/*.conf"):
                run(tool, *(["--create"] if suffix == "tmpfiles.d" else []), file)
        check(run("systemctl", "daemon-reload").returncode == 0, "daemon-reload")
        verified = run("systemd-analyze", "verify", UNIT)
        check(UNIT not in verified.stderr, f"systemd-analyze verify: {verified.stderr[-300:]}")
        check(show("Type") == "notify", f"Type={show('Type')}, not notify")

    def starts(self) -> None:
        """With Type=notify, `systemctl start` returns at READY=1."""
        started = run("systemctl", "start", UNIT)
        check(started.returncode == 0, f"systemctl start: {started.stderr.strip()}")
        check(show("ActiveState") == "active", f"ActiveState={show('ActiveState')}")
        check(self.instance.is_dir(), f"no {self.instance}")
        self.pid = show("MainPID")

    def tells_its_rate(self) -> None:
        wait_until(lambda: re.search(r"[\d.,]+ events/s", show("StatusText")), 60, "STATUS with a rate")

    def outlives_its_watchdog(self) -> None:
        check(show("WatchdogUSec") == f"{WATCHDOG_S}s", f"WatchdogUSec={show('WatchdogUSec')}")
        time.sleep(2.2 * WATCHDOG_S)
        check(show("ActiveState") == "active", f"ActiveState={show('ActiveState')}, Result={show('Result')}")
        check((show("NRestarts"), show("MainPID")) == ("0", self.pid), f"restarted {show('NRestarts')} times")

    def stops(self) -> None:
        stopped = run("systemctl", "stop", UNIT)
        check(stopped.returncode == 0, f"systemctl stop: {stopped.stderr.strip()}")
        state, result, status = (show(p) for p in ("ActiveState", "Result", "ExecMainStatus"))
        check((state, result, status) == ("inactive", "success", "0"), f"{state}, {result}, exit {status}")
        check(not self.instance.exists(), f"{self.instance} is left behind")

    def archive_holds(self) -> None:
        check(not list(self.archive.rglob("*.part")), "an open segment is left")
        verified = run(self.command, "verify", self.archive)
        check(verified.returncode == 0, f"verify: exit {verified.returncode}: {verified.stdout}{verified.stderr}")
        info = json.loads(run(self.command, "info", self.archive, "--json").stdout)
        check(info["events"] > 0, "no events")
        check(info["residual"] == 0, f"residual {info['residual']}")

    def starts_again(self) -> None:
        self.starts()
        self.tells_its_rate()

    def is_restarted_and_adopts_its_instance(self) -> None:
        """A folder that had been removed and made again would have another inode."""
        before = self.instance.stat().st_ino
        os.kill(int(self.pid), 9)
        wait_until(lambda: show("MainPID") not in ("0", self.pid) and show("ActiveState") == "active", 90, "a restart")
        check(show("NRestarts") == "1", f"restarted {show('NRestarts')} times")
        check(self.instance.stat().st_ino == before, f"{self.instance} was made anew")
        self.tells_its_rate()


CHECKS = [
    UnitTest.installs,
    UnitTest.starts,
    UnitTest.tells_its_rate,
    UnitTest.outlives_its_watchdog,
    UnitTest.stops,
    UnitTest.archive_holds,
    UnitTest.starts_again,
    UnitTest.is_restarted_and_adopts_its_instance,
    UnitTest.stops,
    UnitTest.archive_holds,
]


def main() -> int:
    test = UnitTest(Path(sys.argv[1]), Path(sys.argv[2]))
    for step in CHECKS:
        try:
            step(test)
        except (CheckError, OSError, KeyError, ValueError, subprocess.TimeoutExpired) as e:
            print(f"FAIL {step.__name__}: {type(e).__name__}: {e}", flush=True)
            print(run("journalctl", "--no-pager", "-n", "60", "-u", UNIT).stdout, file=sys.stderr)
            return 1
        print(f"ok {step.__name__}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
