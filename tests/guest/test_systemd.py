"""The service under a real systemd: start, status, watchdog, crash, stop. The checks are in unit.py."""

import sys
from pathlib import Path

from tests.guest.conftest import HERE, ROOT, RunGuest


def test_service_lives_and_dies_as_systemd_expects(run_guest: RunGuest) -> None:
    command = Path(sys.executable).with_name("ftrace-collector")
    assert command.exists(), f"no {command}: run `make build`"
    done = run_guest("systemd", "6.12", sys.executable, HERE / "unit.py", command, ROOT / "systemd", timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
