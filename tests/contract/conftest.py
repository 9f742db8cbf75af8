"""A receiver for each test, the runs that send there, and the servers that tests share."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from functools import cache, partial
from pathlib import Path

import pytest

from tests.contract.harness import HARNESSES
from tests.contract.places import SharedServer
from tests.contract.world import Served, World
from tests.sinks.objectstore.servers import Server, seaweedfs

HERE = Path(__file__).parent

MakeWorld = Callable[..., World]


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
async def served(request: pytest.FixtureRequest, tmp_path: Path, seaweed: SharedServer) -> AsyncIterator[Served]:
    """A sink's receiver, as long as the test runs: what a test is parametrised with is a name in HARNESSES."""
    async with HARNESSES[str(request.param)].serve(tmp_path, seaweed) as served:
        yield served


@pytest.fixture
def make_world(served: Served, tmp_path: Path) -> MakeWorld:
    """make_world(run=.., **options) -> a run that sends there; later runs find what earlier ones left."""
    return partial(World, served, tmp_path)
