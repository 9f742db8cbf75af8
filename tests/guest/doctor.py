"""Inside a guest: what `doctor` and `list` say of that kernel, and that `run` agrees; a line for each check.

Usage: python -m tests.guest.doctor RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.kernel.daemon import run_command

# {finding: status}: what these kernels, as Debian builds them for virtual machines, have in common
SAME = {
    "tracefs: mounted": "ok", "rings: instances": "ok", "rings: raw pipes": "ok", "rings: snapshot": "ok",
    "rings: watermark": "ok", "rings: thread exclusion": "ok", "events: events": "ok",
    "dynamic events: kprobe": "ok", "dynamic events: uprobe": "ok", "dynamic events: eprobe": "ok",
    "dynamic events: synthetic": "ok", "dynamic events: user_events": "missing",
    "tracers: function": "ok", "tracers: function_graph": "ok", "tracers: blk": "ok", "tracers: irqsoff": "missing",
    "tracers: osnoise": "missing", "tracers: wakeup": "missing",
    "functions: function filters": "ok", "functions: graph filters": "ok", "functions: stack tracer": "ok",
}  # fmt: skip
# What came with a release, before 6.12 and after 6.1
NEWER = ("rings: sub-buffer sizes", "dynamic events: fprobe", "dynamic events: tprobe")

# {setting: (it can be had on 6.1, on 6.12; what the obstacle is, or its remedy)}
SETTINGS = {
    'tracer = "function"\nfunctions = ["vfs_read"]\nfunction_pids = [1]': (True, True, ""),
    'tracer = "function_graph"\nallow_top_level = true': (False, True, "at the top level only"),
    'tracer = "irqsoff"': (False, False, "CONFIG_IRQSOFF_TRACER"),
    'tracer = "blk"\nblock_devices = ["none"]': (False, False, "at the top level only"),
    'probes = ["f:entered vfs_read"]': (False, True, "CONFIG_FPROBE_EVENTS"),
    "subbuf_size_kb = 64": (True, True, ""),  # 6.1 keeps its pages, with a note
    "stack_tracer = true\nallow_top_level = true": (True, True, ""),
}


def read_state() -> tuple[str, ...]:
    names = ("current_tracer", "tracing_on", "set_event", "set_ftrace_filter", "dynamic_events")
    return (*(TRACEFS.joinpath(name).read_text() for name in names), *sorted(os.listdir(TRACEFS / "instances")))


def check_findings(folder: Path, newer: bool) -> None:
    done = run_command("doctor", "--json", "--http", "", "--output", folder / "archive")
    check(done.returncode == 0 and "Traceback" not in done.stderr, f"doctor ends with 0 {done.stderr[-500:]}")
    report = json.loads(done.stdout)
    check(report["can_run"] and not report["obstacles"], "the defaults can run")
    found = {f"{f['group']}: {f['name']}": f for f in report["findings"]}
    wanted = SAME | dict.fromkeys(NEWER, "ok" if newer else "missing")
    wrong = {name: found[name] for name, status in wanted.items() if found[name]["status"] != status}
    check(not wrong, f"{len(wanted)} findings {wrong or ''}")
    place = "in an instance's available_tracers" if newer else "at the top level only"
    check(found["tracers: function_graph"]["evidence"].endswith(place), f"function_graph: {place}")
    remedies = {name: finding["remedy"] for name, finding in found.items() if finding["status"] == "missing"}
    check("CONFIG_IRQSOFF_TRACER" in remedies["tracers: irqsoff"], "what would give irqsoff")


def check_settings(folder: Path, newer: bool) -> None:
    """Where doctor finds an obstacle `run` ends with a message, at the same thing, and without a traceback."""
    config = folder / "config.toml"
    words = ("-c", config, "--http", "", "--output", folder / "archive")
    for settings, (on_older, on_newer, why) in SETTINGS.items():
        possible = on_newer if newer else on_older
        config.write_text(f'[trace]\ninstance = "doctor"\nevents = ["sched:sched_switch"]\n{settings}\n')
        name = settings.partition("\n")[0]
        done = run_command("doctor", *words)
        said = done.stdout + done.stderr
        right = done.returncode == (not possible) and (possible or why in said) and "Traceback" not in said
        check(right, f"{name}: {'can' if possible else 'cannot'} run{'' if right else said}")
        if not possible:
            done = run_command("run", "--duration", "1", *words)
            right = done.returncode != 0 and "error: " in done.stderr and "Traceback" not in done.stderr
            check(right, f"{name}: run says so{'' if right else done.stderr}")


def check_list() -> None:
    done = run_command("list", "tracers", "--json")
    rows = {row["tracer"]: row["in_instances"] for row in map(json.loads, done.stdout.splitlines())}
    check(rows["function"] in (True, None) and "blk" in rows, f"list tracers: {rows}")
    done = run_command("list", "functions", "vfs_read", "--json")
    check([json.loads(line)["function"] for line in done.stdout.splitlines()] == ["vfs_read"], "list functions")


def main() -> None:
    release = sys.argv[1]
    check(os.uname().release.startswith(release), f"kernel {os.uname().release}")
    newer = release != "6.1"
    before = read_state()
    with tempfile.TemporaryDirectory() as folder:
        check_findings(Path(folder), newer)
        check_settings(Path(folder), newer)
        check_list()
    check(read_state() == before, "tracefs as before")


if __name__ == "__main__":
    main()
