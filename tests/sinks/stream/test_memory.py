"""The budget of bytes of all senders: who waits for it, and who is cut off when nobody could go on."""

import contextlib
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from collector.archive.frame import Kind, build_head_tail
from collector.archive.objects import build_object
from sinks.contract.base import Parcel
from sinks.stream import memory, server
from sinks.stream.memory import PATIENCE_S, Memory
from sinks.stream.server import Limits
from sinks.wire.messages import build_hello
from tests.sinks.stream.rig import bring, check_same, sending, serving

MIB = 1 << 20


async def test_who_wants_to_read_waits_until_something_is_given_back(autojump_clock: MockClock) -> None:
    budget = Memory(100)
    share = budget.open_share(lambda: None)
    share.resize(90)
    went_on = trio.Event()

    async def wait() -> None:
        await budget.wait_room(50)
        went_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        share.resize(60)
        await wait_all_tasks_blocked()
        assert not went_on.is_set()
        share.close()
        await wait_all_tasks_blocked()
        assert went_on.is_set()
    assert budget.used_bytes == 0
    assert trio.current_time() < PATIENCE_S


async def test_who_holds_most_gives_it_back_when_nobody_can_go_on(autojump_clock: MockClock) -> None:
    budget = Memory(100)
    cut: list[str] = []

    def give_back(name: str) -> None:
        cut.append(name)
        shares[name].resize(0)

    shares = {name: budget.open_share(lambda name=name: give_back(name)) for name in "abc"}
    for (name, share), size_bytes in zip(shares.items(), (20, 50, 30), strict=True):
        share.resize(size_bytes)
        share.is_busy = name == "c"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(budget.wait_room, 40)
        await trio.sleep(10 * PATIENCE_S)
        assert cut == []  # c is being written: that will make room
        shares["c"].is_busy = False
    assert cut == ["b"]


async def test_halves_of_records_do_not_keep_others_waiting(
    tmp_path: Path, archive: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PATIENCE_S", 0.05)
    half = build_head_tail(Kind.BLOCK, bytes(15 * MIB))[0] + bytes(3 * MIB)
    async with serving(tmp_path, Limits(max_memory_bytes=8 * MIB)) as served, trio.open_nursery() as nursery:
        budget = served.receiver.memory
        for number in range(6):
            nursery.start_soon(send_half, served.address, f"bad-{number}", half)
        with trio.fail_after(10):
            while budget.used_bytes < 4 * MIB:
                await trio.sleep(0.01)
        async with sending(served.address) as transport:
            with trio.fail_after(30):
                await bring(transport, parcels, size=100)
        assert served.receiver.state.refused["memory"] >= 1
        assert budget.used_bytes <= 8 * MIB
        nursery.cancel_scope.cancel()
    check_same(archive, served.folder / "web-1")


async def send_half(address: str, name: str, half: bytes) -> None:
    async with await trio.open_unix_socket(address) as stream:
        await stream.send_all(build_hello(name))
        await stream.receive_some(1000)
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(half)
            while await stream.receive_some(1000):
                pass


async def test_names_of_a_sender_that_went_away_make_room(
    tmp_path: Path, parcels: list[Parcel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PATIENCE_S", 0.05)
    monkeypatch.setattr(server, "TICK_S", 0.01)
    names = [Parcel(Kind.OBJECT, build_object("printk", {1: chr(n) * MIB})[1], b"") for n in range(3)]
    async with serving(tmp_path) as served:
        budget = served.receiver.memory
        async with sending(served.address, host="large") as transport:
            await bring(transport, [parcels[0], *names], size=1)
        with trio.fail_after(10):
            while served.receiver.state.connections:
                await trio.sleep(0.01)
        assert budget.used_bytes >= 3 * MIB
        budget.limit_bytes = 4 * MIB
        async with sending(served.address) as transport:
            with trio.fail_after(30):
                await bring(transport, parcels, size=100)
        assert budget.used_bytes < 3 * MIB
        assert served.receiver.hosts == 1
    assert budget.used_bytes == 0
