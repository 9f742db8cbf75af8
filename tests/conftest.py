"""What all tests share: recorded kernels, the live kernel, and which tests can run here."""

import itertools
import os
import socket
import sys
import tarfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parent / "fixtures"
# KERNEL/CASE for each fixtures/KERNEL-CASE.tar.xz
RECORDED_CASES = sorted(p.name.removesuffix(".tar.xz").replace("-", "/", 1) for p in FIXTURES.glob("*.tar.xz"))
TRACEFS = Path("/sys/kernel/tracing")

_numbers = itertools.count()
_skipped_kernel_tests = pytest.StashKey[int]()

# Tests that may connect to somebody over TCP; `make check` leaves them out.
CONNECTING = ("network", "kernel", "guest")
_connections = 0  # over TCP since the process began; those of libraries in C don't show


def missing_for_kernel_tests() -> str | None:
    """Why the live kernel cannot be used here, or None when it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not (TRACEFS / "instances").is_dir():
        return f"no tracefs: `mount -t tracefs tracefs {TRACEFS}`"
    if not os.access(TRACEFS / "instances", os.W_OK):
        return f"{TRACEFS} is mounted read-only"
    return None


@pytest.hookimpl(trylast=True)  # when those that were not asked for are gone
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip the tests of the live kernel where it isn't to be had; FTC_REQUIRE_KERNEL=1 lets them fail instead."""
    kernel_tests = [item for item in items if item.get_closest_marker("kernel")]
    why = missing_for_kernel_tests()
    config.stash[_skipped_kernel_tests] = 0
    if why is None or os.environ.get("FTC_REQUIRE_KERNEL") == "1":
        return
    for item in kernel_tests:
        item.add_marker(pytest.mark.skip(reason=f"live kernel: {why} (FTC_REQUIRE_KERNEL=1 makes this a failure)"))
    config.stash[_skipped_kernel_tests] = len(kernel_tests)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A required but missing live kernel is a failure with its reason, before the test stumbles over it."""
    if item.get_closest_marker("kernel") and os.environ.get("FTC_REQUIRE_KERNEL") == "1":
        why = missing_for_kernel_tests()
        if why is not None:
            pytest.fail(f"FTC_REQUIRE_KERNEL=1, but the live kernel cannot be used: {why}", pytrace=False)


def _count_connection(event: str, args: tuple[object, ...]) -> None:
    global _connections
    if event == "socket.connect" and getattr(args[0], "family", None) in (socket.AF_INET, socket.AF_INET6):
        _connections += 1


sys.addaudithook(_count_connection)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """A test that connects over TCP is marked: what is not must run where there is no network."""
    before = _connections
    result = yield
    if _connections != before and not any(item.get_closest_marker(name) for name in CONNECTING):
        pytest.fail("it connects over TCP, and is not marked `network`", pytrace=False)
    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many tests of the live kernel were left out; also into the file FTC_SKIPPED_KERNEL_FILE, for CI."""
    skipped = config.stash.get(_skipped_kernel_tests, 0)
    if skipped:
        terminalreporter.write_line(f"{skipped} tests of the live kernel were skipped")
    if path := os.environ.get("FTC_SKIPPED_KERNEL_FILE"):
        Path(path).write_text(f"{skipped}\n")


def unpack_case(name: str, folder: Path) -> None:
    """Unpack a recorded kernel, KERNEL/CASE."""
    with tarfile.open(FIXTURES / f"{name.replace('/', '-', 1)}.tar.xz") as archive:
        # 3.11.0 to 3.11.3 have no filters, and the archives are our own.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)


@pytest.fixture(scope="session")
def recorded_case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """recorded_case("6.12/lost") -> the folder of that recorded kernel, unpacked once per session: read only."""
    folder = tmp_path_factory.mktemp("recorded")

    def unpack(name: str) -> Path:
        case = folder / name
        if not case.exists():
            unpack_case(name, case)
        return case

    return unpack


@pytest.fixture
def tracefs() -> Path:
    """The live tracefs; a test that takes it is marked `kernel`."""
    return TRACEFS


@pytest.fixture
def instance_name() -> Iterator[str]:
    """A name for an instance of the live tracefs; if it exists at the end it is removed, whatever the test's outcome.

    An instance that cannot be removed fails the test: somebody still has one of its files open.
    """
    name = f"ftc-test-{os.getpid()}-{next(_numbers)}"
    yield name
    folder = TRACEFS / "instances" / name
    if folder.is_dir():
        (folder / "tracing_on").write_text("0")
        (folder / "events/enable").write_text("0")
        folder.rmdir()
