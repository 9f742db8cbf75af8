"""Tables in markdown, what they were measured on, and their places in README.md."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

PACKAGES = ("trio", "msgpack", "zstandard", "lz4", "prometheus-client", "pydantic")
README = Path(__file__).with_name("README.md")


def build_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others are numbers."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *map(list, rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def build_targets(rows: Sequence[tuple[str, float, float, str]]) -> str:
    """A table of targets.

    Args:
      rows: (what, target as an upper limit, measured, format of both).
    """
    cells = [
        (what, f"≤ {target:{form}}", f"{measured:{form}}", "yes" if measured <= target else "**no**")
        for what, target, measured, form in rows
    ]
    return build_table(("", "target", "measured", "met"), cells)


def format_number(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:{form}}"


def describe_machine(load_before: tuple[float, float, float]) -> str:
    """One paragraph: machine, kernel, versions, date, and what else was running."""
    cpu = re.search(r"(?m)^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    parts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {_commit()}",
        f"{os.cpu_count()} CPUs ({cpu[1] if cpu else platform.machine()}), "
        f"{int(memory[1]) // 1024 // 1024 if memory else '?'} GiB",
        f"Linux {platform.release()}",
        f"Python {platform.python_version()}, {packages}, libzstd {_zstd_version()}",
        *_tools(),
        f"load average before {load_before[0]:.2f}, after {os.getloadavg()[0]:.2f}",
    ]
    return "Measured " + "; ".join(parts) + "."


def _commit() -> str:
    found = _output(["git", "-C", str(README.parent), "rev-parse", "--short", "HEAD"])
    return f"commit {found}" if found else "not a git checkout"


def _tools() -> list[str]:
    found = []
    if perf := _output(["perf", "--version"]):
        found.append(perf)
    for library in ("libtracefs", "libtraceevent"):
        if version := _output(["pkg-config", "--modversion", library]):
            found.append(f"{library} {version}")
    if gcc := _output(["gcc", "-dumpfullversion"]):
        found.append(f"gcc {gcc}")
    return found


def _output(words: list[str]) -> str:
    if shutil.which(words[0]) is None:
        return ""
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return done.stdout.strip() if done.returncode == 0 else ""


def _zstd_version() -> str:
    import zstandard

    return ".".join(map(str, zstandard.ZSTD_VERSION))


def write_section(name: str, text: str) -> None:
    """Put a section's text between its markers in README.md.

    Raises:
      ValueError: the markers are not there.
    """
    begin, end = f"<!-- {name}: written by bench/run --write -->", f"<!-- end of {name} -->"
    before, found, rest = README.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"{README}: expected the markers {begin} and {end}")
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def say(text: str) -> None:
    """Progress, on stderr: stdout has the tables."""
    print(text, file=sys.stderr, flush=True)
