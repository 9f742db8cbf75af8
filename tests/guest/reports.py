"""Inside a guest: the stack tracer's reports, from the kernel into an archive; a line for each check.

Usage: python -m tests.guest.reports RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import io
import json
import os
import sys
import tempfile
from pathlib import Path

from collector.show.reports import show_reports
from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.guest.tracers import assert_as_before, open_files, read_tracefs
from tests.kernel.daemon import QUICK, Daemon, assert_verifies, read_info, wait_until

CONFIG = f"""{QUICK}
[trace]
events = ["sched:sched_kthread_stop"]
stack_tracer = true
allow_top_level = true
"""

# Of all functions of the kernel, which under emulation take minutes to be hooked, these alone look at the stack.
FILTER = TRACEFS / "stack_trace_filter"
FUNCTIONS = ("do_sys_openat2", "do_filp_open", "vfs_open", "vfs_statx")


def main() -> None:
    check(os.uname().release.startswith(sys.argv[1]), f"kernel {os.uname().release}")
    before = read_tracefs()
    FILTER.write_text("\n".join(FUNCTIONS) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        with Daemon("reports", archive, config=CONFIG) as daemon:
            wait_until(lambda: "event=collecting" in daemon.messages or daemon.process.poll() is not None, "start")
            running = daemon.process.poll() is None
            check(running, f"collects{'' if running else daemon.messages}")
            wait_until(lambda: open_files() or 'event="a new maximum"' in daemon.messages, "a report")
            code = daemon.stop()
            check(code == 0, f"exit code {code}" + ("" if code == 0 else daemon.messages))
        info = read_info(archive)
        check(info["reports"] >= 1 and info["residual"] == 0, f"{info['reports']} reports, residual {info['residual']}")
        out = io.StringIO()
        check(show_reports([archive], out, "json") == [], "shown")
        reports = [json.loads(line) for line in out.getvalue().splitlines()]
        values = [report["value"] for report in reports]
        check(values == sorted(set(values)) and len(values) == info["reports"], f"each larger than before: {values}")
        for report in reports:
            fits = {
                "kind": "stack",
                "tracer": "stack",
                "unit": "bytes",
                "instance": "reports",
            }.items() <= report.items()
            text = report["text"]
            check(
                fits and "Depth" in text and f"{report['value']}" in text, f"{report['value']} bytes of stack, with it"
            )
        assert_verifies(archive)
    check(set(FILTER.read_text().split()) == set(FUNCTIONS), "the stack tracer's filter is left alone")
    FILTER.write_text("")
    assert_as_before("reports", before)


if __name__ == "__main__":
    main()
