"""`ftrace-collector tap`: prints what a running daemon collects, as it comes."""

import socket
from collections.abc import Collection, Iterator, Sequence
from typing import Literal, TextIO

from collector.archive.frame import MAX_BODY_BYTES
from collector.errors import CollectorError, UsageError
from collector.show.json_lines import JsonRenderer
from collector.show.lines import Selection
from collector.show.live import LiveView
from collector.show.renderers import FieldsRenderer
from collector.show.show import EventMatcher
from sinks.connect.address import parse_address
from sinks.wire.messages import Parser, WireRecord, build_hello, parse_welcome

READ_BYTES = 1 << 18
CONNECT_TIMEOUT_S = 10.0


def tap(
    address: str,
    out: TextIO,
    event_globs: Sequence[str] | None = None,
    cpus: Collection[int] | None = None,
    format: Literal["fields", "json"] = "fields",
    limit: int | None = None,
) -> None:
    """Print entries until the daemon ends it, or so many were printed.

    Raises:
      UsageError: not the address of a socket.
      CollectorError: nobody listens there, or the daemon has ended the connection.
      SegmentError: what comes is not what a daemon sends.
    """
    selection = Selection(event=EventMatcher(event_globs) if event_globs else None)
    renderer = JsonRenderer() if format == "json" else FieldsRenderer()
    view = LiveView(renderer, selection, None if cpus is None else frozenset(cpus))
    with _connect(address) as connection:
        for record in _records(connection, address):
            for line in view.render(record.kind, record.body):
                out.write(line)
                if limit is not None and view.events >= limit:
                    return
            out.flush()


def _connect(address: str) -> socket.socket:
    try:
        path = parse_address(address)
    except ValueError as e:
        raise UsageError("not an address", expected=str(e), got=repr(address)) from e
    if not isinstance(path, str):
        raise UsageError("not the address of a tap", expected="unix:PATH", got=repr(address))
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(path)
    except OSError as e:
        connection.close()
        raise CollectorError(
            f"no daemon listens there: {e.strerror or e}", where=address,
            hint='a daemon does with [[sinks]] of type "tap" in its configuration, for its user and group',
        ) from e  # fmt: skip
    return connection


def _records(connection: socket.socket, address: str) -> Iterator[WireRecord]:
    """Gives the records behind the welcome."""
    parser = Parser(MAX_BODY_BYTES)  # records come right behind the welcome
    connection.sendall(build_hello("tap"))
    welcomed = False
    while data := _receive(connection):
        parser.feed(data)
        for record in parser.records():
            if welcomed:
                yield record
            else:
                parse_welcome(record)
                welcomed = True
                connection.settimeout(None)
    raise CollectorError(
        "the daemon has ended the connection", where=address,
        hint="it has stopped, or this was too slow: `--event` takes less",
    )  # fmt: skip


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(READ_BYTES)
    except ConnectionResetError:
        return b""
    except TimeoutError as e:
        raise CollectorError("the daemon does not answer", got=f"nothing within {CONNECT_TIMEOUT_S:g} s") from e
