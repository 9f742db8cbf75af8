"""A harness for each test, and the servers that tests share."""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cache
from pathlib import Path

import pytest

from tests.contract.harness import HARNESSES
from tests.contract.places import SharedServer
from tests.contract.world import Served
from tests.sinks.objectstore.servers import Server, seaweedfs

HERE = Path(__file__).parent

Serve = Callable[[Path], AbstractAsyncContextManager[Served]]  # given a folder of its own


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Receivers are somebody else's servers, or ours over TCP."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.network)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    """Started when it is first asked for; it takes seconds."""
    with ExitStack() as stack:

        @cache
        def start() -> Server:
            return stack.enter_context(seaweedfs(tmp_path_factory.mktemp("seaweed")))

        yield start


@pytest.fixture
def harness(request: pytest.FixtureRequest, seaweed: SharedServer) -> Serve:
    """The receiver of a sink: what a test is parametrised with is its name in HARNESSES."""
    name = str(request.param)
    return lambda folder: HARNESSES[name].serve(folder, seaweed)
