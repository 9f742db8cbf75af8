"""Inside a guest: what runs at the top level only, collected from there; a line for each check.

Usage: python -m tests.guest.toplevel RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.guest.tracers import GRAPH, OPENS, config_of, open_files, run_case
from tests.kernel.daemon import Daemon, run_command, wait_until
from tests.kernel.test_toplevel_live import read_tracefs

# Under emulation all functions of a kernel are too many to be hooked.
TOP_GRAPH = f'{GRAPH}top_level_buffer = true\nfunctions = ["do_sys_openat2", "do_filp_open"]\n'
TOP = "top_level_buffer = true\nallow_top_level = true\n"
DEVICE = "nullb0"
BLK = f'{TOP}tracer = "blk"\nblock_devices = ["{DEVICE}"]\n'
READS = 20
MMIO = f'{TOP}tracer = "mmiotrace"\nconsent_mmiotrace = true\n'
ONLINE = Path("/sys/devices/system/cpu/online")


def use_once() -> None:
    """Rings that nobody has used have one page, until their first use: this is it."""
    if expanded := re.search(r"expanded: (\d+)", (TRACEFS / "buffer_size_kb").read_text()):
        (TRACEFS / "buffer_size_kb").write_text(expanded[1])


def read_device() -> None:
    with open(f"/dev/{DEVICE}", "rb", buffering=0) as device:
        for number in range(READS):
            os.posix_fadvise(device.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            device.seek(number * 1024 * 1024)
            device.read(4096)


def kill_and_clean_up() -> None:
    """The function graph tracer of a killed run goes with `cleanup`."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Daemon("killed", Path(folder) / "archive", config=config_of(TOP_GRAPH)) as daemon,
    ):
        daemon.wait_ready()
        open_files()
        wait_until(lambda: daemon.metric("decoded_events_total") > OPENS, "the killed run")
        daemon.stop(signal.SIGKILL)
    check((TRACEFS / "current_tracer").read_text() == "function_graph\n", "killed: the tracer is left")
    done = run_command("cleanup")
    check(done.returncode == 0, f"killed: {done.stdout.strip()}{done.stderr}")


def main() -> None:
    check(os.uname().release.startswith(sys.argv[1]), f"kernel {os.uname().release}")
    use_once()
    subprocess.run(["modprobe", "null_blk", "nr_devices=1"], check=True)
    before = read_tracefs()
    run_case("graph", TOP_GRAPH, open_files, {"ftrace:funcgraph_entry": OPENS, "ftrace:funcgraph_exit": OPENS})
    shown = run_case("blk-text", f'{BLK}read = "text"\n', read_device, {"text:blk": READS})
    reads = [e for e in shown if re.search(r"\bQ +R", str(e["fields"]["message"]))]
    check(len(reads) >= READS, f"blk-text: {len(reads)} reads were queued, as in {reads[0]['fields']['message']!r}")
    shown = run_case("blk-raw", BLK, read_device, {})
    check({e["event"].rstrip("0123456789") for e in shown} == {"unknown:event_"}, f"blk-raw: {len(shown)} raw records")
    cpus = ONLINE.read_text()
    run_case("mmiotrace", MMIO, lambda: None, {})
    check(ONLINE.read_text() == cpus, f"mmiotrace: CPUs {cpus.strip()} are online again")
    kill_and_clean_up()
    after = read_tracefs()
    changed = {name: (text[:200], after.get(name)) for name, text in before.items() if after.get(name) != text}
    check(not changed, f"all files of the top level as before {changed or ''}")


if __name__ == "__main__":
    main()
