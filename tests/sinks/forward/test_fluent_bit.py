"""Against Fluent Bit itself, where it is installed."""

import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from sinks.contract.base import Parcel
from tests.sinks.forward.rig import bring, in_batches, make, running

FLUENT_BIT = shutil.which("fluent-bit")
pytestmark = [pytest.mark.network, pytest.mark.skipif(FLUENT_BIT is None, reason="no fluent-bit on the PATH")]


@asynccontextmanager
async def fluent_bit(folder: Path, *settings: str) -> AsyncIterator[tuple[str, Path]]:
    """Runs one that listens on a unix socket; gives the socket and the file with what it received, a line each."""
    path, out = folder / "forward.sock", folder / "received"
    words = [str(FLUENT_BIT), "-q", "-f", "0.2", "-i", "forward", "-p", f"unix_path={path}"]
    words += [word for setting in settings for word in ("-p", setting)]
    words += ["-o", "file", "-m", "*", "-p", f"path={folder}", "-p", "file=received", "-p", "format=plain"]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            with trio.fail_after(30):
                while not path.is_socket():
                    await trio.sleep(0.02)
            yield str(path), out
        finally:
            process.terminate()


async def received(out: Path, count: int) -> list[Any]:
    with trio.fail_after(30):
        while not out.exists() or out.read_bytes().count(b"\n") < count:
            await trio.sleep(0.05)
    return [json.loads(line) for line in out.read_text(errors="replace").splitlines()]


def secret(folder: Path, text: str) -> dict[str, str]:
    path = folder / text.replace(" ", "-")
    path.write_text(text)
    return {"file": str(path)}


@pytest.mark.parametrize("compress", ["gzip", "none"])
async def test_records_arrive(compress: str, parcels: list[Parcel], tmp_path: Path) -> None:
    async with fluent_bit(tmp_path) as (path, out):
        async with running(make(servers=[{"path": path}], compress=compress)) as transport:
            await bring(transport, in_batches(parcels))
        rows = await received(out, 200)
    assert [(row["cpu"], row["ordinal"]) for row in rows if row["cpu"] == 0] == [(0, n) for n in range(100)]
    assert rows[0]["fields"]["args"] == [0, 0, 2**64 - 1]


async def test_blocks_arrive(parcels: list[Parcel], tmp_path: Path) -> None:
    async with fluent_bit(tmp_path) as (path, out):
        async with running(make(servers=[{"path": path}], payload="blocks")) as transport:
            await bring(transport, in_batches(parcels))
        rows = await received(out, len(parcels))
    assert [row["kind"] for row in rows] == [parcel.kind.name.lower() for parcel in parcels]


@pytest.mark.parametrize("user", [None, "me"])
async def test_a_shared_key_and_a_user(user: str | None, parcels: list[Parcel], tmp_path: Path) -> None:
    settings = ["shared_key=key of both", "self_hostname=them"]
    options: dict[str, Any] = {"shared_key": secret(tmp_path, "key of both")}
    if user is not None:
        settings.append(f"security.users={user} word")
        options |= {"user": user, "password": secret(tmp_path, "word")}
    async with fluent_bit(tmp_path, *settings) as (path, out):
        async with running(make(servers=[{"path": path}], **options)) as transport:
            await bring(transport, in_batches(parcels))
        assert len(await received(out, 200)) == 200
