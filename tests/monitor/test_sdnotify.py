"""collector.monitor.sdnotify against a datagram socket as systemd has it."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from collector.monitor.sdnotify import Notifier, watchdog_interval_s


@pytest.fixture(params=["path", "abstract"])
def receiver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    name = str(tmp_path / "notify") if request.param == "path" else f"@ftc-test-{tmp_path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(name.replace("@", "\0", 1))
        sock.setblocking(False)
        yield sock, name


def test_messages_arrive_as_systemd_reads_them(receiver: tuple[socket.socket, str]) -> None:
    sock, name = receiver
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready("up")
    notifier.status("10 events/s\nREADY=0")
    notifier.watchdog()
    notifier.stopping()
    assert [sock.recv(1000) for _ in range(4)] == [
        b"READY=1\nSTATUS=up", b"STATUS=10 events/s READY=0", b"WATCHDOG=1", b"STOPPING=1",
    ]  # fmt: skip
    notifier.close()
    notifier.watchdog()
    with pytest.raises(BlockingIOError):
        sock.recv(1000)


def test_without_systemd_nothing_happens() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.close()


def test_a_failure_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    with caplog.at_level(logging.WARNING):
        notifier.ready()
        notifier.watchdog()
    assert [r.getMessage() for r in caplog.records] == [
        "systemd does not take notifications: No such file or directory"
    ]


def test_a_receiver_that_does_not_read_never_blocks(receiver: tuple[socket.socket, str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": receiver[1]})
    for _ in range(2000):  # more than the socket's queue holds
        notifier.watchdog()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "42"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "43"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "x"}, None),
    ],
)
def test_the_watchdog_is_fed_at_half_its_time(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ, pid=42) == interval_s
