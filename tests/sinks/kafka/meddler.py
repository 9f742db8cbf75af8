"""Stands between a producer and its broker, and says of messages that they failed: what no broker does when asked to.

    request    size: int32, API: int16, version: int16, correlation: int32, ...
    response   size: int32, correlation: int32, ...
    of Produce, from version 9 on: tags, topics + 1, length + 1 of the name, name, partitions + 1, partition: int32,
    error: int16, ...; librdkafka asks for one partition at a time, with one message where batches are of one

Source: kafka.apache.org/protocol, Produce.
"""

from collections.abc import Callable

import trio

PRODUCE = 0
CORRELATION = slice(4, 8)  # of a response


class Meddler:
    """Relays connections to a broker on the loopback.

    Attributes:
      error_of: gives what the broker is to have answered a Produce request; 0: what it does answer.
      told: how many answers were changed.
    """

    def __init__(self, broker_port: int) -> None:
        self.error_of: Callable[[bytes], int] = lambda _: 0
        self.told = 0
        self.port = 0
        self._broker_port = broker_port

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        await trio.serve_listeners(self._relay, listeners, task_status=task_status)

    async def _relay(self, client: trio.SocketStream) -> None:
        errors: dict[bytes, int] = {}  # {correlation of a request: what is answered}

        def note(request: bytearray) -> None:
            if int.from_bytes(request[4:6], "big") == PRODUCE and (error := self.error_of(bytes(request))):
                assert int.from_bytes(request[6:8], "big") >= 9
                errors[bytes(request[8:12])] = error

        def change(response: bytearray) -> None:
            if (error := errors.pop(bytes(response[CORRELATION]), 0)) != 0:
                name = 10
                at = name + 1 + (response[name] - 1) + 1 + 4
                response[at : at + 2] = error.to_bytes(2, "big")
                self.told += 1

        try:
            server = await trio.open_tcp_stream("127.0.0.1", self._broker_port)
        except OSError:
            return
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(_pump, client, server, note, nursery.cancel_scope)
            nursery.start_soon(_pump, server, client, change, nursery.cancel_scope)


async def _pump(
    source: trio.SocketStream, target: trio.SocketStream, look: Callable[[bytearray], None], scope: trio.CancelScope
) -> None:
    data = bytearray()
    try:
        while more := await source.receive_some():
            data += more
            while len(data) >= 4 and len(data) >= (size := 4 + int.from_bytes(data[:4], "big")):
                frame = data[:size]
                del data[:size]
                look(frame)
                await target.send_all(frame)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    scope.cancel()
