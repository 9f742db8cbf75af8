"""What is shipped beside the code: the unit, and the packages that are built."""

import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.config.models import Config
from collector.errors import EXIT_CONFIG, EXIT_INCOMPLETE_DRAIN, EXIT_USAGE
from collector.version import __version__

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "systemd" / "ftrace-collector.service"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT)
    return parser


def test_the_unit_leaves_time_to_drain(unit: configparser.ConfigParser) -> None:
    assert float(unit["Service"]["TimeoutStopSec"]) > Config().shutdown_timeout_s


def test_the_unit_does_not_repeat_what_cannot_work(unit: configparser.ConfigParser) -> None:
    codes = {int(code) for code in unit["Service"]["RestartPreventExitStatus"].split()}
    assert codes == {EXIT_USAGE, EXIT_CONFIG}
    assert EXIT_INCOMPLETE_DRAIN not in codes  # the next start adopts what was left


@pytest.mark.parametrize("trap", ["ProtectKernelTunables", "ProtectKernelLogs", "PrivatePIDs", "PrivateUsers"])
def test_the_unit_keeps_clear_of_what_breaks_tracing(trap: str, unit: configparser.ConfigParser) -> None:
    assert trap not in unit["Service"]


def test_the_unit_can_write_the_archive_it_is_configured_for(unit: configparser.ConfigParser) -> None:
    folder = re.search(r'(?m)^folder = "/var/lib/([^/"]+)/', (ROOT / "systemd" / "config.toml").read_text())
    assert folder is not None
    assert unit["Service"]["StateDirectory"] == folder[1]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze: install systemd")
def test_systemd_understands_every_line_of_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text()))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    assert UNIT.name not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr


LEFT_BEHIND = shutil.ignore_patterns(
    ".*", "build", "dist", "traces", "*.so", "*.c", "*.egg-info", "__pycache__", "*.pyc"
)


@pytest.mark.network
@pytest.mark.timeout(900)
def test_the_packages_build_from_the_source_and_work_alone(
    tmp_path: Path, recorded_case: Callable[[str], Path]
) -> None:
    """The sdist from the tree, the wheel from the sdist, and that in an environment of its own, away from the tree."""

    def run(*words: object) -> str:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=tmp_path, timeout=600)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    source, dist, environment = tmp_path / "source", tmp_path / "dist", tmp_path / "environment"
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    run(sys.executable, "-m", "build", "--outdir", dist, source)
    (wheel,) = dist.glob("*.whl")
    assert len(list(dist.glob("*.tar.gz"))) == 1
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "venv", environment)
    run(python, "-m", "pip", "install", "--quiet", wheel)
    command = environment / "bin" / "ftrace-collector"
    assert run(command, "version").startswith(f"ftrace-collector {__version__}, ")
    assert run(python, "-m", "collector", "version") == run(command, "version")
    run(command, "run", "--replay", recorded_case("6.18/marker"), "--output", tmp_path / "archive")
    run(command, "verify", tmp_path / "archive")
    script = "import collector, pathlib, sys; print(len(collector.list_segments([pathlib.Path(sys.argv[1])])))"
    assert run(python, "-c", script, tmp_path / "archive") == "1\n"
