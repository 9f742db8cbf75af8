"""Each sink's sample.toml: it is valid, and the values behind a single # are the defaults."""

import re
import tomllib
from pathlib import Path

import pytest

from collector.run.daemon import SINK_MODELS
from sinks import registry

ROOT = Path(registry.__file__).parent
SAMPLES = sorted(ROOT.glob("*/sample.toml"))


def test_there_are_samples() -> None:
    assert SAMPLES


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_a_sample_is_valid_and_shows_the_defaults(path: Path) -> None:
    text = path.read_text()
    bare = tomllib.loads(text)["sinks"][0]
    model = SINK_MODELS[bare["type"]]()
    plain = model.model_validate(bare)
    shown = tomllib.loads(re.sub(r"^# ", "", text, flags=re.MULTILINE))["sinks"][0]
    tables = {key for key in shown if re.search(rf"^# \[sinks\.{key}\]", text, re.MULTILINE)}
    full = model.model_validate(shown)
    assert full.model_dump(exclude=tables) == plain.model_dump(exclude=tables)
    mentioned = set(re.findall(r"^#{0,2} ?(?:\[sinks\.)?(\w+)(?:\]| =)", text, re.MULTILINE))
    own = set(model.model_fields) - set(model.__mro__[1].model_fields)
    assert own - {"type"} <= mentioned
