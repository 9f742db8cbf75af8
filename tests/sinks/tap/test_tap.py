"""The live tap: what a subscriber is given, and what becomes of one that is too slow."""

import contextlib
import io
import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from collector.archive.frame import Kind
from collector.batch import Delivery
from collector.errors import CollectorError, UsageError
from collector.run.tap import tap
from collector.show.show import show_paths
from sinks.contract.base import Parcel
from sinks.tap.sink import Tap, TapOptions
from sinks.wire.messages import Message, Parser, WireRecord, build_hello, parse_parcel, parse_welcome


@asynccontextmanager
async def tapped(folder: Path, **settings: int) -> AsyncIterator[Tap]:
    options = TapOptions(type="tap", address=f"unix:{folder / 'tap'}", **settings)
    found = Tap(options)
    async with trio.open_nursery() as nursery:
        await nursery.start(found.run)
        yield found
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def subscribed(tap: Tap, folder: Path) -> AsyncIterator[trio.SocketStream]:
    before = len(tap._subscribers)
    async with await trio.open_unix_socket(str(folder / "tap")) as stream:
        await stream.send_all(build_hello("tap"))
        with trio.fail_after(10):
            while len(tap._subscribers) == before:
                await trio.sleep(0.001)
        yield stream


async def receive(stream: trio.SocketStream, count: int) -> list[Parcel]:
    """Behind the welcome."""
    parser = Parser(1 << 20)
    found: list[Parcel] = []
    welcomed = False
    with trio.fail_after(10):
        while len(found) < count:
            parser.feed(await stream.receive_some(65536))
            for record in parser.records():
                if welcomed:
                    found.append(parse_parcel(record))
                else:
                    parse_welcome(record)
                    welcomed = True
    return found


async def deliver(tap: Tap, parcels: Sequence[Parcel]) -> None:
    assert await tap.deliver(parcels) is Delivery.DELIVERED


async def test_a_subscriber_gets_all_that_comes(tmp_path: Path, parcels: list[Parcel]) -> None:
    async with tapped(tmp_path) as tap, subscribed(tap, tmp_path) as stream:
        await deliver(tap, parcels)
        assert [p.body for p in await receive(stream, len(parcels))] == [p.body for p in parcels]


async def test_a_late_subscriber_begins_with_the_header_and_the_names(tmp_path: Path, parcels: list[Parcel]) -> None:
    blocks = [at for at, parcel in enumerate(parcels) if parcel.kind is Kind.BLOCK]
    async with tapped(tmp_path) as tap:
        await deliver(tap, parcels[: blocks[2]])
        async with subscribed(tap, tmp_path) as stream:
            await deliver(tap, parcels[blocks[2] :])
            names = {p.body for p in parcels[: blocks[2]] if p.kind is Kind.OBJECT}
            found = await receive(stream, 1 + len(names) + len(parcels) - blocks[2])
    assert found[0].kind is Kind.HEADER
    assert {p.body for p in found[1 : 1 + len(names)]} == names
    assert [p.body for p in found[1 + len(names) :]] == [p.body for p in parcels[blocks[2] :]]


async def test_a_slow_subscriber_is_ended_and_nobody_waits_for_it(tmp_path: Path, parcels: list[Parcel]) -> None:
    large = Parcel(Kind.BLOCK, os.urandom(900_000), parcels[0].run)
    async with tapped(tmp_path, subscriber_bytes=1 << 20) as tap:
        async with subscribed(tap, tmp_path) as slow:
            with trio.fail_after(10):
                while not tap.state.slow_subscribers:
                    await deliver(tap, [large])
                    await trio.sleep(0)
                while await slow.receive_some(1 << 20):
                    pass
        assert not tap._subscribers
        async with subscribed(tap, tmp_path) as stream:
            await deliver(tap, parcels[:3])
            assert len(await receive(stream, 3)) == 3


async def test_a_subscriber_that_goes_in_the_middle_takes_nothing_with_it(
    tmp_path: Path, parcels: list[Parcel]
) -> None:
    large = Parcel(Kind.BLOCK, os.urandom(900_000), parcels[0].run)
    async with tapped(tmp_path) as tap:
        async with subscribed(tap, tmp_path) as leaving:
            await deliver(tap, [large] * 4)
            await leaving.receive_some(10)
        with trio.fail_after(10):
            while tap._subscribers:
                await trio.sleep(0.001)
        async with subscribed(tap, tmp_path) as stream:
            await deliver(tap, parcels[:3])
            assert len(await receive(stream, 3)) == 3


async def test_there_is_a_limit_of_subscribers(tmp_path: Path) -> None:
    async with tapped(tmp_path, max_subscribers=1) as tap, subscribed(tap, tmp_path):
        with pytest.raises(CollectorError, match="1 listen already"):
            await trio.to_thread.run_sync(tap_text, tmp_path)


async def test_the_limit_holds_for_those_who_come_at_once(tmp_path: Path) -> None:
    async with tapped(tmp_path, max_subscribers=2) as tap, contextlib.AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await trio.open_unix_socket(str(tmp_path / "tap"))) for _ in range(10)
        ]
        for stream in streams:
            await stream.send_all(build_hello("tap"))
        answers = [next(_records(await stream.receive_some(4096))).kind for stream in streams]
        assert len(tap._subscribers) == 2
    assert sorted(answers) == [Message.WELCOME] * 2 + [Message.REFUSED] * 8


def _records(data: bytes | bytearray) -> Iterator[WireRecord]:
    parser = Parser()
    parser.feed(data)
    return parser.records()


async def test_a_subscriber_that_says_something_else_is_cut_off(tmp_path: Path) -> None:
    async with tapped(tmp_path), await trio.open_unix_socket(str(tmp_path / "tap")) as stream:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        with trio.fail_after(10):
            assert await stream.receive_some(100) == b""


async def test_the_socket_is_for_owner_and_group_and_goes_with_the_daemon(tmp_path: Path) -> None:
    async with tapped(tmp_path):
        assert (tmp_path / "tap").stat().st_mode & 0o777 == 0o660
    assert not (tmp_path / "tap").exists()


def tap_text(folder: Path, limit: int | None = None, events: Sequence[str] | None = None) -> str:
    out = io.StringIO()
    tap(f"unix:{folder / 'tap'}", out, event_globs=events, format="json", limit=limit)
    return out.getvalue()


async def test_the_command_prints_what_show_prints(tmp_path: Path, archive: Path, parcels: list[Parcel]) -> None:
    printed = io.StringIO()
    show_paths([archive], printed, format="json")
    shown = sorted(_identity(line) for line in printed.getvalue().splitlines())
    found: list[str] = []
    async with tapped(tmp_path) as tap, trio.open_nursery() as nursery:
        nursery.start_soon(_run_command, tmp_path, len(shown), found)
        while not tap._subscribers:
            await trio.sleep(0.001)
        await deliver(tap, parcels)
    assert sorted(_identity(line) for line in found) == shown


async def _run_command(folder: Path, limit: int, found: list[str]) -> None:
    found += (await trio.to_thread.run_sync(tap_text, folder, limit)).splitlines()


def _identity(line: str) -> tuple[object, ...]:
    """An entry without its thread's name, which the tap has of the kernel's list alone."""
    entry = json.loads(line)
    return entry["ts_ns"], entry["cpu"], entry["event"], entry["pid"], json.dumps(entry["fields"])


def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CollectorError, match="no daemon listens there"):
        tap_text(tmp_path)


def test_another_kind_of_address_is_refused() -> None:
    with pytest.raises(UsageError, match="unix:PATH"):
        tap("127.0.0.1:80", io.StringIO())
