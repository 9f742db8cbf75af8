"""What a user sees of four recorded kernels: `show` in both formats and `info --json`, against golden files.

The golden files were compared with the kernel's own text of the case. UPDATE_GOLDEN=1 writes them anew: then look at
the difference before it is committed.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.cli import main

GOLDEN = Path(__file__).parent / "golden"
CASES = ["6.1/kprobe", "6.12/event_stack", "6.18/marker", "6.18/mix"]
LINES = "40"

# They differ between two runs of the same case, or between two versions of a compressor.
VOLATILE = frozenset({"run", "host", "created_ns", "sealed_ns", "archive_bytes"})


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [without_volatile(item) for item in value]
    return value


@pytest.fixture(scope="module")
def archive_of(recorded_case: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """archive_of(case) -> its archive, replayed once."""
    folder = tmp_path_factory.mktemp("golden")

    def replay(name: str) -> Path:
        archive = folder / name
        if not archive.exists():
            assert main(["run", "--replay", str(recorded_case(name)), "--output", str(archive), "-q"]) == 0
        return archive

    return replay


def assert_golden(name: str, suffix: str, text: str) -> None:
    file = GOLDEN / f"{name.replace('/', '-')}.{suffix}"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text(), f"{file} is otherwise; UPDATE_GOLDEN=1 writes it anew"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", ["fields", "json"])
def test_show(name: str, form: str, archive_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    archive = archive_of(name)
    capsys.readouterr()
    assert main(["show", str(archive), "--format", form, "--limit", LINES]) == 0
    assert_golden(name, f"{form}.txt", capsys.readouterr().out)


@pytest.mark.parametrize("name", CASES)
def test_info(name: str, archive_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    archive = archive_of(name)
    capsys.readouterr()
    assert main(["info", "--json", str(archive)]) == 0
    info = without_volatile(json.loads(capsys.readouterr().out))
    assert_golden(name, "info.json", json.dumps(info, indent=1) + "\n")
