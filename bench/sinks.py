"""What network sinks cost beside the archive, and what an outage of one does: live load, real receivers."""

import contextlib
import os
import re
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .daemon import COMMAND, FLUSHED_S, read_archive, running
from .kernel import BUFFER_KB, PREFIX, open_tracefs
from .loads import LOADS, READER_CPU, TRACED_CPU, Load, Programs, finish_paced
from .report import build_table, build_targets, say
from .servers import Server, free_port, server

TARGET_FACTOR = 1.3  # archive and forward(blocks), to the archive alone
TARGET_REPLAY = 5.0  # times the live rate
RSS_TARGET_MIB = 80 + 64 + 16  # the daemon's own, the byte budget, the sink's window

OUTAGE_S = 60.0
OUTAGE_RATE = 100_000.0  # calls a second, two events each
OUTAGE_BEFORE_S, OUTAGE_AFTER_S = 5.0, 30.0
DRAIN_S = 60.0
POLL_S = 0.1

VARIANTS = ("archive alone", "and forward, blocks", "and stream to `receive`")


@dataclass(frozen=True, slots=True)
class Outage:
    """What a sink did that was cut off."""

    live_rate: float  # events a second
    spooled: int  # events, when the receiver came back
    replay_rate: float  # events a second, from then until nothing was left
    is_complete: bool  # all acknowledged, nothing lost or discarded
    peak_rss_mib: float


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the tables."""
    costs: dict[tuple[str, str], list[float]] = {}
    complete: dict[str, int] = dict.fromkeys(VARIANTS, 0)
    for number in range(runs):
        for load in LOADS:
            for variant in VARIANTS:
                cost, is_complete = _run(programs, work, load, variant)
                costs.setdefault((load.name, variant), []).append(cost)
                complete[variant] += is_complete
                say(f"sinks {number + 1}/{runs} {load.name}, {variant}: {cost:.3f} s/M, complete: {is_complete}")
    rows, targets = [], []
    for variant in VARIANTS:
        cells = []
        for load in LOADS:
            of, alone = costs[load.name, variant], costs[load.name, VARIANTS[0]]
            factor = median(a / b for a, b in zip(of, alone, strict=True))
            cells += [f"{median(of):.3f}", f"{factor:.2f}"]
            if variant == VARIANTS[1]:
                targets.append((f"{load.name}: forward of blocks, to the archive alone", TARGET_FACTOR, factor, ".2f"))
        rows.append((variant, *cells, f"{complete[variant]} of {runs * len(LOADS)}"))
    head = ("", *(f"{load.name}: {what}" for load in LOADS for what in ("CPU s/million", "to the archive alone")))
    outage = _cut_off(programs, work)
    replay = outage.replay_rate / outage.live_rate
    # As its inverse, so that the target is an upper limit like the others.
    targets += [
        ("outage: live rate to the rate of replay", 1 / TARGET_REPLAY, 1 / replay, ".2f"),
        ("outage: peak RSS, MiB, budgets of 80 included", RSS_TARGET_MIB, outage.peak_rss_mib, ".0f"),
    ]
    return "\n\n".join((
        f"Medians of {runs} runs.",
        build_table((*head, "complete"), rows),
        build_table(
            ("cut off for", "live, events/s", "spooled, events", "replay, events/s", "times live", "peak RSS, MiB",
             "all acknowledged, nothing lost"),
            [(f"{OUTAGE_S:g} s", f"{outage.live_rate:.0f}", str(outage.spooled), f"{outage.replay_rate:.0f}",
              f"{replay:.1f}", f"{outage.peak_rss_mib:.0f}", "yes" if outage.is_complete else "**no**")],
        ),
        build_targets(targets),
    ))  # fmt: skip


def _run(programs: Programs, work: Path, load: Load, variant: str) -> tuple[float, bool]:
    """(CPU seconds of the daemon per million events, whether nothing was lost and all was acknowledged)."""
    out = work / "archive"
    with contextlib.ExitStack() as stack:
        config = work / "sinks.toml"
        config.write_text("" if variant == VARIANTS[0] else _settings(stack.enter_context(_receiver(work, variant))))
        port = free_port()
        top = open_tracefs()
        events = [word for system in load.systems if top.exists(f"events/{system}") for word in ("-e", f"{system}:*")]
        words = [*_words(out, config, port), "--buffer-size-kb", str(BUFFER_KB), *events]
        with running(words, work, cpu=READER_CPU) as daemon:
            before_s = daemon.cpu_s()
            programs.run_load(load, load.count // 2)
            time.sleep(FLUSHED_S)
            cpu_s = daemon.cpu_s() - before_s
            acked = variant == VARIANTS[0] or _wait_acked(port)
            daemon.stop()
    archive = read_archive(out)
    return cpu_s / archive.events * 1e6, archive.is_complete and acked


def _cut_off(programs: Programs, work: Path) -> Outage:
    """A paced load, and a receiver that is away for a minute in its middle."""
    out, config, port = work / "archive", work / "sinks.toml", free_port()
    listen = free_port()
    config.write_text(_settings(Server(0, listen, "stream")))
    seconds = OUTAGE_BEFORE_S + OUTAGE_S + OUTAGE_AFTER_S
    words = [*_words(out, config, port), "-e", "raw_syscalls:*"]
    with running(words, work, cpu=READER_CPU) as daemon:
        with _stream_receiver(work, listen):
            load = programs.start_paced("paced", TRACED_CPU, OUTAGE_RATE, seconds)
            began_s = time.monotonic()
            time.sleep(OUTAGE_BEFORE_S)
        time.sleep(OUTAGE_S)
        live_rate = _metric(port, "sink_offered_events_total") / (time.monotonic() - began_s)
        say(f"sinks outage: {live_rate:.0f} events/s, away for {OUTAGE_S:g} s")
        with _stream_receiver(work, listen):
            back_s = time.monotonic()
            spooled = _metric(port, "spool_events")
            acked = _metric(port, "sink_acked_events_total")
            # What is still spooled then is what is on its way: a second of the load.
            while _metric(port, "spool_events") > live_rate and time.monotonic() - back_s < DRAIN_S:
                time.sleep(POLL_S)
            replay_rate = (_metric(port, "sink_acked_events_total") - acked) / (time.monotonic() - back_s)
            finish_paced([load], seconds)
            time.sleep(FLUSHED_S)
            is_acked = _wait_acked(port)
            daemon.stop()
    archive = read_archive(out)
    return Outage(
        live_rate, int(spooled), replay_rate, archive.is_complete and is_acked, daemon.peak_rss_bytes / (1 << 20)
    )


def _words(out: Path, config: Path, port: int) -> list[object]:
    return [
        COMMAND, "run", "-c", config, "--cpu", TRACED_CPU, "--clock", "mono", "--output", out,
        "--instance", f"{PREFIX}sinks-{os.getpid()}", "--http", f"127.0.0.1:{port}",
    ]  # fmt: skip


def _settings(at: Server) -> str:
    if at.kind == "forward":
        return (f'[[sinks]]\ntype = "forward"\npayload = "blocks"\nname = "bench"\n'
                f'servers = [{{host = "127.0.0.1", port = {at.port}}}]\n')  # fmt: skip
    return f'[[sinks]]\ntype = "stream"\nname = "bench"\naddress = "127.0.0.1:{at.port}"\nretry_max_s = 1.0\n'


@contextlib.contextmanager
def _receiver(work: Path, variant: str) -> Iterator[Server]:
    """Beside the daemon, on its CPU: on the other one it would be traced."""
    if variant == VARIANTS[1]:
        port = free_port()
        with server([sys.executable, "-m", "bench.acker", str(port)], port, work, "forward", READER_CPU) as found:
            yield found
    else:
        with _stream_receiver(work, free_port()) as found:
            yield found


@contextlib.contextmanager
def _stream_receiver(work: Path, port: int) -> Iterator[Server]:
    words = [COMMAND, "receive", "--listen", f"127.0.0.1:{port}", "--output", str(work / "received"),
             "--min-free-bytes", "0"]  # fmt: skip
    with server(words, port, work, "stream", READER_CPU) as found:
        yield found


def _wait_acked(port: int) -> bool:
    """Whether all that was offered is acknowledged, within a while."""
    deadline_s = time.monotonic() + DRAIN_S
    while time.monotonic() < deadline_s:
        if _metric(port, "sink_acked_events_total") >= _metric(port, "sink_offered_events_total") > 0:
            return True
        time.sleep(POLL_S)
    return False


def _metric(port: int, name: str) -> float:
    """The value of a sink's metric."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf'(?m)^ftrace_collector_{name}{{sink="bench"}} (\S+)$', text)
    if found is None:
        raise RuntimeError(f"no metric {name} of the sink")
    return float(found[1])
