"""Archives to write into, and disks that get full."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sinks.file import sink
from tests.sinks.file.rig import Archive, Clock, FreeSpace, MakeArchive


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The sink's clock."""
    clock = Clock()
    monkeypatch.setattr(sink, "time", clock)
    return clock


@pytest.fixture
def make_archive(tmp_path: Path, clock: Clock) -> Iterator[MakeArchive]:
    """make_archive(folder, **policy) -> an archive that is not open yet."""
    with ExitStack() as stack:

        def make(folder: Path = tmp_path / "archive", **policy: Any) -> Archive:
            return Archive(stack, folder, clock, policy)

        yield make


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> FreeSpace:
    """What is free on the disk: at first 10,000 bytes."""
    free = FreeSpace()
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=free.bytes, f_frsize=1))
    return free


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, check=False).returncode:
        pytest.skip("needs root and the right to mount a tmpfs; run as root outside of a container")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
