"""`ftrace-collector receive` as a process: who may send, under which name, and what is left at the end."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from collector.run.receive import check_name, raise_descriptor_limit
from sinks.connect.address import parse_address
from sinks.connect.tls import TlsConfig, build_context
from sinks.contract.base import Parcel
from sinks.stream.sink import StreamOptions, StreamTransport
from tests.sinks.stream.rig import bring, check_same, first_block

pytestmark = pytest.mark.network

COMMAND = Path(sys.executable).with_name("ftrace-collector")
PATIENCE_S = 60.0
OLD = datetime.now(UTC) - timedelta(days=1)


@contextlib.contextmanager
def receiving(folder: Path, *words: str | Path, listen: str | None = None) -> Iterator[str]:
    """Runs the command; gives the address it listens on, and ends it at the end."""
    listen = listen or f"unix:{folder / 'socket'}"
    args = [COMMAND, "receive", "--listen", listen, "--output", folder / "hosts", "--min-free-bytes", "0", *words]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        lines = [process.stderr.readline()]
        while lines[-1] and "receiving" not in lines[-1]:
            lines.append(process.stderr.readline())
        assert lines[-1], lines
        yield listen
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


def send(
    address: str,
    parcels: Sequence[Parcel],
    *,
    host: str = "web-1",
    tls: TlsConfig | None = None,
    timeout_s: float = PATIENCE_S,
) -> str | None:
    """Brings the parcels; gives None, or why they did not come through."""
    options = StreamOptions(
        type="stream", address=address, host=host, tls=tls, request_timeout_s=timeout_s, retry_first_s=0.05,
        retry_max_s=0.05,
    )  # fmt: skip

    async def main() -> str | None:
        transport = StreamTransport(options, "here", build_context(tls) if tls is not None else None)
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            with trio.move_on_after(timeout_s):
                await bring(transport, parcels, size=100)  # each costs a sync of the disk
                nursery.cancel_scope.cancel()
                return None
            nursery.cancel_scope.cancel()
        return transport.state.last_error or "nothing"

    return trio.run(main)


class Certificates:
    """An authority, the server's certificate and those of hosts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.ca = self._write("ca.pem", self._ca.cert_pem)
        self.server = self._own("server", "127.0.0.1")
        self.expired_server = self._own("expired", "127.0.0.1", OLD)

    def host(self, name: str, not_after: datetime | None = None) -> TlsConfig:
        return TlsConfig(ca_file=self.ca, cert_file=self._own(name, name, not_after))

    def _own(self, name: str, identity: str, not_after: datetime | None = None) -> str:
        issued = self._ca.issue_cert(identity, not_after=not_after)
        return self._write(f"{name}.pem", issued.private_key_pem, *issued.cert_chain_pems)

    def _write(self, name: str, *blobs: trustme.Blob) -> str:
        path = self._folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)


def test_a_host_is_known_by_its_certificate(tmp_path: Path, archive: Path, parcels: list[Parcel]) -> None:
    known = Certificates(tmp_path)
    few = parcels[: first_block(parcels) + 1]
    with receiving(tmp_path, "--cert", known.server, "--client-ca", known.ca, listen=free_address()) as address:
        assert send(address, parcels, tls=known.host("web-1")) is None
        assert "of web-2, not of web-1" in (send(address, few, tls=known.host("web-2"), timeout_s=2) or "")
        assert send(address, few, tls=TlsConfig(ca_file=known.ca), timeout_s=2) is not None
        assert "certificate" in (send(address, few, tls=TlsConfig(), timeout_s=2) or "")
        assert send(address, few, timeout_s=2) is not None
    assert [path.name for path in (tmp_path / "hosts").iterdir()] == ["web-1"]
    check_same(archive, tmp_path / "hosts/web-1")


def test_an_expired_certificate_is_refused_on_both_sides(tmp_path: Path, parcels: list[Parcel]) -> None:
    known = Certificates(tmp_path)
    few = parcels[: first_block(parcels) + 1]
    with receiving(tmp_path, "--cert", known.expired_server, listen=free_address()) as address:
        assert "expired" in (send(address, few, tls=TlsConfig(ca_file=known.ca), timeout_s=2) or "")
    with receiving(tmp_path, "--cert", known.server, "--client-ca", known.ca, listen=free_address()) as address:
        assert send(address, few, tls=known.host("web-1", OLD), timeout_s=2) is not None
    assert list((tmp_path / "hosts").iterdir()) == []


def test_what_a_killed_receiver_had_acknowledged_is_there(tmp_path: Path, archive: Path, parcels: list[Parcel]) -> None:
    listen = f"unix:{tmp_path / 'socket'}"
    args = [COMMAND, "receive", "--listen", listen, "--output", tmp_path / "hosts", "--min-free-bytes", "0"]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        process.stderr.readline()
        assert send(listen, parcels[:-2]) is None
    finally:
        process.kill()
        process.communicate()
    with receiving(tmp_path) as again:  # its socket's file is still there
        assert send(again, parcels) is None
    check_same(archive, tmp_path / "hosts/web-1")


