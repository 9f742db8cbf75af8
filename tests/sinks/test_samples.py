"""Each sink's sample.toml is a configuration, also with every commented line in it."""

import re
from pathlib import Path

import pytest

from collector.config import parse_config
from sinks.registry import LOADERS, models

SINKS = Path(__file__).parents[2] / "sinks"


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_a_sample_loads(name: str) -> None:
    pytest.importorskip(f"sinks.{name}.sink")
    text = (SINKS / name / "sample.toml").read_text()
    config = parse_config(text, "sample.toml", models())
    assert [getattr(sink, "type", None) for sink in config.sinks] == [name]


@pytest.mark.parametrize("name", sorted(LOADERS))
def test_a_sample_loads_with_all_that_is_commented(name: str) -> None:
    pytest.importorskip(f"sinks.{name}.sink")
    text = re.sub(r"^# (?!#)", "", (SINKS / name / "sample.toml").read_text(), flags=re.MULTILINE)
    config = parse_config(text, "sample.toml", models())
    assert [getattr(sink, "type", None) for sink in config.sinks] == [name]
