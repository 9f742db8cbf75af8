"""/metrics, /livez and /readyz: hypercorn with a bare ASGI application, no framework for three routes.

Metrics are rendered and compressed in a thread, one at a time, from a snapshot: neither a slow
scrape nor many scrapers hold up the capture.
"""

import gzip
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import trio
from prometheus_client import CONTENT_TYPE_LATEST

from collector.config.text import split_listen
from collector.errors import CollectorError

# Below this the header costs more than compression saves.
GZIP_MIN_BYTES = 1400

Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class Metrics(Protocol):
    """What /metrics shows."""

    def render(self) -> bytes:
        """Gives the exposition; called in a thread."""


@dataclass(slots=True)
class AppState:
    """What the routes show; the daemon changes `not_ready_reason` as it goes."""

    metrics: Metrics
    not_ready_reason: str | None = "starting"  # None: ready


async def serve(
    listen: str, app_state: AppState, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve until cancelled; `task_status.started` gives the URLs that it listens on.

    Args:
      listen: HOST:PORT as the configuration has it.
    Raises:
      CollectorError: the address cannot be had.
    """
    import hypercorn.trio
    from hypercorn.config import Config

    host, port = split_listen(listen)
    server_log = logging.getLogger("collector.monitor.http.server")
    server_log.setLevel(logging.WARNING)  # its start-up lines tell to press CTRL + C
    config = Config()
    config.accesslog = None
    config.errorlog = server_log
    config.include_server_header = False
    config.keep_alive_timeout = 30
    config.graceful_timeout = 1
    config.h11_max_incomplete_size = 16 * 1024
    config.h2_max_concurrent_streams = 16
    # Bound and listening before hypercorn sees it: its own attempt would raise from inside a
    # nursery, and with SO_REUSEADDR an address in use shows only at listen().
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as e:
        raise CollectorError(
            "the metrics cannot be served there",
            where=f"http.listen = {listen}",
            expected="a free address of this machine",
            got=(e.strerror or str(e)).partition(" (while")[0],
            hint='name another one with --http HOST:PORT, or serve nothing with --http ""',
        ) from e
    config.bind = [f"fd://{listener.detach()}"]
    await hypercorn.trio.serve(
        build_app(app_state), config, shutdown_trigger=trio.sleep_forever, task_status=task_status, mode="asgi"
    )


def build_app(state: AppState) -> Callable[..., Awaitable[None]]:
    """The ASGI application."""
    limiter = trio.CapacityLimiter(1)

    async def app(scope: dict[str, Any], receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
        if scope["type"] == "lifespan":
            await _serve_lifespan(receive, send)
        elif scope["type"] == "http":
            await _serve_request(scope, send)
        # Anything else is a websocket: returning closes it.

    async def _serve_request(scope: dict[str, Any], send: Send) -> None:
        if scope["method"] not in ("GET", "HEAD"):
            await _answer(scope, send, 405, b"GET and HEAD only\n", [(b"allow", b"GET, HEAD")])
        elif scope["path"] == "/metrics":
            compressed = _accepts_gzip(scope["headers"])
            body = await trio.to_thread.run_sync(partial(render, state.metrics, compressed), limiter=limiter)
            headers = [(b"content-type", CONTENT_TYPE_LATEST.encode()), (b"vary", b"accept-encoding")]
            if body[:2] == b"\x1f\x8b":
                headers.append((b"content-encoding", b"gzip"))
            await _answer(scope, send, 200, body, headers)
        elif scope["path"] == "/livez":
            await _answer(scope, send, 200, b"ok\n")
        elif scope["path"] == "/readyz":
            reason = state.not_ready_reason
            await _answer(scope, send, 200 if reason is None else 503, f"{reason or 'ok'}\n".encode())
        else:
            await _answer(scope, send, 404, b"not found; there are /metrics, /livez and /readyz\n")

    return app


def render(metrics: Metrics, compressed: bool) -> bytes:
    """The exposition, as gzip where that is wanted and worth it. Runs in a thread."""
    body = metrics.render()
    # Level 1: level 9 takes five times as long for a tenth less.
    return gzip.compress(body, compresslevel=1, mtime=0) if compressed and len(body) >= GZIP_MIN_BYTES else body


async def _serve_lifespan(receive: Callable[[], Awaitable[dict[str, Any]]], send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


async def _answer(scope: dict[str, Any], send: Send, status: int, body: bytes, headers: Headers | None = None) -> None:
    head = headers or []
    if not any(name == b"content-type" for name, _ in head):
        head = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *head]
    head = [*head, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


def _accepts_gzip(headers: Headers) -> bool:
    """Whether Accept-Encoding names gzip, other than to refuse it with q=0."""
    for name, value in headers:
        if name == b"accept-encoding":
            for part in value.decode("latin-1").lower().split(","):
                coding, _, weight = part.replace(" ", "").partition(";q=")
                if coding in ("gzip", "*") and weight not in ("0", "0.0", "0.00", "0.000"):
                    return True
    return False
