"""One damaged sub-buffer, and what `show`, `info`, `verify`, metrics and the log say of it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from collector.capture.source import RecordedSource, new_run_id
from collector.cli import main
from collector.config.models import ArchiveConfig, Config
from collector.monitor.metrics import Metrics
from collector.run.daemon import _drain_and_seal, open_pipeline
from tests import reference

PAGE = 4096
FAULT_AT = 2000  # bytes from the page's start


def spoil(case: Path, pages: int) -> tuple[int, int]:
    """Writes zeros over the middle of a recording's first pages; gives (entries left, entries gone)."""
    layout, formats, per_cpu = reference.read_case(case)
    raw = case / "tracefs/per_cpu/cpu0/trace_pipe_raw"
    data = bytearray(raw.read_bytes())
    for number in range(pages):
        at = number * PAGE + FAULT_AT
        data[at : at + 64] = bytes(64)
    raw.write_bytes(data)
    whole = sum(len(reference.decode_pages(of, layout, formats).entries) for of in per_cpu.values())
    left = [reference.decode_pages(of, layout, formats) for of in reference.read_case(case)[2].values()]
    assert sum(len(of.malformed) for of in left) == pages
    return sum(len(of.entries) for of in left), whole - sum(len(of.entries) for of in left)


def metrics_of(config: Config, case: Path) -> dict[str, float]:
    """The sums of the streams' metrics when a replay has ended."""

    async def run() -> bytes:
        run_id = new_run_id()
        source = RecordedSource(case, run_id, None)
        async with open_pipeline(config, run_id, source.tree) as pipeline:
            pipeline.attach([source])
            await _drain_and_seal(pipeline, float("inf"))
            metrics = Metrics("6.12")
            metrics.update(pipeline.snapshot(ready=True))
            return metrics.render()

    found: dict[str, float] = {}
    for name, value in re.findall(r"^ftrace_collector_(\w+)\{[^}]*\} (\S+)$", trio.run(run).decode(), re.MULTILINE):
        found[name] = found.get(name, 0) + float(value)
    return found


@pytest.mark.parametrize("counted", [True, False], ids=["with stats", "without stats"])
@pytest.mark.parametrize("pages", [1, 3])
def test_five_tell_one_story(
    counted: bool, pages: int, recorded_case: Callable[[str], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case, archive = tmp_path / "case", tmp_path / "archive"
    shutil.copytree(recorded_case("6.12/events"), case)
    left, gone = spoil(case, pages)
    assert gone > 0
    if not counted:
        for path in case.glob("tracefs/per_cpu/cpu*/stats"):
            path.unlink()

    assert main(["run", "--replay", str(case), "--output", str(archive)]) == 0
    logged = capfd.readouterr().err
    assert main(["info", "--json", str(archive)]) == 0
    info = json.loads(capfd.readouterr().out)
    assert main(["verify", str(archive)]) == 1
    verified = capfd.readouterr().out
    assert main(["show", str(archive)]) == 0
    shown = capfd.readouterr().out.splitlines()
    metrics = metrics_of(Config(archive=ArchiveConfig(folder=str(tmp_path / "again"))), case)

    gaps = [at for at, line in enumerate(shown) if line.startswith("CPU:0 [LOST EVENTS] malformed")]
    assert len(gaps) == info["malformed_pages"] == metrics["decode_errors_total"] == pages
    assert logged.count("a malformed sub-buffer") == pages
    assert sum(" [LOST " not in line for line in shown) == info["events"] == metrics["decoded_events_total"] == left
    told = f"{pages} malformed sub-buffers, "
    told += f"{gone} entries unexplained" if counted else "what they held behind their faults is not known"
    assert told in verified
    if counted:
        assert info["unexplained"] == info["residual"] == metrics["ledger_unexplained_events"] == gone
        assert told in logged
    else:
        assert info["unexplained"] is info["residual"] is None
        assert "ledger_unexplained_events" not in metrics
    assert main(["info", str(archive)]) == 0
    assert f"unproven     {told}" in capfd.readouterr().out
