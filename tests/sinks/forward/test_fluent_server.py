"""Against FluentServer, which is not ours: payloads, compression, shared key, user, TLS both ways."""

from pathlib import Path
from typing import Any

import pytest
import trio

from collector.archive.frame import Kind, build_record
from collector.archive.reader import open_segment
from collector.batch import Delivery
from sinks.contract.base import Parcel
from tests.read.slow_rows import SlowRows
from tests.sinks.forward import rig
from tests.sinks.forward.rig import NAME, Certificates, bring, fluent_server, in_batches, make, plain, running

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(rig.why_no_fluent_server() is not None, reason=str(rig.why_no_fluent_server())),
]

SECURITY = {"serverHostname": "them", "sharedKey": "key of both", "authorize": False, "userDict": {}}


def wanted_rows(parcels: list[Parcel]) -> list[Any]:
    slow = SlowRows()
    rows = [row for parcel in parcels for row in slow.take(parcel, 0)]
    return [[*divmod(rig.to_ns(at), 10**9), plain(record)] for at, record in rows]


def secret(folder: Path, text: str) -> dict[str, str]:
    path = folder / f"secret-{len(list(folder.iterdir()))}"
    path.write_text(text + "\n")
    return {"file": str(path)}


@pytest.mark.parametrize("compress", ["gzip", "none"])
async def test_records_arrive_each_once_and_in_order(compress: str, parcels: list[Parcel]) -> None:
    wanted = wanted_rows([p for p in parcels if p.kind != Kind.GAP])
    async with fluent_server() as server, running(make(server.port, compress=compress, tag="a.b")) as transport:
        await bring(transport, in_batches(parcels))
        await server.wait_for(len(wanted))
    assert {tag for tag, *_ in server.entries} == {"a.b"}
    # Without a reading of the clock the time is that of sending.
    assert [record for *_, record in server.entries] == [record for *_, record in wanted]
    assert sum(p.events for p in parcels) == len(wanted) == 200


async def test_blocks_arrive_as_they_are_and_make_a_segment(parcels: list[Parcel], tmp_path: Path) -> None:
    async with fluent_server() as server, running(make(server.port, payload="blocks")) as transport:
        await bring(transport, in_batches(parcels))
        await server.wait_for(len(parcels))
    found = [record for *_, record in server.entries]
    assert [(r["kind"], r["body"]) for r in found] == [(p.kind.name.lower(), plain(p.body)) for p in parcels]
    blocks = [(r["run"], r["instance"], r["cpu"], r["number"], r["events"]) for r in found if r["kind"] == "block"]
    assert blocks == [
        (p.run.hex(), p.stream.instance, p.stream.cpu, p.number, p.events)
        for p in parcels if p.kind == Kind.BLOCK and p.stream is not None
    ]  # fmt: skip
    path = tmp_path / "rebuilt.ftseg.part"
    path.write_bytes(b"".join(build_record(p.kind, p.body) for p in parcels))
    with open_segment(path) as segment:
        assert sum(1 for _ in segment.blocks()) == len(blocks)


@pytest.mark.parametrize("authorize", [False, True])
async def test_a_shared_key_and_a_user_let_us_in(authorize: bool, parcels: list[Parcel], tmp_path: Path) -> None:
    security = {**SECURITY, "authorize": authorize, "userDict": {"me": "my password"}}
    options: dict[str, Any] = {"shared_key": secret(tmp_path, "key of both")}
    if authorize:
        options |= {"user": "me", "password": secret(tmp_path, "my password")}
    async with fluent_server(security=security) as server, running(make(server.port, **options)) as transport:
        await bring(transport, in_batches(parcels))
        await server.wait_for(200)


@pytest.mark.parametrize(
    ("key", "user", "message"),
    [("another", "me", "refuses us"), ("key of both", "you", "refuses us"), ("key of both", None, "asks for a user"),
     (None, None, "asks for a shared key")],
)  # fmt: skip
async def test_a_wrong_key_or_user_is_refused(
    key: str | None, user: str | None, message: str, parcels: list[Parcel], tmp_path: Path
) -> None:
    security = {**SECURITY, "authorize": True, "userDict": {"me": "my password"}}
    options: dict[str, Any] = {"shared_key": secret(tmp_path, key)} if key is not None else {}
    if user is not None:
        options |= {"user": user, "password": secret(tmp_path, "my password")}
    async with fluent_server(security=security) as server, running(make(server.port, **options)) as transport:
        assert await transport.deliver(parcels) is Delivery.ERRORED
        assert message in str(transport.state.last_error)
    assert server.entries == []


@pytest.mark.parametrize("mutual", [False, True])
async def test_tls_with_a_certificate_of_the_server_and_of_ours(
    mutual: bool, parcels: list[Parcel], certificates: Certificates
) -> None:
    tls = {"cert": certificates.server_cert, "key": certificates.server_key}
    own: dict[str, Any] = {}
    if mutual:
        tls |= {"ca": certificates.ca, "requestCert": True, "rejectUnauthorized": True}  # type: ignore[dict-item]
        own = {"cert_file": certificates.client}
    options = {"tls": {"ca_file": certificates.ca, "server_name": NAME, **own}}
    async with fluent_server(tlsOptions=tls) as server, running(make(server.port, **options)) as transport:
        await bring(transport, in_batches(parcels))
        assert transport.state.certificate_not_after_s is not None
        await server.wait_for(200)


async def test_without_our_certificate_a_server_that_wants_one_takes_nothing(
    parcels: list[Parcel], certificates: Certificates
) -> None:
    tls = {"cert": certificates.server_cert, "key": certificates.server_key, "ca": certificates.ca,
           "requestCert": True, "rejectUnauthorized": True}  # fmt: skip
    for own in ({}, {"cert_file": certificates.other_client}):
        options = {"tls": {"ca_file": certificates.ca, "server_name": NAME, **own}}
        async with fluent_server(tlsOptions=tls) as server, running(make(server.port, **options)) as transport:
            assert await transport.deliver(parcels) is Delivery.ERRORED
            assert transport.state.last_error
        assert server.entries == []


async def test_a_unix_socket(parcels: list[Parcel], tmp_path: Path) -> None:
    path = str(tmp_path / "forward.sock")
    transport = make(servers=[{"path": path}])
    async with fluent_server(listenOptions={"path": path}) as server, running(transport):
        await bring(transport, in_batches(parcels))
        await server.wait_for(200)


async def test_many_batches_at_once(parcels: list[Parcel]) -> None:
    async with fluent_server() as server, running(make(server.port, chunk_bytes=65536)) as transport:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(bring, transport, [parcels])
        await server.wait_for(50 * 200)
    assert len(server.entries) == 50 * 200
