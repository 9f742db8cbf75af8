"""collector.monitor.http over real TCP on loopback, asked by the standard library's client in a thread."""

import gzip
import http.client
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from collector.errors import CollectorError
from collector.monitor.http import AppState, serve
from collector.monitor.metrics import Metrics
from collector.monitor.state import Snapshot, StreamSnapshot

pytestmark = pytest.mark.network


@asynccontextmanager
async def served(state: AppState, listen: str = "127.0.0.1:0") -> AsyncIterator[str]:
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, listen, state))
        with trio.fail_after(20):
            yield url.removeprefix("http://")
        nursery.cancel_scope.cancel()


def some_state() -> AppState:
    metrics = Metrics(kernel="6.18.0")
    metrics.update(Snapshot(streams=tuple(StreamSnapshot("i", cpu, decoded_events=cpu) for cpu in range(4))))
    return AppState(metrics)


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


async def asked(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    return await trio.to_thread.run_sync(partial(ask, address, path, method, **headers))


async def test_metrics_are_prometheus_text() -> None:
    async with served(some_state()) as address:
        status, headers, body = await asked(address, "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    assert "server" not in headers
    families = {f.name: f for f in text_string_to_metric_families(body.decode())}
    values = [s.value for s in families["ftrace_collector_decoded_events"].samples]
    assert values == [0, 1, 2, 3]


async def test_metrics_are_compressed_for_those_who_accept_it() -> None:
    async with served(some_state()) as address:
        status, headers, body = await asked(address, "/metrics", **{"Accept-Encoding": "deflate, gzip;q=0.5"})
        assert (status, headers["content-encoding"]) == (200, "gzip")
        assert b"ftrace_collector_decoded_events_total" in gzip.decompress(body)
        _, headers, _ = await asked(address, "/metrics", **{"Accept-Encoding": "gzip;q=0"})
        assert "content-encoding" not in headers


async def test_liveness_is_plain_and_readiness_gives_its_reason() -> None:
    state = some_state()
    async with served(state) as address:
        assert (await asked(address, "/livez"))[::2] == (200, b"ok\n")
        assert (await asked(address, "/readyz"))[::2] == (503, b"starting\n")
        state.not_ready_reason = None
        assert (await asked(address, "/readyz"))[::2] == (200, b"ok\n")
        state.not_ready_reason = "archive stalled for 70 s"
        assert (await asked(address, "/readyz"))[::2] == (503, b"archive stalled for 70 s\n")


async def test_head_has_the_length_but_no_body_and_other_requests_are_refused() -> None:
    async with served(some_state()) as address:
        status, headers, body = await asked(address, "/metrics", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 1000
        status, headers, _ = await asked(address, "/metrics", "POST")
        assert (status, headers["allow"]) == (405, "GET, HEAD")
        for path in ("/", "/metrics/", "/metrics/../etc/passwd", "/%00"):
            assert (await asked(address, path))[0] == 404


async def test_a_request_that_is_not_http_does_no_harm() -> None:
    def shout(address: str) -> bytes:
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.sendall(b"\x16\x03\x01 nonsense\r\n\r\n" * 3)
            return sock.recv(100)

    async with served(some_state()) as address:
        assert (await trio.to_thread.run_sync(shout, address)).startswith(b"HTTP/1.1 400")
        assert (await asked(address, "/livez"))[0] == 200


async def test_ipv6_loopback_is_served() -> None:
    async with served(some_state(), "[::1]:0") as address:
        assert (await asked(address, "/livez"))[0] == 200


async def test_an_address_in_use_is_one_clear_message() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CollectorError, match="Address already in use") as caught:
            await serve(listen, some_state())
    assert listen in str(caught.value)
    assert "--http" in str(caught.value)


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here; `apt-get install prometheus` makes this test run"
)
async def test_a_real_prometheus_scrapes_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        own = f"127.0.0.1:{free.getsockname()[1]}"

    def wait_for_scrape(address: str) -> bytes:
        (tmp_path / "p.yml").write_text(
            f"scrape_configs: [{{job_name: x, scrape_interval: 1s, static_configs: [{{targets: ['{address}']}}]}}]"
        )
        command = ["prometheus", "--config.file", str(tmp_path / "p.yml"), "--storage.tsdb.path", str(tmp_path / "d"),
                   "--web.listen-address", own]  # fmt: skip
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        query = f"http://{own}/api/v1/query?query=ftrace_collector_decoded_events_total%7Bcpu%3D%223%22%7D"
        try:
            for _ in range(150):
                try:
                    with urllib.request.urlopen(query, timeout=5) as answer:
                        body: bytes = answer.read()
                    if b'"trace_instance":"i"' in body:
                        return body
                except OSError:  # it is still starting
                    pass
                time.sleep(0.1)
            return b"never scraped"
        finally:
            server.terminate()
            server.wait(10)

    async with served(some_state()) as address:
        body = await trio.to_thread.run_sync(wait_for_scrape, address)
    assert b'"instance":"' + address.encode() in body
    assert b'"3"]' in body
