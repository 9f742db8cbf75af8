"""The loads: what they trace, how they are built and run."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent

TRACED_CPU = 0  # the load runs there, and nothing else is traced
READER_CPU = 1  # the daemon or its rival runs there

# A load that hangs must not hang the bench.
TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """One bounded load."""

    name: str
    systems: tuple[str, ...]  # of events, as far as the kernel has them
    count: int  # calls or rounds of a measurement: some 10 million events, several seconds
    small_count: int  # for the rivals that are too slow for more


LOADS = (
    Load("syscalls", ("raw_syscalls",), 6_000_000, 300_000),
    Load(
        "mixed",
        ("sched", "raw_syscalls", "kmem", "net", "skb", "sock", "timer", "irq", "filemap", "ext4", "exceptions", "task",
         "signal"),
        120_000,
        8_000,
    ),
)  # fmt: skip


class Programs:
    """The C programs, built into a folder."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("gcc") is None:
            sys.exit("gcc is missing: install it (Debian: apt-get install gcc libc6-dev)")
        self.load = _build(folder, "load", [])
        self.recorder = _build(folder, "recorder", [])
        flags = _library_flags()
        self.decoder = None if flags is None else _build(folder, "decoder", flags)

    def run_load(self, load: Load, count: int) -> float:
        """Run a load to its end; gives its wall seconds."""
        words = [str(self.load), load.name, str(TRACED_CPU), str(count)]
        done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=TIMEOUT_S)
        return float(done.stdout.split()[1])

    def start_paced(self, kind: str, cpu: int, rate: float, seconds: float) -> subprocess.Popen[str]:
        """Start `paced` or `forks`; the caller waits for it."""
        words = [str(self.load), kind, str(cpu), str(rate), str(seconds)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def finish_paced(processes: list[subprocess.Popen[str]], seconds: float) -> int:
    """Wait for paced loads; gives the calls or children they made."""
    try:
        return sum(int(p.communicate(timeout=seconds + 30)[0].split()[0]) for p in processes)
    finally:
        for p in processes:
            if p.poll() is None:
                p.kill()
                p.wait()


def _build(folder: Path, name: str, flags: list[str]) -> Path:
    subprocess.run(["gcc", "-O2", "-o", folder / name, HERE / f"{name}.c", *flags], check=True, timeout=TIMEOUT_S)
    return folder / name


def _library_flags() -> list[str] | None:
    """Flags for libtracefs and libtraceevent; None where they are not installed."""
    if shutil.which("pkg-config") is None:
        return None
    words = ["pkg-config", "--cflags", "--libs", "libtracefs", "libtraceevent"]
    found = subprocess.run(words, capture_output=True, text=True)
    return found.stdout.split() if found.returncode == 0 else None
