"""Sends entries, or blocks as they are, to Fluentd, Fluent Bit, Vector or the OpenTelemetry Collector.

One connection at a time, to one of the servers; several chunks are on their way at once. What is not acknowledged when
a connection ends is not delivered: the runner sends it again. See docs/forward.md.
"""

import base64
import logging
import math
import random
import secrets
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Literal

import trio
from pydantic import Field, field_validator, model_validator

from collector.batch import Delivery
from collector.config.types import KIB, MIB, Auto, Secret, Section
from collector.errors import SegmentError
from sinks.connect.secrets import read_secret
from sinks.connect.tls import TlsConfig, build_context
from sinks.contract.base import Parcel, SinkContext, TransportState
from sinks.contract.options import Seconds, SinkCommon, SinkType
from sinks.forward.chunks import BlockBuilder, Builder, Chunk, Chunks, build_parcel_row
from sinks.forward.connection import Address, Connection, ConnectionFailed, SentChunk, connect
from sinks.forward.protocol import Credentials, build_chunk, compress_entries
from sinks.forward.records import RecordBuilder
from sinks.forward.servers import Servers
from sinks.forward.settled import Settled
from sinks.network.retry import Backoff

logger = logging.getLogger(__name__)

JITTER = 0.5
# Bodies of one batch: a compressed block makes rows of ten to a hundred times its size.
RECORDS_BATCH_BYTES = 256 * KIB
# A row has 120 bytes and more: a batch is four chunks or some more. One that fails is sent again as a whole.
RECORDS_BATCH_CHUNKS = 4
ROW_BYTES = 120
BLOCKS_BATCH_BYTES = MIB


class ServerOptions(Section):
    """One server."""

    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] = 24224
    path: str | None = None  # of a unix socket, instead of host and port
    weight: Annotated[int, Field(ge=0, le=1000)] = 1  # how often it is chosen; 0: only when no other answers

    @model_validator(mode="after")
    def _one_place(self) -> "ServerOptions":
        if bool(self.host) == bool(self.path):
            raise ValueError("either host or path")
        return self


class ForwardOptions(SinkCommon):
    """Servers that speak Fluent Forward v1."""

    type: Literal["forward"]
    servers: Annotated[tuple[ServerOptions, ...], Field(strict=False, min_length=1)]
    tag: str = "ftrace"
    payload: Literal["records", "blocks"] = "records"  # a record per entry, or the archive's blocks as they are
    compress: Annotated[Literal["gzip", "none"] | None, Auto] = None  # None: gzip for records; blocks are compressed
    gzip_level: Annotated[int, Field(ge=1, le=9)] = 1
    # Before compression, unless one record is larger.
    chunk_bytes: Annotated[int, Field(ge=64 * KIB, le=64 * MIB)] = MIB
    shared_key: Secret | None = None
    user: str | None = None
    password: Secret | None = None
    client_host: str | None = None  # our name in the handshake, another one than the server's; None: the host name
    tls: TlsConfig | None = None  # None: without
    connect_timeout_s: Seconds = 10.0  # with the handshake; an acknowledgement has request_timeout_s
    # A connection is replaced when it is so old, so that the weights hold and a server that was away is found again.
    keepalive_s: Annotated[float, Field(ge=0, le=86400)] = 600.0  # 0: never
    max_in_flight: Annotated[int, Field(ge=1, le=64)] = 4  # batches that were not acknowledged yet

    @field_validator("tag")
    @classmethod
    def _tag_is_one(cls, value: str) -> str:
        if not value or len(value) > 256 or not value.isprintable():
            raise ValueError("a tag such as ftrace or kernel.ftrace")
        return value

    @model_validator(mode="after")
    def _parts_fit(self) -> "ForwardOptions":
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password together")
        if self.user is not None and self.shared_key is None:
            raise ValueError("a shared_key where there is a user: it is part of the same handshake")
        if self.tls is not None and any(server.path for server in self.servers):
            raise ValueError("no tls over a unix socket")
        return self

    @property
    def is_gzip(self) -> bool:
        """Compressing blocks again costs more than all else that sending them does, and gains nothing."""
        return self.compress == "gzip" if self.compress is not None else self.payload == "records"


@dataclass(frozen=True, slots=True)
class _Sent:
    """A chunk on its way, and on which connection."""

    connection: Connection
    chunk: SentChunk


