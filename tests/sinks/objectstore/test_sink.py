"""The object store sink beside servers: what it says is uploaded is there, whole, and once."""

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import obstore
import pytest
import trio
import trustme

from collector.archive.verify import verify_paths
from collector.errors import ConfigError
from sinks.contract.base import SinkContext
from sinks.file.retention import Sealed
from sinks.objectstore import uploader as uploader_module
from sinks.objectstore.digest import Digest, read_digest
from sinks.objectstore.manifest import parse_line
from sinks.objectstore.progress import path_of
from sinks.objectstore.sink import ObjectStoreConfig, build, build_store
from sinks.objectstore.store import Store
from sinks.objectstore.uploader import Uploader
from tests.sinks.made import counts_of, make_segment
from tests.sinks.objectstore.places import DAY, Place, is_uploaded, running, upload_all, wait_for
from tests.sinks.objectstore.servers import Server, free_port, rclone, seaweedfs
from tests.sinks.proxy import Proxy

pytestmark = pytest.mark.network

GOOGLE_KEY = '{"private_key": "made", "private_key_id": "made", "client_email": "made@example", "disable_oauth": true}'


@pytest.fixture(scope="module")
def weed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with seaweedfs(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture
def bad(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "rclone").mkdir()
    with rclone(tmp_path / "rclone") as server:
        yield server


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "archive"


@pytest.fixture
def folder_store(tmp_path: Path) -> ObjectStoreConfig:
    return ObjectStoreConfig.model_validate(
        {"type": "objectstore", "url": f"file://{tmp_path}/store", "scan_interval_s": 0.05}
    )


@pytest.fixture
def place(weed: Server, tmp_path: Path) -> Place:
    return Place(weed.url, tmp_path.name, tmp_path / "secret")


async def test_what_is_sealed_is_uploaded_with_a_manifest_of_its_day(
    place: Place, archive: Path, tmp_path: Path
) -> None:
    first = make_segment(archive)
    async with running(place.config(), archive) as uploader:
        await wait_for(lambda: is_uploaded(uploader, first))
        second = make_segment(archive, number=1)
        await wait_for(lambda: is_uploaded(uploader, second) and not uploader._progress.days)
        assert uploader.create_only is True
        assert uploader.snapshot().acked_events == 400
        assert uploader.snapshot().residual == 0
    assert place.keys() == sorted(
        ["h/create-only", *(f"{DAY}/{n}" for n in (first.name, second.name, "manifest.jsonl"))]
    )
    back = tmp_path / "back"
    back.mkdir()
    for path in (first, second):
        (back / path.name).write_bytes(place.read(f"{DAY}/{path.name}"))
    assert counts_of(back) == counts_of(archive)
    lines = [parse_line(line) for line in place.read(f"{DAY}/manifest.jsonl").decode().splitlines()]
    assert [(line.name, line.segment, line.events) for line in lines] == [(first.name, 0, 200), (second.name, 1, 200)]
    with open(second, "rb") as file:
        assert lines[1].sha256 == read_digest(file, 1000).sha256


async def test_the_endpoint_by_another_of_its_names(place: Place, archive: Path) -> None:
    path = make_segment(archive)
    options = place.settings["options"]
    options["endpoint_url"] = options.pop("endpoint")
    assert is_uploaded(await upload_all(place.config(), archive), path)
    other = {**options, "endpoint_url": f"http://127.0.0.1:{free_port()}"}
    with trio.fail_after(60):
        await (elsewhere := build(place.config(options=other), SinkContext("h", "1", archive))).drain()
    assert not is_uploaded(elsewhere, path)  # what is at one place is not at another


async def test_a_restart_goes_on_where_it_was(place: Place, archive: Path) -> None:
    first = make_segment(archive)
    await upload_all(place.config(), archive)
    second = make_segment(archive, number=1)
    uploader = await upload_all(place.config(), archive)
    assert uploader.counts.uploaded_segments == 1
    assert is_uploaded(uploader, first)
    assert is_uploaded(uploader, second)
    idle = await upload_all(place.config(), archive)
    assert idle._store.requests == 0
    assert len(place.read(f"{DAY}/manifest.jsonl").splitlines()) == 2


async def test_progress_that_was_damaged_sends_nothing_twice(place: Place, archive: Path) -> None:
    path = make_segment(archive)
    await upload_all(place.config(), archive)
    written = obstore.head(place.store, f"{DAY}/{path.name}")["last_modified"]
    path_of(archive, "objectstore").write_bytes(b"\0damage")
    uploader = await upload_all(place.config(), archive)
    assert is_uploaded(uploader, path)
    assert uploader.counts.conflicts == 0
    assert obstore.head(place.store, f"{DAY}/{path.name}")["last_modified"] == written
    assert path_of(archive, "objectstore").with_name(".uploaded-objectstore.jsonl.bad").exists()


async def test_a_manifest_that_was_lost_or_damaged_is_written_again(place: Place, archive: Path) -> None:
    first = make_segment(archive)
    await upload_all(place.config(), archive)
    place.put(f"{DAY}/manifest.jsonl", b"garbage\n")
    second = make_segment(archive, number=1)
    await upload_all(place.config(), archive)
    *lines, last = place.read(f"{DAY}/manifest.jsonl").decode().splitlines()
    assert [parse_line(line).name for line in lines] == [first.name, second.name]
    assert last == "garbage"


async def test_segments_that_are_gone_from_the_archive_stay_in_the_manifest(place: Place, archive: Path) -> None:
    first = make_segment(archive)
    await upload_all(place.config(), archive)
    first.unlink()
    second = make_segment(archive, number=1)
    uploader = await upload_all(place.config(), archive)
    lines = [parse_line(line).name for line in place.read(f"{DAY}/manifest.jsonl").decode().splitlines()]
    assert lines == [first.name, second.name]
    assert list(uploader._progress.uploaded) == [second.name]  # the file stays small
    assert uploader.counts.lost_segments == 0


async def test_what_is_at_the_name_already_is_never_overwritten(place: Place, archive: Path) -> None:
    path = make_segment(archive)
    place.put(f"{DAY}/{path.name}", b"of somebody else")
    uploader = await upload_all(place.config(), archive)
    assert uploader.counts.conflicts == 1
    assert is_uploaded(uploader, path)
    assert place.read(f"{DAY}/{path.name}") == b"of somebody else"
    (line,) = [parse_line(line) for line in place.read(f"{DAY}/manifest.jsonl").decode().splitlines()]
    assert line.name == path.name.replace(".ftseg", f".{line.sha256[:8]}.ftseg")
    assert place.read(f"{DAY}/{line.name}") == path.read_bytes()
    await upload_all(place.config(), archive)
    assert len(place.keys()) == 4


def test_a_race_for_the_name_is_lost_without_harm(place: Place, archive: Path) -> None:
    """Between the look and the put somebody else writes: the server decides, and both contents are told apart."""
    path = make_segment(archive)
    store = Store(place.store, 8 << 20, False)
    with open(path, "rb") as file:
        digest = read_digest(file, 8 << 20)
        place.put("theirs", b"of somebody else")
        file.seek(0)
        assert store.put("theirs", file, digest) is False
        place.put("ours", path.read_bytes())  # as an earlier try of ours whose answer was lost
        file.seek(0)
        assert store.put("ours", file, digest) is True
    assert place.read("theirs") == b"of somebody else"


@pytest.mark.parametrize("verify", ["auto", "read"])
async def test_a_large_segment_goes_in_parts(verify: str, place: Place, archive: Path) -> None:
    archive.mkdir()
    path = archive / "20231114T000000.000000Z-aaaaaaaa-000000.ftseg"
    path.write_bytes(bytes(range(256)) * (11 << 12))  # 11 MiB; no segment, but nobody cares
    uploader = await upload_all(place.config(part_bytes=5 << 20, verify=verify), archive)
    assert is_uploaded(uploader, path)
    assert place.read(f"h/all/2023-11-14/{path.name}") == path.read_bytes()
    assert str(obstore.head(place.store, f"h/all/2023-11-14/{path.name}")["e_tag"]).strip('"').endswith("-3")


async def test_a_server_that_ignores_create_only_is_noticed_and_said(
    bad: Server, archive: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(bad.url, "x", tmp_path / "secret")
    path = make_segment(archive)
    place.put(f"{DAY}/{path.name}", b"of somebody else")
    uploader = await upload_all(place.config(), archive)
    assert uploader.create_only is False
    assert [r for r in caplog.records if "overwrites although it is told" in r.message]
    assert place.read(f"{DAY}/{path.name}") == b"of somebody else"  # looked for before it is written
    assert uploader.counts.conflicts == 1


async def test_a_wrong_key_is_an_error_that_says_so_and_goes_on_when_it_is_right(
    place: Place, archive: Path, tmp_path: Path
) -> None:
    path = make_segment(archive)
    (tmp_path / "wrong").write_text("wrong")
    async with running(
        place.config(secret_options={"secret_access_key": {"file": str(tmp_path / "wrong")}}), archive
    ) as u:
        await wait_for(lambda: "SignatureDoesNotMatch" in (u.state.last_error or ""))
        await wait_for(lambda: u.counts.failures > 2)
        assert not u.state.connected
        assert not is_uploaded(u, path)
        assert u.snapshot().spooled_events == 200
    await upload_all(place.config(), archive)


async def test_a_server_that_is_not_there_is_tried_until_it_is(weed: Server, archive: Path, tmp_path: Path) -> None:
    path = make_segment(archive)
    proxy = Proxy()
    proxy.to(weed.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        proxy.refuse(True)
        place = Place(f"http://127.0.0.1:{proxy.port}", tmp_path.name, tmp_path / "secret")
        async with running(place.config(), archive) as uploader:
            await wait_for(lambda: uploader.counts.failures > 1)
            proxy.refuse(False)
            await wait_for(lambda: is_uploaded(uploader, path))
            assert uploader.state.last_error is None
        nursery.cancel_scope.cancel()


async def test_nobody_listens(archive: Path, tmp_path: Path) -> None:
    make_segment(archive)
    place = Place(f"http://127.0.0.1:{free_port()}", "x", tmp_path / "secret")
    async with running(place.config(), archive) as uploader:
        await wait_for(lambda: uploader.state.last_error == "Connection refused")


async def test_a_server_that_never_answers_is_an_error_in_time(archive: Path, tmp_path: Path) -> None:
    make_segment(archive)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        place = Place(f"http://127.0.0.1:{mute.getsockname()[1]}", "x", tmp_path / "secret")
        async with running(place.config(request_timeout_s=0.3), archive) as uploader:
            await wait_for(lambda: uploader.state.last_error == "no answer in time", 10)
            with trio.fail_after(5):
                await uploader.drain()  # gives up at the first failure


async def test_connections_that_break_in_the_middle_cost_nothing(weed: Server, archive: Path, tmp_path: Path) -> None:
    proxy = Proxy()
    proxy.to(weed.port)
    paths = [make_segment(archive, number=number, blocks=40) for number in range(6)]
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        place = Place(f"http://127.0.0.1:{proxy.port}", tmp_path.name, tmp_path / "secret")
        async with running(place.config(), archive) as uploader:
            while not all(is_uploaded(uploader, path) for path in paths):
                await proxy.cut()
                await trio.sleep(0.05)
            await wait_for(lambda: not uploader._progress.days)
        nursery.cancel_scope.cancel()
    through = Place(weed.url, tmp_path.name, tmp_path / "secret")
    assert [parse_line(line).name for line in through.read(f"{DAY}/manifest.jsonl").decode().splitlines()] == [
        path.name for path in paths
    ]
    for path in paths:
        assert through.read(f"{DAY}/{path.name}") == path.read_bytes()
    assert uploader.counts.conflicts == 0


async def test_tls_is_verified(weed: Server, archive: Path, tmp_path: Path) -> None:
    path = make_segment(archive)
    authority, other = trustme.CA(), trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    for name, of in (("ca", authority), ("other", other)):
        of.cert_pem.write_to_path(str(tmp_path / name))
    proxy = Proxy(server)
    proxy.to(weed.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        place = Place(f"https://127.0.0.1:{proxy.port}", tmp_path.name, tmp_path / "secret")
        for tls in ({}, {"ca_file": str(tmp_path / "other")}):
            async with running(place.config(tls=tls), archive) as uploader:
                await wait_for(lambda: "UnknownIssuer" in (uploader.state.last_error or ""))
        for tls in ({"ca_file": str(tmp_path / "ca")}, {"verify": False}):
            async with running(place.config(tls=tls), archive) as uploader:
                await wait_for(lambda: is_uploaded(uploader, path))
        nursery.cancel_scope.cancel()


async def test_an_expired_certificate_is_refused(weed: Server, archive: Path, tmp_path: Path) -> None:
    make_segment(archive)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", not_after=datetime.now(UTC) - timedelta(days=1)).configure_cert(server)
    proxy = Proxy(server)
    proxy.to(weed.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        place = Place(f"https://127.0.0.1:{proxy.port}", tmp_path.name, tmp_path / "secret")
        async with running(place.config(tls={"ca_file": str(tmp_path / "ca")}), archive) as uploader:
            await wait_for(lambda: "Expired" in (uploader.state.last_error or ""))
        nursery.cancel_scope.cancel()


async def test_nothing_is_acknowledged_that_could_not_be_noted(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk: after a restart nobody would know of the upload, but the segment might be gone."""
    path = make_segment(archive)
    config = ObjectStoreConfig.model_validate(
        {"type": "objectstore", "url": f"file://{tmp_path}/store", "scan_interval_s": 0.05, "retry_first_s": 0.05,
         "retry_max_s": 0.1}
    )  # fmt: skip
    write = uploader_module.write_progress

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(uploader_module, "write_progress", fail)
    async with running(config, archive) as uploader:
        await wait_for(lambda: uploader.counts.failures > 2)
        assert (tmp_path / "store" / DAY / path.name).exists()
        assert not is_uploaded(uploader, path)
        assert "No space left" in (uploader.state.last_error or "")
        monkeypatch.setattr(uploader_module, "write_progress", write)
        await wait_for(lambda: is_uploaded(uploader, path))
        await wait_for(lambda: (tmp_path / "store" / DAY / "manifest.jsonl").exists())


async def test_connections_that_come_and_go_leave_nothing_behind(weed: Server, archive: Path, tmp_path: Path) -> None:
    proxy = Proxy()
    proxy.to(weed.port)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        place = Place(f"http://127.0.0.1:{proxy.port}", tmp_path.name, tmp_path / "secret")
        make_segment(archive)
        uploader = await upload_all(place.config(), archive)
        for round_ in range(1, 101):
            await proxy.cut()
            if round_ == 10:
                files = len(os.listdir("/proc/self/fd"))
            path = make_segment(archive, number=round_, blocks=1)
            while not is_uploaded(uploader, path):
                await uploader.drain()
        assert proxy.accepted >= 100
        assert len(os.listdir("/proc/self/fd")) <= files + 4
        nursery.cancel_scope.cancel()


async def test_a_segment_that_is_removed_before_it_was_uploaded_is_counted(archive: Path, tmp_path: Path) -> None:
    path = make_segment(archive)
    place = Place(f"http://127.0.0.1:{free_port()}", "x", tmp_path / "secret")
    async with running(place.config(), archive) as uploader:
        await wait_for(lambda: uploader.counts.failures > 0)
        path.unlink()
        await wait_for(lambda: uploader.counts.lost_segments == 1)
        found = uploader.snapshot()
        assert found.discarded_events == {"removed": 200}
        assert (found.residual, found.spooled_events, found.stalled_s) == (0, 0, 0.0)


def remove(uploader: Uploader, path: Path) -> None:
    """As retention does."""
    uploader.note_removal(Sealed(path, 0, 0, 0))
    path.unlink()


async def test_a_segment_that_no_look_has_seen_is_counted_when_it_is_removed(
    folder_store: ObjectStoreConfig, archive: Path
) -> None:
    uploader = build(folder_store, SinkContext("h", "1", archive))
    never_seen, stays = (make_segment(archive, number=number) for number in range(2))
    remove(uploader, never_seen)
    for _ in range(2):
        await uploader.drain()
        found = uploader.snapshot()
        assert (found.offered_events, found.acked_events, found.discarded_events) == (400, 200, {"removed": 200})
    assert uploader.counts.lost_bytes > 0
    remove(uploader, stays)
    await uploader.drain()
    assert uploader.counts.lost_segments == 1  # it is in the store


async def test_a_segment_is_counted_once_whoever_finds_it_gone(
    folder_store: ObjectStoreConfig, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first one is on its way it is removed, and another one that this look has seen."""
    uploader = build(folder_store, SinkContext("h", "1", archive))
    on_its_way, seen, stays = (make_segment(archive, number=number) for number in range(3))
    put = Store.put

    def put_slowly(self: Store, key: str, file: BinaryIO, digest: Digest) -> bool:
        if on_its_way.exists():
            remove(uploader, on_its_way)
            remove(uploader, seen)
        return put(self, key, file, digest)

    monkeypatch.setattr(Store, "put", put_slowly)
    for _ in range(2):
        await uploader.drain()
        found = uploader.snapshot()
        assert (found.offered_events, found.acked_events, found.discarded_events) == (600, 400, {"removed": 200})
    assert uploader.counts.lost_segments == 1
    stays.unlink()  # somebody did
    uploader.note_removal(Sealed(stays, 0, 0, 0))
    await uploader.drain()
    assert uploader.counts.lost_segments == 1


async def test_a_segment_that_the_disk_does_not_remove_is_uploaded_and_not_lost(
    folder_store: ObjectStoreConfig, archive: Path
) -> None:
    async with running(folder_store, archive) as uploader:
        path = make_segment(archive)
        uploader.note_removal(Sealed(path, 0, 0, 0))
        await wait_for(lambda: is_uploaded(uploader, path))
        remove(uploader, path)
        await wait_for(lambda: not is_uploaded(uploader, path))  # the look that found it gone
        assert uploader.counts.lost_segments == 0


async def test_a_segment_that_cannot_be_read_does_not_hold_up_others(
    tmp_path: Path, archive: Path, caplog: pytest.LogCaptureFixture
) -> None:
    archive.mkdir()
    (archive / "20231114T000000.000000Z-aaaaaaaa-000000.ftseg").mkdir()  # reading it fails for root too
    path = make_segment(archive)
    config = ObjectStoreConfig.model_validate(
        {"type": "objectstore", "url": f"file://{tmp_path}/store", "scan_interval_s": 0.05}
    )
    async with running(config, archive) as uploader:
        await wait_for(lambda: is_uploaded(uploader, path))
        await wait_for(lambda: uploader.counts.failures > 2)
        assert uploader.snapshot().spool_segments == 1
    assert len([r for r in caplog.records if "cannot be read" in r.message]) == 1


async def test_a_folder_is_a_store_too(tmp_path: Path, archive: Path) -> None:
    paths = [make_segment(archive, number=number) for number in range(2)]
    config = ObjectStoreConfig.model_validate({"type": "objectstore", "url": f"file://{tmp_path}/store/x"})
    for _ in range(2):
        uploader = await upload_all(config, archive)
        assert uploader.create_only in (True, None)
        assert all(is_uploaded(uploader, path) for path in paths)
        path_of(archive, "objectstore").unlink()
    folder = tmp_path / "store" / "x" / DAY
    assert sorted(of.name for of in folder.iterdir()) == [*(p.name for p in paths), "manifest.jsonl"]
    assert counts_of(*sorted(folder.glob("*.ftseg"))) == counts_of(archive)


async def test_an_upload_goes_on_when_the_daemon_is_told_to_end(place: Place, archive: Path) -> None:
    """The last segment is sealed after the daemon has stopped collecting."""
    async with running(place.config(), archive) as uploader:
        await wait_for(lambda: uploader._loaded)
    path = make_segment(archive)
    with trio.fail_after(60):
        await uploader.drain()
    assert is_uploaded(uploader, path)


async def test_options_that_the_store_does_not_know_are_an_error_at_the_start(place: Place) -> None:
    with pytest.raises(ConfigError, match="made_up"):
        build_store(place.config(options={"made_up": "1"}))


async def test_an_archive_in_the_store_verifies(place: Place, archive: Path, tmp_path: Path) -> None:
    path = make_segment(archive)
    await upload_all(place.config(), archive)
    back = tmp_path / "back"
    back.mkdir()
    (back / path.name).write_bytes(place.read(f"{DAY}/{path.name}"))
    assert [str(of) for of in verify_paths([back])] == [str(of) for of in verify_paths([archive])]


async def test_what_arrives_damaged_is_noticed_and_sent_again_under_another_name(
    tmp_path: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_segment(archive)
    put = obstore.put
    damaged: list[str] = []

    def put_damaged(store: Any, key: str, data: Any, **more: Any) -> Any:
        if key.endswith(path.name) and not damaged:
            damaged.append(key)
            data = bytes(data)[:-1] + b"\0"
        return put(store, key, data, **more)

    monkeypatch.setattr(obstore, "put", put_damaged)
    config = ObjectStoreConfig.model_validate(
        {"type": "objectstore", "url": f"file://{tmp_path}/store", "scan_interval_s": 0.05, "retry_first_s": 0.05}
    )
    async with running(config, archive) as uploader:
        await wait_for(lambda: "is not what the server has" in (uploader.state.last_error or ""))
        assert not is_uploaded(uploader, path)
        await wait_for(lambda: is_uploaded(uploader, path))
    assert damaged
    assert uploader.counts.conflicts == 1
    (whole,) = [of for of in (tmp_path / "store" / DAY).glob("*.ftseg") if of.name != path.name]
    assert whole.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("url", "options", "secrets"),
    [
        ("gs://bucket/x", {}, {"service_account_key": GOOGLE_KEY}),
        ("az://container/x", {"account_name": "a"}, {"account_key": "c2VjcmV0"}),
    ],
)
def test_the_other_stores_take_what_the_document_names(
    url: str, options: dict[str, str], secrets: dict[str, str], tmp_path: Path
) -> None:
    files = {}
    for name, text in secrets.items():
        (tmp_path / name).write_text(text)
        files[name] = {"file": str(tmp_path / name)}
    settings = {"type": "objectstore", "url": url, "options": options, "secret_options": files}
    assert build_store(ObjectStoreConfig.model_validate(settings)) is not None
