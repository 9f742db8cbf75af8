"""Where the crashes happen."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.memory import memory_folder


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder. A kill leaves all that the kernel has, and where the power is cut the disk is a model."""
    with memory_folder() as folder:
        yield folder
