"""Places in object stores for the tests of the sink, and the sink at work there."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import obstore
import trio

from sinks.contract.base import SinkContext
from sinks.objectstore.sink import ObjectStoreConfig, build, build_store
from sinks.objectstore.uploader import Uploader
from tests.sinks.objectstore.servers import KEY, SECRET

DAY = "h/main/2023-11-14"  # of made segments


class Place:
    """A folder of its own in a bucket, and how to look into it."""

    def __init__(self, url: str, folder: str, secret: Path) -> None:
        secret.write_text(SECRET + "\n")
        self.settings: dict[str, Any] = {
            "type": "objectstore", "url": f"s3://bucket/{folder}", "scan_interval_s": 0.05, "retry_first_s": 0.05,
            "retry_max_s": 0.2, "request_timeout_s": 30.0,
            "options": {"endpoint": url, "access_key_id": KEY, "region": "us-east-1"},
            "secret_options": {"secret_access_key": {"file": str(secret)}},
        }  # fmt: skip

    def config(self, **changes: Any) -> ObjectStoreConfig:
        return ObjectStoreConfig.model_validate({**self.settings, **changes})

    @property
    def store(self) -> Any:
        return build_store(self.config())

    def keys(self) -> list[str]:
        return sorted(of["path"] for batch in obstore.list(self.store) for of in batch)

    def read(self, key: str) -> bytes:
        return bytes(obstore.get(self.store, key).bytes())

    def put(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data)


@asynccontextmanager
async def running(config: ObjectStoreConfig, archive: Path) -> AsyncIterator[Uploader]:
    archive.mkdir(exist_ok=True)
    uploader = build(config, SinkContext("h", "1", archive))
    async with trio.open_nursery() as nursery:
        await nursery.start(uploader.run)
        yield uploader
        nursery.cancel_scope.cancel()


async def wait_for(true: Callable[[], bool], timeout_s: float = 60.0) -> None:
    with trio.fail_after(timeout_s):
        while not true():
            await trio.sleep(0.02)


async def upload_all(config: ObjectStoreConfig, archive: Path) -> Uploader:
    """As a daemon that starts and stops."""
    uploader = build(config, SinkContext("h", "1", archive))
    with trio.fail_after(60):
        await uploader.drain()
    assert uploader.state.last_error is None, uploader.state
    return uploader


def is_uploaded(uploader: Uploader, path: Path) -> bool:
    return uploader.is_acknowledged(path)
