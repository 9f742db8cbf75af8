"""The live kernel's segments in an S3 server: all of the archive, as it is."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest

from sinks.objectstore.sink import ObjectStoreConfig, build_store
from tests.kernel.conftest import StartDaemon, StartLoad
from tests.kernel.daemon import CPUS, QUICK, assert_verifies, read_info, wait_until
from tests.sinks.objectstore.servers import KEY, SECRET, Server, seaweedfs

SINK = """
[archive]
{archive}
[[sinks]]
type = "objectstore"
url = "s3://bucket/traces"
scan_interval_s = 0.2
retry_first_s = 0.1
retry_max_s = 0.5
[sinks.options]
endpoint = "{url}"
access_key_id = "{key}"
region = "us-east-1"
[sinks.secret_options]
secret_access_key = {{file = "{secret}"}}
[trace]
events = ["sched:sched_switch", "sched:sched_waking"]
"""


@pytest.fixture
def weed(tmp_path: Path) -> Iterator[Server]:
    with seaweedfs(tmp_path / "weed") as server:
        yield server


def config_of(weed: Server, folder: Path, archive: str = "segment_age_s = 1.0") -> str:
    secret = folder / "secret"
    secret.write_text(SECRET)
    return QUICK + SINK.format(url=weed.url, key=KEY, secret=secret, archive=archive)


def download(weed: Server, secret: Path, folder: Path) -> list[str]:
    """Fetches all segments into one folder; gives the keys of all objects."""
    config = ObjectStoreConfig.model_validate({
        "type": "objectstore", "url": "s3://bucket/traces",
        "options": {"endpoint": weed.url, "access_key_id": KEY, "region": "us-east-1"},
        "secret_options": {"secret_access_key": {"file": str(secret)}},
    })  # fmt: skip
    store = build_store(config)
    folder.mkdir()
    keys = [of["path"] for batch in obstore.list(store) for of in batch]
    for key in keys:
        if key.endswith(".ftseg"):
            (folder / key.rpartition("/")[2]).write_bytes(bytes(obstore.get(store, key).bytes()))
    return keys


def test_the_store_has_what_the_archive_has(
    weed: Server, start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path
) -> None:
    daemon = start_daemon(config=config_of(weed, tmp_path)).wait_ready()
    start_load("mixed", CPUS[0], 20000).wait()
    wait_until(lambda: daemon.metric("sink_acked_events_total") > 0, "the first segment")
    assert daemon.stop() == 0
    keys = download(weed, tmp_path / "secret", tmp_path / "back")
    archived = sorted(path.name for path in daemon.archive.glob("*.ftseg"))
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == archived
    assert len(archived) > 1
    found, wanted = read_info(tmp_path / "back"), read_info(daemon.archive)
    assert found["by_event"] == wanted["by_event"]
    assert sum(found["by_event"].values()) > 20000
    assert found["residual"] == 0
    assert_verifies(tmp_path / "back")
    assert [key for key in keys if key.endswith("/manifest.jsonl")]
    assert all(f"/{daemon.instance.name}/" in key for key in keys if key.endswith(".ftseg"))


def test_a_server_that_comes_later_gets_everything(
    start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path
) -> None:
    weed = seaweedfs(tmp_path / "weed")
    config = config_of(weed, tmp_path)
    first = start_daemon(config=config).wait_ready()
    start_load("mixed", CPUS[0], 5000).wait()
    wait_until(lambda: first.metric("sink_request_failures_total") > 0, "a failure")
    assert first.stop() == 0  # it does not wait for a server that isn't there
    with weed:
        second = start_daemon(config=config).wait_ready()
        wait_until(lambda: second.metric("spool_segments") == 0, "the upload")
        assert second.stop() == 0
        download(weed, tmp_path / "secret", tmp_path / "back")
    assert read_info(tmp_path / "back")["by_event"] == read_info(second.archive)["by_event"]
    assert_verifies(tmp_path / "back")
    shutil.rmtree(tmp_path / "back")


def test_retention_waits_for_the_store(start_daemon: StartDaemon, start_load: StartLoad, tmp_path: Path) -> None:
    """The archive grows above its limit while the server is away, and is cut back when it has everything."""
    weed = seaweedfs(tmp_path / "weed")
    limits = "segment_bytes = 1048576\nmax_bytes = 2097152\ncompression = 'none'\nkeep_until_acknowledged = true"
    daemon = start_daemon(config=config_of(weed, tmp_path, limits)).wait_ready()
    start_load("mixed", CPUS[0], 20000).wait()
    wait_until(lambda: daemon.metric("archive_waiting_bytes") > 0, "segments above the limit")
    assert daemon.metric("archive_removed_segments_total") == 0
    with weed:
        wait_until(lambda: daemon.metric("spool_segments") == 0, "the upload")
        start_load("mixed", CPUS[0], 10000).wait()
        wait_until(lambda: daemon.metric("archive_removed_segments_total") > 0, "retention")
        assert daemon.stop() == 0
        download(weed, tmp_path / "secret", tmp_path / "back")
    found, archived = read_info(tmp_path / "back"), read_info(daemon.archive)
    assert sum(found["by_event"].values()) > sum(archived["by_event"].values())
    assert "removed before it was uploaded" not in daemon.messages
    assert found["residual"] == 0
    assert_verifies(tmp_path / "back")  # from the run's first segment to its last
