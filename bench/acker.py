"""A Fluent Forward server that takes everything and acknowledges it: `python -m bench.acker PORT`.

It keeps nothing, so that what is measured beside it is the sender.
"""

import sys
from typing import Any

import msgpack
import trio

READ_BYTES = 1 << 20


async def serve(stream: trio.SocketStream) -> None:
    """Acknowledge each chunk of a connection."""
    unpacker = msgpack.Unpacker(raw=True, max_buffer_size=1 << 28)
    try:
        while data := await stream.receive_some(READ_BYTES):
            unpacker.feed(data)
            for message in unpacker:
                options: dict[bytes, Any] = message[2] if len(message) > 2 else {}
                if b"chunk" in options:
                    await stream.send_all(msgpack.packb({"ack": options[b"chunk"].decode()}))
    except trio.BrokenResourceError:
        pass


async def main(port: int) -> None:
    """Listen on the loopback until killed."""
    await trio.serve_tcp(serve, port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
