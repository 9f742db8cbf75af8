"""The daemon on both loads, beside its rivals: CPU, bytes on disk, loss, memory, start-up."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .daemon import COMMAND, FLUSHED_S, read_archive, running
from .kernel import BUFFER_KB, PREFIX, open_tracefs
from .loads import LOADS, READER_CPU, TRACED_CPU, Load, Programs
from .report import build_table, build_targets, format_number, say
from .rivals import Cost, rivals

TARGETS = {"syscalls": (0.07, 1.5), "mixed": (0.12, 4.0)}  # {load: (CPU s per million events, bytes per event)}
STARTUP_TARGET_S = 0.8
RSS_TARGET_MIB = 80 + 64  # beside the byte budget, which is 64 MiB by default
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Run:
    """The daemon under one load, once."""

    cost: Cost
    is_complete: bool  # nothing lost, residual 0, verify passes
    startup_cpu_s: float
    peak_rss_mib: float
    rate: float  # events per second while the load ran


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    tools = rivals(programs, work)
    found: dict[str, list[Run]] = {load.name: [] for load in LOADS}
    others: dict[str, dict[str, list[Cost]]] = {load.name: {tool.name: [] for tool in tools} for load in LOADS}
    for number in range(runs):
        for load in LOADS:
            run = run_daemon(programs, work, load)
            found[load.name].append(run)
            say(f"live {number + 1}/{runs} {load.name}: {run.cost.events} events, "
                f"{run.cost.cpu_s_per_million:.3f} s/M, complete: {run.is_complete}")  # fmt: skip
            for tool in tools:
                if tool.missing is None:
                    others[load.name][tool.name].append(tool.measure(load))
    head = ("", *(f"{load.name}: {what}" for load in LOADS for what in ("CPU s/million", "bytes/event", "most lost")))
    own = {load: [run.cost for run in of] for load, of in found.items()}
    rows = [("**ftrace-collector**: decoded, compressed, on disk", *_cells(own))]
    for tool in tools:
        if tool.missing is not None:
            rows.append((f"{tool.name}: {tool.missing}", *["-"] * 3 * len(LOADS)))
        else:
            rows.append((tool.name, *_cells({load: costs[tool.name] for load, costs in others.items()})))
    about = [
        (
            load.name,
            f"{median(r.cost.events for r in found[load.name]) / 1e6:.1f}",
            f"{median(r.rate for r in found[load.name]) / 1e6:.2f}",
            " ".join(f"{r.cost.cpu_s_per_million:.3f}" for r in found[load.name]),
            f"{sum(r.is_complete for r in found[load.name])} of {runs}",
            f"{median(r.startup_cpu_s for r in found[load.name]):.2f}",
            f"{max(r.peak_rss_mib for r in found[load.name]):.0f}",
        )
        for load in LOADS
    ]
    return "\n\n".join((
        f"Medians of {runs} runs.",
        build_table(head, rows),
        "The daemon's runs:",
        build_table(
            ("load", "million events", "million events/s", "CPU s/million of each run",
             "complete (lost 0, residual 0, verify)", "start-up, CPU s to READY", "peak RSS, MiB"),
            about,
        ),
        build_targets(_targets(found)),
    ))  # fmt: skip


def run_daemon(programs: Programs, work: Path, load: Load) -> Run:
    """One run under one load."""
    top = open_tracefs()
    out = work / "archive"
    events = [word for system in load.systems if top.exists(f"events/{system}") for word in ("-e", f"{system}:*")]
    words = [
        COMMAND, "run", *events, "--cpu", TRACED_CPU, "--clock", "mono", "--buffer-size-kb", BUFFER_KB,
        "--output", out, "--instance", f"{PREFIX}live-{os.getpid()}", "--http", "127.0.0.1:0",
    ]  # fmt: skip
    with running(words, work, cpu=READER_CPU) as daemon:
        time.sleep(1.0)  # what start-up has left to do is not the load's
        before_s = daemon.cpu_s()
        wall_s = programs.run_load(load, load.count)
        time.sleep(FLUSHED_S)
        cpu_s = daemon.cpu_s() - before_s
        daemon.stop()
    archive = read_archive(out)
    cost = Cost(archive.events, archive.info["lost_events"], cpu_s, archive.disk_bytes)
    enough = archive.events >= 2 * load.count
    peak_mib = daemon.peak_rss_bytes / MIB
    return Run(cost, archive.is_complete and enough, daemon.startup_cpu_s, peak_mib, archive.events / wall_s)


def _cells(measured: dict[str, list[Cost]]) -> list[str]:
    cells = []
    for load in LOADS:
        costs = measured[load.name]
        sizes = [c.bytes_per_event for c in costs if c.bytes_per_event is not None]
        lost = [c.lost for c in costs if c.lost is not None]
        cells += [
            f"{median(c.cpu_s_per_million for c in costs):.3f}",
            format_number(median(sizes) if sizes else None, ".2f"),
            format_number(max(lost) if lost else None, "d"),
        ]
    return cells


def _targets(found: dict[str, list[Run]]) -> list[tuple[str, float, float, str]]:
    rows: list[tuple[str, float, float, str]] = []
    for load in LOADS:
        costs = [run.cost for run in found[load.name]]
        cost_target, size_target = TARGETS[load.name]
        size = median(c.bytes_per_event or 0 for c in costs)
        rows += [
            (f"{load.name}: CPU s per million events", cost_target, median(c.cpu_s_per_million for c in costs), ".3f"),
            (f"{load.name}: bytes on disk per event", size_target, size, ".2f"),
            (f"{load.name}: entries lost, most", 0, max(c.lost or 0 for c in costs), ".0f"),
        ]
    runs = [run for of in found.values() for run in of]
    rows.append(("start-up, CPU s to READY", STARTUP_TARGET_S, median(run.startup_cpu_s for run in runs), ".2f"))
    rows.append(("peak RSS, MiB, budget of 64 included", RSS_TARGET_MIB, max(run.peak_rss_mib for run in runs), ".0f"))
    return rows
