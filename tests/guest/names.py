"""Inside a guest: a module that is loaded while the daemon runs gets its symbols, threads get their names.

Usage: python -m tests.guest.names. Exits 1 when a check fails.
"""

import subprocess
import tempfile
import time
from pathlib import Path

from tests.guest.checks import check
from tests.kernel.daemon import PATIENCE_S, Daemon, assert_verifies, read_events

MODULE = "binfmt_misc"
FOLDER = Path("/proc/sys/fs/binfmt_misc")
ROUND_S = 0.5


def use_module(until_s: float) -> None:
    """Let code of the module allocate memory, again and again: its symbols are read some seconds after the load."""
    while time.monotonic() < until_s:
        (FOLDER / "register").write_text(":ftc:M::ftc-magic::/bin/true:\n")
        (FOLDER / "ftc").write_text("-1")
        time.sleep(ROUND_S)


def main() -> None:
    check(MODULE not in Path("/proc/modules").read_text(), f"{MODULE} is not loaded")
    with tempfile.TemporaryDirectory() as folder:
        words = ("-e", "kmem:kmalloc", "-e", "sched:*")
        with Daemon("names", Path(folder) / "archive", *words) as daemon:
            daemon.wait_ready()
            time.sleep(5)  # symbols of the kernel are looked up, by a table without the module
            subprocess.run(["modprobe", MODULE], check=True)
            if not (FOLDER / "register").exists():
                subprocess.run(["mount", "-t", MODULE, MODULE, FOLDER], check=True)
            use_module(time.monotonic() + PATIENCE_S / 3)
            check(daemon.stop() == 0, "exit code 0")
        assert_verifies(daemon.archive)
        entries = read_events(daemon.archive)
    shown = {e["symbols"]["call_site"] for e in entries if "symbols" in e}
    own = {symbol for symbol in shown if symbol.endswith(f" [{MODULE}]")}
    check(own and len(shown) > len(own), f"symbols of the module: {sorted(own)}, of {len(shown)}")
    switches = [e for e in entries if e["event"] == "sched:sched_switch" and e["pid"]]
    wrong = [e for e in switches if e["comm"] != e["fields"]["prev_comm"] or e["comm_source"] != "event"]
    check(switches and not wrong, f"names at {len(switches)} switches {wrong[:2]}")
    named = [e for e in entries if e["pid"] and e["comm"] is not None]
    check(len(named) > 0.99 * sum(e["pid"] != 0 for e in entries), f"names of {len(named)} entries")


if __name__ == "__main__":
    main()
