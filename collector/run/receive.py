"""`ftrace-collector receive`: the composition root of the aggregator, which keeps the segments of many hosts.

DIR/HOST/*.ftseg        each folder is an archive as a daemon on that host would have written it
"""

import logging
import resource
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio

from collector.archive import disk
from collector.errors import EXIT_OK, CollectorError, ConfigError, UsageError
from collector.monitor import http
from collector.monitor.logs import start_logging
from collector.monitor.metrics_receive import ReceiveMetrics, ReceiveSnapshot
from collector.monitor.sdnotify import Notifier
from sinks.connect.address import parse_address
from sinks.connect.listening import listen_on_path
from sinks.connect.tls import build_server_context
from sinks.stream.policy import HostPolicy
from sinks.stream.server import Certificate, Limits, Receiver

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # that end it
REPORT_INTERVAL_S = 60.0
CONNECTIONS_PER_HOST = 2  # one that the network has lost, and the one after it
DESCRIPTORS_PER_HOST = CONNECTIONS_PER_HOST + 2  # the folder's lock and the open segment
OTHER_DESCRIPTORS = 64
LEAST_MEMORY_BYTES = 64 << 20  # some of the largest records beside each other


@dataclass(frozen=True, slots=True)
class ReceiveOptions:
    """What the command line says."""

    listen: str  # HOST:PORT or unix:PATH
    output: Path
    segment_bytes: int
    segment_age_s: float
    max_bytes_per_host: int
    min_free_bytes: int
    max_hosts: int
    max_memory_bytes: int
    cert_file: str | None = None  # PEM; None: without TLS
    key_file: str | None = None
    client_ca_file: str | None = None  # senders must have a certificate of it, for the name they give themselves
    http: str = ""  # HOST:PORT of /metrics, /livez and /readyz; "" serves nothing
    log_format: Literal["text", "json"] = "text"
    log_level: str = "info"


def receive(options: ReceiveOptions) -> int:
    """Take streams until a signal; gives the exit code.

    Raises:
      CollectorError: it cannot listen there, or not write there.
    """
    if options.max_memory_bytes < LEAST_MEMORY_BYTES:
        raise UsageError("too little memory", where="--max-memory-bytes", expected=f"at least {LEAST_MEMORY_BYTES}",
                         got=str(options.max_memory_bytes))  # fmt: skip
    context = None
    if options.cert_file is not None:
        context = build_server_context(options.cert_file, options.key_file, options.client_ca_file)
    elif options.client_ca_file is not None or options.key_file is not None:
        raise UsageError("TLS needs a certificate", expected="--cert FILE beside --key and --client-ca")
    output = start_logging(options.log_format, options.log_level)
    try:
        return trio.run(_receive, options, context)
    finally:
        output.stop()


def raise_descriptor_limit(needed: int) -> None:
    """Take as many descriptors as this process needs and may have; says so when they are too few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        logger.warning(
            "too few descriptors for so many hosts; set LimitNOFILE= in the unit, or a lower --max-hosts",
            extra={"fields": {"expected": needed, "got": hard}},
        )
        needed = hard
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def check_name(certificate: Certificate | None, host: str) -> str | None:
    """Why a peer with this certificate may not call itself so; None: it may.

    Its names are the DNS names of the certificate, and its common name where there are none.
    """
    if certificate is None:
        return "no certificate"
    names = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"]
    if not names:
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if host in names:
        return None
    return f"the certificate is of {', '.join(names) or 'nobody'}, not of {host}"


async def _receive(options: ReceiveOptions, context: ssl.SSLContext | None) -> int:
    try:
        disk.make_folder(options.output.absolute())
    except OSError as e:
        raise CollectorError(
            f"cannot use the folder: {e.strerror}", where=str(options.output), hint="choose another with --output"
        ) from e
    who = {"check_host": check_name} if options.client_ca_file is not None else {}
    policy = HostPolicy(
        options.segment_bytes, options.segment_age_s, options.max_bytes_per_host, options.min_free_bytes
    )
    limits = Limits(
        max_connections=CONNECTIONS_PER_HOST * options.max_hosts, max_hosts=options.max_hosts,
        max_memory_bytes=options.max_memory_bytes,
    )  # fmt: skip
    receiver = Receiver(options.output, policy, limits, **who)
    with trio.open_signal_receiver(*SIGNALS) as signals:
        listeners = await open_listeners(options.listen, context)
        notifier = Notifier()
        try:
            async with trio.open_nursery() as keeping:
                keeping.start_soon(receiver.run)
                keeping.start_soon(_report, receiver)
                await _serve_http(keeping, options.http, receiver)
                async with trio.open_nursery() as serving:
                    serving.start_soon(partial(trio.serve_listeners, receiver.serve, listeners))
                    notifier.ready()
                    logger.info("receiving", extra={"fields": {"listen": options.listen, "folder": options.output}})
                    raise_descriptor_limit(DESCRIPTORS_PER_HOST * options.max_hosts + OTHER_DESCRIPTORS)
                    await _wait(signals)
                    for number in SIGNALS:  # another one ends it at once: the next start recovers what is open
                        signal.signal(number, signal.SIG_DFL)
                    notifier.stopping()
                    serving.cancel_scope.cancel()
                keeping.cancel_scope.cancel()
        finally:
            notifier.close()
            if options.listen.startswith("unix:"):
                Path(options.listen.removeprefix("unix:")).unlink(missing_ok=True)
    _say(receiver)
    return EXIT_OK


async def _serve_http(nursery: trio.Nursery, listen: str, receiver: Receiver) -> None:
    if not listen:
        return
    state = http.AppState(ReceiveMetrics(partial(_snapshot, receiver)), None)
    urls = await nursery.start(http.serve, listen, state)
    logger.info("serving metrics", extra={"fields": {"at": ", ".join(urls)}})


def _snapshot(receiver: Receiver) -> ReceiveSnapshot:
    state = receiver.state
    return ReceiveSnapshot(
        receiver.hosts, state.connections, receiver.memory.used_bytes, receiver.memory.limit_bytes, state.accepted,
        dict(state.refused), state.total.blocks, state.total.events, state.total.bytes, state.total.duplicates,
    )  # fmt: skip


async def _wait(signals: AsyncIterator[int]) -> None:
    async for _ in signals:
        return


async def _report(receiver: Receiver) -> None:
    while True:
        await trio.sleep(REPORT_INTERVAL_S)
        _say(receiver)


def _say(receiver: Receiver) -> None:
    state = receiver.state
    logger.info(
        "received",
        extra={"fields": {
            "connections": state.connections, "blocks": state.total.blocks, "events": state.total.events,
            "bytes": state.total.bytes, "duplicates": state.total.duplicates,
            "refused": dict(state.refused),
        }},
    )  # fmt: skip


async def open_listeners(listen: str, context: ssl.SSLContext | None) -> list[Any]:
    """Listen on an address.

    Raises:
      ConfigError: it is none.
      CollectorError: it cannot be had.
    """
    try:
        address = parse_address(listen)
    except ValueError as e:
        raise ConfigError("not an address", where="--listen", expected=str(e), got=repr(listen)) from e
    try:
        if isinstance(address, str):
            return [await listen_on_path(address)]
        listeners: list[Any] = list(await trio.open_tcp_listeners(address[1], host=address[0]))
    except OSError as e:
        raise CollectorError(
            f"cannot listen there: {e.strerror or e}", where=f"--listen {listen}",
            expected="a free address of this machine",
        ) from e  # fmt: skip
    return listeners if context is None else [trio.SSLListener(listener, context) for listener in listeners]
