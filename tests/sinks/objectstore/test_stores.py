"""What is another matter at one kind of store than at the others: Google's versions, and a folder's disk."""

import errno
import os
from pathlib import Path

import pytest

from collector.archive import disk
from sinks.objectstore.digest import read_digest, read_entry
from sinks.objectstore.manifest import build_manifest, parse_line
from sinks.objectstore.progress import path_of
from sinks.objectstore.sink import ObjectStoreConfig, build_store
from sinks.objectstore.store import Store
from tests.faults import failing
from tests.sinks.made import make_segment
from tests.sinks.objectstore.google import Google, google
from tests.sinks.objectstore.places import DAY, is_uploaded, running, upload_all, wait_for

pytestmark = pytest.mark.network


def at_google(server: Google, folder: Path) -> ObjectStoreConfig:
    (folder / "key").write_text(server.key)
    return ObjectStoreConfig.model_validate({
        "type": "objectstore", "url": "gs://bucket/x", "options": {"base_url": server.url},
        "secret_options": {"service_account_key": {"file": str(folder / "key")}},
    })  # fmt: skip


async def test_google_takes_a_manifest_more_than_once(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    names = []
    with google() as server:
        config = at_google(server, tmp_path)
        for number in range(3):
            names.append(make_segment(archive, number=number).name)
            await upload_all(config, archive)
        (manifest,) = [content for path, (content, _) in server.objects.items() if "manifest" in path]
    assert [parse_line(line).name for line in manifest.decode().splitlines()] == names


def test_at_google_too_a_manifest_that_somebody_else_writes_is_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    with google() as server:
        one, other = (Store(build_store(at_google(server, tmp_path)), 8 << 20, False) for _ in "ab")
        one.merge_manifest("d/m", [])
        entries = []
        for number in range(2):
            path = make_segment(archive, number=number)
            with open(path, "rb") as file:
                entries.append(read_entry(path, read_digest(file, 8 << 20), "h"))
        get = one._get

        def get_and_be_late(key: str) -> object:
            found = get(key)
            if not server.refused:
                other.merge_manifest(key, entries[:1])
            return found

        monkeypatch.setattr(one, "_get", get_and_be_late)
        one.merge_manifest("d/m", entries[1:])
        assert server.refused == 1
        ((content, _),) = server.objects.values()
    assert content == build_manifest(entries)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What was synced, in that order."""
    found: list[Path] = []
    fsync, fsync_folder = disk.fsync, disk.fsync_folder

    def note(fd: int) -> None:
        fsync(fd)
        found.append(Path(os.readlink(f"/proc/self/fd/{fd}")))

    def note_folder(folder: Path) -> None:
        fsync_folder(folder)
        found.append(folder)

    monkeypatch.setattr(disk, "fsync", note)
    monkeypatch.setattr(disk, "fsync_folder", note_folder)
    return found


def in_a_folder(root: Path) -> ObjectStoreConfig:
    return ObjectStoreConfig.model_validate({
        "type": "objectstore", "url": f"file://{root}", "scan_interval_s": 0.05, "retry_first_s": 0.05,
        "retry_max_s": 0.1,
    })  # fmt: skip


async def test_what_is_in_a_folder_is_durable_before_it_is_noted(tmp_path: Path, synced: list[Path]) -> None:
    archive, root = tmp_path / "archive", tmp_path / "mount" / "store"
    path = make_segment(archive)
    synced.clear()
    await upload_all(in_a_folder(root), archive)
    day = root / DAY
    folders = [day, *day.parents][:4]
    assert folders[-1] == root
    noted = synced.index(path_of(archive, "objectstore").with_name(".uploaded-objectstore.jsonl.new"))
    assert synced[:noted][-5:] == [day / path.name, *folders]
    assert {tmp_path, tmp_path / "mount"} <= set(synced[:noted])  # they have the names of what was made
    written = synced.index(day / "manifest.jsonl")
    assert synced[written:][:5] == [day / "manifest.jsonl", *folders]
    assert synced[written + 5 :] == [synced[noted], archive]


async def test_what_an_earlier_try_left_in_a_folder_is_synced_too(tmp_path: Path, synced: list[Path]) -> None:
    """It may have ended between the writing and the sync."""
    archive, root = tmp_path / "archive", tmp_path / "store"
    path = make_segment(archive)
    await upload_all(in_a_folder(root), archive)
    path_of(archive, "objectstore").unlink()
    synced.clear()
    await upload_all(in_a_folder(root), archive)
    assert root / DAY in synced[synced.index(root / DAY / path.name) :]


@pytest.mark.parametrize("what", ["fsync", "fsync_folder"])
async def test_what_a_disk_does_not_keep_is_not_acknowledged(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, root = tmp_path / "archive", tmp_path / "store"
    path = make_segment(archive)
    sync = getattr(disk, what)
    failed = 0

    def fail(of: int | Path) -> None:
        nonlocal failed
        place = Path(os.readlink(f"/proc/self/fd/{of}")) if isinstance(of, int) else of
        if place.is_relative_to(root) and failed < 3:
            failed += 1
            os.utime(root / DAY / path.name, (1, 1))  # to tell it from one that is written again
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(of)

    monkeypatch.setattr(disk, what, fail)
    async with running(in_a_folder(root), archive) as uploader:
        await wait_for(lambda: "Input/output error" in (uploader.state.last_error or ""))
        assert not is_uploaded(uploader, path)
        await wait_for(lambda: is_uploaded(uploader, path))
    assert failed == 3
    # After a failed fsync of a file the next one says yes, though the pages are lost: it must have been written again.
    assert ((root / DAY / path.name).stat().st_mtime == 1) == (what == "fsync_folder")
    assert (root / DAY / path.name).read_bytes() == path.read_bytes()


async def test_a_share_that_does_not_sync_folders_is_a_store_too(tmp_path: Path) -> None:
    archive, root = tmp_path / "archive", tmp_path / "store"
    path = make_segment(archive)
    with failing(disk, "fsync_folder", code=errno.EINVAL, when=lambda folder: folder.is_relative_to(root)):
        assert is_uploaded(await upload_all(in_a_folder(root), archive), path)