class ForwardTransport:
    """One or several servers of the same data, of which one is used at a time.

    Args:
      tls: None: without.
      credentials: None: there is no handshake.
      rng: gives numbers from 0 to below 1: which server, and how long to wait.
    """

    def __init__(
        self,
        options: ForwardOptions,
        tls: ssl.SSLContext | None,
        credentials: Credentials | None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.name = options.title
        self.max_in_flight = options.max_in_flight
        self._options = options
        server_name = options.tls.server_name if options.tls is not None else None
        self._servers = Servers(
            self.name,
            [Address(s.host or "", s.port, s.path or "", s.weight) for s in options.servers],
            lambda address: connect(
                address, tls, server_name, credentials, options.connect_timeout_s, options.request_timeout_s
            ),
            options.keepalive_s,
            Backoff(options.retry_first_s, options.retry_max_s, JITTER, rng),
            rng,
        )
        self._blocks = BlockBuilder() if options.payload == "blocks" else None
        self._builder: Builder = self._blocks or RecordBuilder(options.chunk_bytes)
        self.batch_bytes, self.batch_events = BLOCKS_BATCH_BYTES, math.inf
        if self._blocks is None:
            self.batch_bytes = RECORDS_BATCH_BYTES
            self.batch_events = RECORDS_BATCH_CHUNKS * options.chunk_bytes / ROW_BYTES
        self._settled = Settled()
        self._must_rewind = False  # the builder has taken what comes again
        self._taught: tuple[Address, int] | None = None  # (server that has this epoch's beginning, failures by then)
        self._turn = trio.StrictFIFOLock()  # chunks go out in the order of the calls
        self._thread = trio.CapacityLimiter(1)

    @property
    def state(self) -> TransportState:
        return self._servers.state

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold a connection until cancelled."""
        task_status.started()
        await self._servers.run()

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Send them, and wait until the server has acknowledged all.

        What has a deadline is each message, not the batch nor those before it: a slow server makes progress.
        """
        answer = Delivery.ERRORED
        failures = self._servers.failures
        flight = self._settled.begin(parcels)
        try:
            async with self._turn:
                sent = await self._send(parcels, failures)
            await _wait_acked(sent)
            answer = Delivery.DELIVERED
            if sent:  # else nobody has said anything
                self._servers.note_success()
        except ConnectionFailed as e:
            self._servers.note(str(e))
        except SegmentError as e:
            self._servers.note(f"a block cannot be made into records: {e}")
            answer = Delivery.REJECTED
        finally:
            self._settled.end(flight, answer)
            if answer is not Delivery.DELIVERED:
                self._must_rewind = True
                self._servers.fail()
        return answer

    async def _send(self, parcels: Sequence[Parcel], failures: int) -> list[_Sent]:
        """Put chunks on the wire; gives them.

        Raises:
          ConnectionFailed: one did not go out, or something before them has failed.
          SegmentError: a parcel cannot be read.
        """
        sent: list[_Sent] = []
        await self._servers.usable(failures)  # nothing is built while nobody is there
        if self._must_rewind:
            self._must_rewind = False
            self._builder.rewind(self._settled.preamble)
        now_ns = time.time_ns()
        rows = chain.from_iterable(self._builder.take(parcel, now_ns) for parcel in parcels)
        chunks = Chunks(rows, self._options.chunk_bytes)
        beginning = self._beginning()
        while (chunk := await self._next(chunks)) is not None:
            connection = await self._servers.usable(failures)
            while beginning and not self._is_taught(connection.address):
                sent += await self._teach(connection.address, beginning, failures)
                connection = await self._servers.usable(failures)
            sent.append(await _put(connection, chunk))
            self._note_taught(connection.address)
            beginning = self._beginning()
        return sent

    async def _teach(self, address: Address, beginning: Sequence[Parcel], failures: int) -> list[_Sent]:
        """Put what a server needs first on the wire, unless another one takes its place meanwhile."""
        sent: list[_Sent] = []
        now_ns = time.time_ns()
        chunks = Chunks((build_parcel_row(parcel, now_ns) for parcel in beginning), self._options.chunk_bytes)
        while (chunk := await self._next(chunks)) is not None:
            connection = await self._servers.usable(failures)
            if connection.address != address:
                return sent
            sent.append(await _put(connection, chunk))
        self._note_taught(address)
        return sent

    def _is_taught(self, address: Address) -> bool:
        """Whether a server has what stands before; what has failed since may have had it in it."""
        return self._taught == (address, self._servers.failures)

    def _note_taught(self, address: Address) -> None:
        self._taught = address, self._servers.failures

    def _beginning(self) -> Sequence[Parcel]:
        """What stands before the next chunk."""
        return self._blocks.preamble if self._blocks is not None else ()

    async def _next(self, chunks: Chunks) -> tuple[str, bytes] | None:
        """(name, message) of the next chunk, None behind the last."""

        def make() -> tuple[str, bytes] | None:
            chunk = chunks.next()
            return None if chunk is None else self._pack(chunk)

        if chunks.is_at_end:
            return None  # and no hop for it
        if self._blocks is not None and not self._options.is_gzip:
            return make()  # copies some bytes: a hop to a thread would cost more
        return await trio.to_thread.run_sync(make, limiter=self._thread)

    def _pack(self, chunk: Chunk) -> tuple[str, bytes]:
        options = self._options
        name = base64.b64encode(secrets.token_bytes(16)).decode()
        is_gzip = options.is_gzip
        entries = [compress_entries(chunk.rows, options.gzip_level)] if is_gzip else chunk.rows
        return name, build_chunk(options.tag, entries, chunk.count, name, is_gzip=is_gzip)


async def _put(connection: Connection, chunk: tuple[str, bytes]) -> _Sent:
    """Put a chunk on the wire.

    Raises:
      ConnectionFailed: it did not go out.
    """
    sent = _Sent(connection, await connection.send(*chunk))
    if not connection.stays:
        connection.retire()
    return sent


async def _wait_acked(sent: Sequence[_Sent]) -> None:
    """Wait until all are acknowledged; the connection sees to the time.

    Raises:
      ConnectionFailed: one was not.
    """
    for one in sent:
        await one.chunk.done.wait()
        if not one.chunk.is_acked:
            raise one.connection.fail("the connection has ended")


def _build(options: ForwardOptions, context: SinkContext) -> ForwardTransport:
    credentials = None
    if options.shared_key is not None:
        credentials = Credentials(
            options.client_host or context.host,
            read_secret(options.shared_key).encode(),
            options.user or "",
            "" if options.password is None else read_secret(options.password),
        )
    return ForwardTransport(options, None if options.tls is None else build_context(options.tls), credentials)


SINK = SinkType(ForwardOptions, _build)
