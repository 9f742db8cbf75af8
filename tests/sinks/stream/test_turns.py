"""No sender's disk work keeps another one waiting, while the receiver runs and when it stops."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from collector.archive.reader import list_segments
from collector.batch import Delivery
from sinks.contract.base import Parcel
from sinks.stream import host, room, server
from sinks.stream.host import HostArchive
from sinks.stream.policy import HostPolicy
from sinks.stream.server import Limits
from tests.sinks.stream.rig import bring, check_same, first_block, sending, serving
from tests.sinks.stream.test_receive import PATIENCE_S, send


async def test_a_segment_ends_by_age_while_another_sender_is_busy(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.01)
    go_on, is_held = threading.Event(), threading.Event()
    take = HostArchive.take_part

    def hold(self: HostArchive, batch: Sequence[Parcel], start: int) -> Any:
        if self.folder.name == "busy":
            is_held.set()
            go_on.wait(PATIENCE_S)
        return take(self, batch, start)

    monkeypatch.setattr(HostArchive, "take_part", hold)
    few = parcels[: first_block(parcels) + 1]
    policy = HostPolicy(min_free_bytes=0, segment_age_s=0.2)
    async with serving(tmp_path, policy=policy) as served, sending(served.address) as quiet:
        await bring(quiet, few, size=100)
        async with sending(served.address, host="busy") as busy, trio.open_nursery() as nursery:
            nursery.start_soon(busy.deliver, few)
            try:
                with trio.fail_after(10):
                    while not is_held.is_set() or not list((served.folder / "web-1").glob("*.ftseg")):
                        await trio.sleep(0.01)
            finally:
                go_on.set()


async def test_a_sender_is_forgotten_while_another_one_is_busy(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "TICK_S", 0.01)
    few = parcels[: first_block(parcels) + 1]
    async with serving(tmp_path, Limits(idle_s=0.05)) as served, sending(served.address, host="busy") as busy:
        await bring(busy, few, size=100)
        async with sending(served.address) as leaving:
            await bring(leaving, few, size=100)
        async with served.receiver._senders["busy"]._lock:
            with trio.fail_after(10):
                while served.receiver.hosts > 1:
                    await trio.sleep(0.01)


async def test_all_senders_are_sealed_side_by_side(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    together = threading.Barrier(3, timeout=PATIENCE_S)
    close = HostArchive.close
    met: list[str] = []

    def meet(self: HostArchive) -> None:
        together.wait()
        met.append(self.folder.name)
        close(self)

    monkeypatch.setattr(HostArchive, "close", meet)
    names = ["web-1", "web-2", "web-3"]
    async with serving(tmp_path) as served:
        for name in names:
            async with sending(served.address, host=name) as transport:
                await bring(transport, parcels[: first_block(parcels) + 1], size=100)
    assert sorted(met) == names
    assert all(path.suffix == ".ftseg" for path in list_segments([served.folder / name for name in names]))


async def test_a_full_disk_costs_a_look_and_no_more(
    tmp_path: Path, archive: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder stays open, and what was written in it: nothing is read again."""
    at = first_block(parcels) + 1
    opened: list[Path] = []
    recover = host.recover_folder
    monkeypatch.setattr(host, "recover_folder", lambda folder, **how: opened.append(folder) or recover(folder, **how))
    async with serving(tmp_path, policy=HostPolicy(min_free_bytes=1)) as served, sending(served.address) as transport:
        await bring(transport, parcels[:at], size=100)
        with monkeypatch.context() as patched:
            patched.setattr(room.os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=4096))
            for _ in range(3):
                assert await transport.deliver(parcels[at:]) is Delivery.ERRORED
                assert "no room" in (transport.state.last_error or "")
        await bring(transport, parcels[at:], size=100)
        assert served.receiver.state.refused == {"full": 3}
    assert len(opened) == 1
    check_same(archive, served.folder / "web-1")
    assert len(list_segments([served.folder / "web-1"])) == 1


HANGS = """
import sys, threading
from collector.cli import main
from sinks.stream.host import HostArchive

def hang(self):
    print("sealing", file=sys.stderr, flush=True)
    threading.Event().wait()

HostArchive.close = hang
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_it_at_once(tmp_path: Path, archive: Path, parcels: list[Parcel], number: int) -> None:
    listen = f"unix:{tmp_path / 'socket'}"
    words = ["receive", "--listen", listen, "--output", str(tmp_path / "hosts"), "--min-free-bytes", "0"]
    process = subprocess.Popen([sys.executable, "-c", HANGS, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        assert "receiving" in process.stderr.readline()
        assert send(listen, parcels) is None
        process.send_signal(signal.SIGTERM)
        while "sealing" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
    finally:
        process.kill()
        process.communicate()
    HostArchive(tmp_path / "hosts/web-1", HostPolicy(min_free_bytes=0)).close()
    check_same(archive, tmp_path / "hosts/web-1")
