"""From the live kernel to FluentServer: what arrived is what the archive says, also when the server went and came."""

import base64
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.archive.frame import Kind, build_record
from collector.archive.info import summarise
from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import CPUS, PATIENCE_S, QUICK, assert_verifies, read_info, wait_until
from tests.sinks.forward.rig import SERVER_JS, why_no_fluent_server

pytestmark = pytest.mark.skipif(why_no_fluent_server() is not None, reason=str(why_no_fluent_server()))

CALLS = 5_000
GETPPID = 110 if os.uname().machine == "x86_64" else 173
BIG = ("-e", "raw_syscalls:*", "--buffer-size-kb", "16384")
# Of the load alone: the server prints each entry, which takes longer than all else.
FILTERS = "".join(f'"raw_syscalls:{name}" = "id == {GETPPID}"\n' for name in ("sys_enter", "sys_exit"))


class Server:
    """FluentServer as a process that writes what it receives into a file."""

    def __init__(self, file: Path, port: int = 0) -> None:
        self.file = file
        with file.open("wb") as out:
            options = json.dumps({"listenOptions": {"port": port, "host": "127.0.0.1"}})
            self.process = subprocess.Popen(["node", str(SERVER_JS), options], stdin=subprocess.PIPE, stdout=out)
        wait_until(lambda: self.lines(), "FluentServer listens")
        self.port: int = self.lines()[0]["port"]

    def lines(self) -> list[Any]:
        whole, _, _ = self.file.read_bytes().rpartition(b"\n")
        return [json.loads(line) for line in whole.splitlines()]

    @property
    def records(self) -> list[Any]:
        return [record for _tag, _s, _ns, record in self.lines()[1:]]

    def leave(self) -> None:
        """End between two messages, so that what it has acknowledged is in the file."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(port: int = 0) -> Server:
        servers.append(Server(tmp_path / f"received-{len(servers)}", port))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait(PATIENCE_S)


def config_of(port: int, more: str = "") -> str:
    return f"""\
{QUICK}
[trace.filters]
{FILTERS}
[[sinks]]
type = "forward"
servers = [{{host = "127.0.0.1", port = {port}}}]
retry_max_s = 0.5
repeat_interval_s = 1.0
{more}
"""


def run_loads(start_load: StartLoad) -> None:
    for load in [start_load("syscalls", cpu, CALLS) for cpu in CPUS]:
        load.communicate()


def counts(info: Any) -> dict[str, int]:
    return {name: events for name, events in info["by_event"].items() if events}


def test_records_are_those_of_the_archive(
    start_daemon: StartDaemon, start_load: StartLoad, start_server: Callable[..., Server]
) -> None:
    server = start_server()
    daemon = start_daemon(*BIG, config=config_of(server.port)).wait_ready()
    run_loads(start_load)
    assert daemon.stop() == 0
    server.leave()
    info = read_info(daemon.archive)
    assert_verifies(daemon.archive)
    records = [record for record in server.records if "event" in record]
    assert Counter(record["event"] for record in records) == counts(info)
    assert len({(r["run"], r["instance"], r["cpu"], r["ordinal"]) for r in records}) == len(records) == info["events"]
    for cpu in CPUS:
        assert [r["ordinal"] for r in records if r["cpu"] == cpu] == list(range(sum(r["cpu"] == cpu for r in records)))
    assert {r["fields"]["id"] for r in records} == {GETPPID}
    assert len(records) >= 2 * CALLS * len(CPUS)


def test_a_server_that_goes_and_comes_back_misses_nothing(
    start_daemon: StartDaemon, start_load: StartLoad, start_server: Callable[..., Server]
) -> None:
    first = start_server()
    daemon = start_daemon(*BIG, config=config_of(first.port)).wait_ready()
    run_loads(start_load)
    wait_until(lambda: len(first.lines()) > 100, "entries arrive")
    first.leave()
    run_loads(start_load)
    wait_until(lambda: daemon.metric("sink_retries_total") > 0, "the sink has noticed")
    second = start_server(first.port)
    run_loads(start_load)
    wait_until(lambda: len(second.lines()) > 100, "entries arrive again")
    assert daemon.stop() == 0
    second.leave()
    info = read_info(daemon.archive)
    once = {(r["cpu"], r["ordinal"]): r["event"] for r in first.records + second.records if "event" in r}
    assert Counter(once.values()) == counts(info)
    assert len(once) == info["events"]


def test_blocks_make_an_archive_again(
    start_daemon: StartDaemon, start_load: StartLoad, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server()
    daemon = start_daemon(*BIG, config=config_of(server.port, 'payload = "blocks"')).wait_ready()
    run_loads(start_load)
    assert daemon.stop() == 0
    server.leave()
    folder = tmp_path / "rebuilt"
    folder.mkdir()
    segments: list[bytearray] = []
    for record in server.records:
        if record["kind"] == "header":
            segments.append(bytearray())
        segments[-1] += build_record(Kind[record["kind"].upper()], base64.b64decode(record["body"]["bin"]))
    for number, data in enumerate(segments):
        (folder / f"{number:06d}.ftseg").write_bytes(data)
    assert counts(summarise([folder])) == counts(read_info(daemon.archive))