def test_many_connections_leave_nothing_behind(tmp_path: Path, parcels: list[Parcel]) -> None:
    with receiving(tmp_path) as listen:
        address = parse_address(listen)
        assert send(listen, parcels) is None
        pid = _listener(tmp_path)
        before = len(os.listdir(f"/proc/{pid}/fd"))
        for _ in range(1000):
            with socket.socket(socket.AF_UNIX) as peer:
                peer.connect(address)
                peer.sendall(b"\x94\xc4\x04")
        deadline_s = time.monotonic() + PATIENCE_S
        while len(os.listdir(f"/proc/{pid}/fd")) > before:
            assert time.monotonic() < deadline_s
            time.sleep(0.01)


def _listener(folder: Path) -> int:
    """The process whose command line names the folder."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"receive" in words and str(folder / "hosts").encode() in words:
                return int(entry.name)
    raise AssertionError("the receiver is not there")


def test_descriptors_for_all_hosts_are_taken_or_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [1024, 20_000]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(slice(None), new))
    raise_descriptor_limit(500)
    assert limits == [1024, 20_000]
    raise_descriptor_limit(16_000)
    assert limits == [16_000, 20_000]
    assert not caplog.records
    raise_descriptor_limit(30_000)
    assert limits == [20_000, 20_000]
    assert "LimitNOFILE" in caplog.text


def test_metrics_say_what_came(tmp_path: Path, parcels: list[Parcel]) -> None:
    at = free_address()
    with receiving(tmp_path, "--http", at) as listen:
        assert send(listen, parcels) is None
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(parse_address(listen))
            peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while peer.recv(1000):
                pass
        with urllib.request.urlopen(f"http://{at}/metrics", timeout=PATIENCE_S) as answer:
            rows = dict(line.rsplit(" ", 1) for line in answer.read().decode().splitlines() if line[0] != "#")
        with urllib.request.urlopen(f"http://{at}/readyz", timeout=PATIENCE_S) as answer:
            assert answer.status == 200
    found = {name.removeprefix("ftrace_collector_receive_"): float(value) for name, value in rows.items()}
    assert found["events_total"] == sum(parcel.events for parcel in parcels) > 0
    assert found["blocks_total"] == sum(parcel.number >= 0 for parcel in parcels)
    assert found["hosts"] == 1
    assert found["accepted_connections_total"] == 2
    assert found['refused_connections_total{reason="malformed"}'] == 1
    assert found['refused_connections_total{reason="full"}'] == 0
    assert 0 < found["held_bytes"] < found["held_limit_bytes"] == 1 << 30


def test_an_address_in_use_is_said(tmp_path: Path) -> None:
    with receiving(tmp_path) as listen:
        again = subprocess.run(
            [COMMAND, "receive", "--listen", listen, "--output", tmp_path / "other"], capture_output=True, text=True,
            timeout=PATIENCE_S,
        )  # fmt: skip
    assert again.returncode == 1
    assert "cannot listen there" in again.stderr
    assert "Traceback" not in again.stderr


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--listen", "nowhere", "--output", "x"], 78, "HOST:PORT or unix:PATH"),
        (["--listen", "127.0.0.1:1", "--output", "x", "--client-ca", "y"], 64, "--cert FILE"),
        (["--listen", "127.0.0.1:1", "--output", "x", "--cert", "missing.pem"], 78, "missing.pem"),
        (["--listen", "127.0.0.1:1", "--output", "x", "--max-memory-bytes", "1000"], 64, "at least 67108864"),
    ],
)
def test_a_wrong_command_line_is_told(words: list[str], code: int, message: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "receive", *words], capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE_S
    )
    assert done.returncode == code, done.stderr
    assert message in done.stderr


CERTIFICATE: Callable[..., dict[str, Any]] = lambda *names, common=None: {  # noqa: E731
    "subject": ((("commonName", common),),) if common else (),
    "subjectAltName": tuple(("DNS", name) for name in names),
}


@pytest.mark.parametrize(
    ("certificate", "is_allowed"),
    [
        (None, False),
        ({}, False),
        (CERTIFICATE("web-1"), True),
        (CERTIFICATE("web-2", "web-1"), True),
        (CERTIFICATE("web-2", common="web-1"), False),
        (CERTIFICATE(common="web-1"), True),
        (CERTIFICATE("*"), False),
    ],
)
def test_a_name_is_that_of_the_certificate(certificate: dict[str, Any] | None, is_allowed: bool) -> None:
    assert (check_name(certificate, "web-1") is None) is is_allowed
