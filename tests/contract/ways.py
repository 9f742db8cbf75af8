"""Ways to a receiver, which a test breaks and mends."""

import errno
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from collector.archive import disk
from collector.archive.frame import MAX_BODY_BYTES
from sinks.contract.base import Parcel
from sinks.wire.messages import Parser, build_hello, parse_parcel, parse_welcome
from tests.sinks.proxy import Proxy

POLL_S = 0.01


class Way(Protocol):
    """Between a sink and its receiver."""

    async def ready(self) -> None:
        """Wait until something that is sent now would arrive."""

    async def refuse(self) -> None:
        """The receiver is away: what there is of connections ends, new ones are refused."""

    async def allow(self) -> None:
        """It is there again."""

    async def cut(self) -> None:
        """What is on its way does not arrive; the next try does."""

    async def hold(self) -> None:
        """The receiver takes, and never answers."""

    async def flow(self) -> None:
        """It answers again, also what was held."""


class ProxyWay:
    """Through a relay, over TCP."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy

    async def ready(self) -> None:
        pass

    async def refuse(self) -> None:
        self._proxy.refuse(True)
        await self._proxy.cut()

    async def allow(self) -> None:
        self._proxy.refuse(False)

    async def cut(self) -> None:
        await self._proxy.cut()

    async def hold(self) -> None:
        self._proxy.hold()

    async def flow(self) -> None:
        self._proxy.flow()


class DiskWay:
    """Onto a disk, whose steps are collector.archive.disk's.

    Args:
      patch: undone by its owner.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._is_full = False
        self._writes_left: int | None = None  # so many until one ends in its middle; None: none does
        self._flowing = trio.Event()
        self._flowing.set()
        for name in ("create", "write", "write_at", "allocate", "make_one_folder"):
            patch.setattr(disk, name, self._needing_room(getattr(disk, name)))

    async def in_thread(self, job: Callable[[], Any]) -> Any:
        """As the archive's thread; a disk that hangs is waited for without end."""
        await self._flowing.wait()
        return job()

    async def ready(self) -> None:
        pass

    async def refuse(self) -> None:
        self._is_full = True

    async def allow(self) -> None:
        self._is_full = False

    async def cut(self) -> None:
        self._writes_left = 0

    async def hold(self) -> None:
        self._flowing = trio.Event()

    async def flow(self) -> None:
        self._flowing.set()

    def _needing_room(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def take(*args: Any) -> Any:
            if self._is_full:
                raise OSError(errno.ENOSPC, "No space left on device")
            if step.__name__ == "write" and self._writes_left is not None:
                self._writes_left = None
                fd, parts = args
                data = b"".join(parts)
                step(fd, [data[: len(data) // 2]])
                raise OSError(errno.EIO, "Input/output error")
            return step(*args)

        return take


class TapWay:
    """A subscriber of a tap, which comes again when its connection ends.

    Args:
      take: is given each parcel that comes.
    """

    def __init__(self, path: Path, take: Callable[[Parcel], None]) -> None:
        self._path = path
        self._take = take
        self._stream: trio.SocketStream | None = None
        self._is_subscribed = False
        self._wanted = trio.Event()
        self._wanted.set()
        self._flowing = trio.Event()
        self._flowing.set()
        self.is_listening = True  # and takes what comes

    async def run(self) -> None:
        while True:
            await self._wanted.wait()
            with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                async with await trio.open_unix_socket(str(self._path)) as self._stream:
                    await self._listen(self._stream)
            self._is_subscribed = False
            await trio.sleep(POLL_S)

    async def ready(self) -> None:
        while not self._is_subscribed:
            await trio.sleep(POLL_S)

    async def refuse(self) -> None:
        self.is_listening = False
        self._wanted = trio.Event()
        await self._end()

    async def allow(self) -> None:
        self.is_listening = True
        self._wanted.set()
        await self.ready()

    async def cut(self) -> None:
        await self._end()
        await self.ready()

    async def hold(self) -> None:
        self.is_listening = False
        self._flowing = trio.Event()

    async def flow(self) -> None:
        self.is_listening = True
        self._flowing.set()

    async def _end(self) -> None:
        self._is_subscribed = False
        if self._stream is not None:
            await trio.aclose_forcefully(self._stream)

    async def _listen(self, stream: trio.SocketStream) -> None:
        parser = Parser(MAX_BODY_BYTES)
        await stream.send_all(build_hello("tap"))
        while True:
            await self._flowing.wait()
            data = await stream.receive_some(1 << 16)
            if not data:
                return
            parser.feed(data)
            for record in parser.records():
                if self._is_subscribed:
                    self._take(parse_parcel(record))
                else:
                    parse_welcome(record)
                    self._is_subscribed = True
