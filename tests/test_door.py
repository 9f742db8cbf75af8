"""collector/__init__.py: the names for programs that read archives, each imported when it is first asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import collector

HEAVY = "{'trio', 'pydantic', 'prometheus_client', 'hypercorn', 'sinks', 'collector.run'}"
ROOT = Path(__file__).parents[1]


def run(script: str) -> str:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_imports_nothing_of_it() -> None:
    script = "import sys, collector; print([name for name in sys.modules if name.startswith('collector.')])"
    assert run(script) == "[]\n"


def test_no_name_imports_anything_heavy() -> None:
    script = f"import sys; from collector import *; print({HEAVY} & set(sys.modules))"
    assert run(script) == "set()\n"


def test_each_name_is_there_and_listed() -> None:
    for name in collector.__all__:
        assert getattr(collector, name) is not None
    assert set(collector.__all__) <= set(dir(collector))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        collector.nonsense  # noqa: B018
