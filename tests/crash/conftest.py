"""Where the crashes happen."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# A kill leaves all that the kernel has, and where the power is cut the disk is a model: so it may be the quickest one.
MEMORY = Path("/dev/shm")


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)
