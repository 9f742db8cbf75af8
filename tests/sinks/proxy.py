"""A TCP relay whose connections a test cuts, refuses or lets hang."""

import ssl

import trio

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]


class Proxy:
    """Relays connections to a port of the loopback.

    Args:
      ssl_context: of a server: then it ends TLS.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self.port = 0
        self.accepted = 0
        self._target = 0
        self._open: set[Stream] = set()
        self._flowing = trio.Event()
        self._flowing.set()
        self._refusing = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._relay, listeners, task_status=task_status)

    def to(self, port: int) -> None:
        """Where new connections go."""
        self._target = port

    async def cut(self) -> None:
        """End all connections as they are."""
        for stream in tuple(self._open):
            await trio.aclose_forcefully(stream)

    def refuse(self, refusing: bool) -> None:
        """End each new connection at once, or don't."""
        self._refusing = refusing

    def hold(self) -> None:
        """Take connections and bytes, and pass nothing on."""
        self._flowing = trio.Event()

    def flow(self) -> None:
        """Pass on again, also what was held."""
        self._flowing.set()

    async def _relay(self, client: Stream) -> None:
        self.accepted += 1
        if self._refusing:
            return
        if self._ssl_context is not None:
            client = trio.SSLStream(client, self._ssl_context, server_side=True, https_compatible=True)
        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._target)
        except OSError:
            return
        self._open |= {client, server}
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, client, server, nursery.cancel_scope)
                nursery.start_soon(self._pump, server, client, nursery.cancel_scope)
        finally:
            self._open -= {client, server}
            await trio.aclose_forcefully(server)
            await trio.aclose_forcefully(client)

    async def _pump(self, source: Stream, sink: Stream, both: trio.CancelScope) -> None:
        try:
            async for data in source:
                await self._flowing.wait()
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        both.cancel()
