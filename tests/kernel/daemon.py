"""A real daemon as a process, and what the kernel, its archive and its metrics say of it."""

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from collector.archive.bodies import GapBody, parse_gap
from collector.archive.frame import Damage, Kind
from collector.archive.reader import list_segments, open_segment
from collector.cli import main
from collector.tracefs.stats import CpuStats, parse_cpu_stats
from tests.conftest import TRACEFS

COMMAND = Path(sys.executable).with_name("ftrace-collector")
PATIENCE_S = 90.0  # for what takes well under a second: a machine under emulation or load is slow
POLL_S = 0.01
CPUS = sorted(os.sched_getaffinity(0))

# An event that all kernels have and that hardly ever occurs: the rings hold a test's markers alone.
QUIET_EVENT = ("-e", "sched:sched_kthread_stop")

# Short intervals, so that nothing is waited for long.
QUICK = """\
[capture]
flush_interval_s = 0.1
stats_interval_s = 0.2
block_age_s = 0.3
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look again and again until the condition holds.

    Raises:
      AssertionError: it didn't in PATIENCE_S.
    """
    end_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end_s, f"{what}: not within {PATIENCE_S:g} s"
        time.sleep(POLL_S)


class Daemon:
    """`ftrace-collector run`, whose messages a thread collects; use as a context: it is ended in any case.

    Args:
      instance: its name.
      archive: its folder.
      words: further words of the command line.
      config: a TOML text; None for the defaults.
    """

    def __init__(self, instance: str, archive: Path, *words: str, config: str | None = QUICK) -> None:
        self.instance = TRACEFS / "instances" / instance
        self.archive = archive
        self._lines: list[str] = []
        self._silent = False  # its stderr has ended
        self._changed = threading.Condition()
        command = [COMMAND, "run", "--instance", instance, "--output", archive, "--http", "127.0.0.1:0", *words]
        if config is not None:
            file = archive.parent / f"{archive.name}.toml"
            file.write_text(config)
            command += ["-c", file]
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            text=True, errors="replace",
        )  # fmt: skip
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def messages(self) -> str:
        """What it wrote on stderr so far."""
        with self._changed:
            return "".join(self._lines)

    @property
    def thread_ids(self) -> frozenset[int]:
        return frozenset(int(tid) for tid in os.listdir(f"/proc/{self.pid}/task"))

    @property
    def peak_memory_bytes(self) -> int:
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text())
        assert match is not None
        return 1024 * int(match[1])

    def wait_for_message(self, text: str) -> None:
        """Wait until it has written a line with this in it."""
        with self._changed:
            self._changed.wait_for(lambda: self._silent or any(text in line for line in self._lines), PATIENCE_S)
        assert text in self.messages, self.messages

    def wait_ready(self) -> "Daemon":
        self.wait_for_message("event=collecting")
        return self

    def wait_end(self) -> int:
        """Wait for its exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the exit code."""
        self.process.send_signal(number)
        return self.wait_end()

    def stats(self) -> Mapping[int, CpuStats]:
        """{cpu: the kernel's counters}"""
        return read_stats(self.instance)

    @property
    def url(self) -> str:
        match = re.search(r'"serving metrics".* at=(http://\S+)', self.messages)
        assert match is not None, self.messages
        return match[1]

    def get(self, path: str) -> tuple[int, str]:
        """(status, text) of a page."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as e:
            return e.code, e.read().decode()

    def metrics(self) -> dict[str, float]:
        """{name with labels: value}, without the common prefix."""
        status, text = self.get("/metrics")
        assert status == 200
        rows = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name.removeprefix("ftrace_collector_"): float(value) for name, _, value in rows}

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        return sum(value for key, value in self.metrics().items() if key.partition("{")[0] == name)

    def _collect(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._silent = True
            self._changed.notify_all()


def read_stats(instance: Path) -> Mapping[int, CpuStats]:
    """{cpu: the kernel's counters}"""
    return {cpu: parse_cpu_stats((instance / f"per_cpu/cpu{cpu}/stats").read_text()) for cpu in CPUS}


def run_command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the program to its end."""
    return subprocess.run(
        list(map(str, (COMMAND, *words))), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S
    )


def run_here(*words: str | Path) -> tuple[int, str]:
    """(exit code, stdout) of a command that needs no process of its own: starting one takes longer than the command."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        code = main(list(map(str, words)))
    return code, output.getvalue()


def read_info(archive: Path) -> Any:
    """What `info --json` prints."""
    code, text = run_here("info", archive, "--json")
    assert code == 0
    return json.loads(text)


def read_events(archive: Path, *words: str) -> list[dict[str, Any]]:
    """What `show --format json` prints."""
    code, text = run_here("show", archive, "--format", "json", *words)
    assert code == 0
    return [json.loads(line) for line in text.splitlines()]


def assert_verifies(archive: Path) -> None:
    code, problems = run_here("verify", archive)
    assert (code, problems) == (0, "")


def read_gaps(archive: Path, cause: str) -> list[GapBody]:
    """The gap records of a cause."""
    gaps = []
    for path in list_segments([archive]):
        with open_segment(path) as segment:
            for found in segment.records():
                assert not isinstance(found, Damage)
                if found.kind == Kind.GAP:
                    gaps.append(parse_gap(found.body))
    return [gap for gap in gaps if gap.cause == cause]


def of_cpu(info: Any, cpu: int, run: int = -1) -> Any:
    """A CPU's stream in what `info` says of one run."""
    run_id = info["runs"][run]["run"]
    return next(s for s in info["streams"] if s["cpu"] == cpu and s["run"] == run_id)


def total(gaps: Sequence[GapBody]) -> int:
    """The entries that are missing in gaps that all have a count."""
    assert all(gap.count is not None for gap in gaps)
    return sum(gap.count or 0 for gap in gaps)
