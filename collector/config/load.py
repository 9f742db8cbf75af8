"""Loading the configuration: TOML text to frozen models (models.py), every error of it at once.

Every key has a default, so that no file is needed. Later files overlay earlier ones key by
key, the command line overlays all files. An unknown key is an error: a setting that is
silently ignored is worse than a daemon that does not start.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from collector.config.models import Config
from collector.config.problems import describe
from collector.config.sinks import SinkModels, check_spools, validate_sinks
from collector.config.text import (
    InvalidConfigError,
    Layer,
    Override,
    Place,
    Places,
    Problem,
    find_lines,
    find_place,
    inherit_keys,
    overlay,
    parse_layer,
)
from collector.errors import ConfigError

# Settings of which there are several: a later file replaces all of them.
ARRAYS = ("instances", "sinks")


@dataclass(frozen=True, slots=True)
class LoadedConfig:
    """A configuration, and where it comes from."""

    config: Config
    places: Places

    def place_of(self, *path: str) -> str:
        """Where a setting, or the table that it would be in, stands, for messages; "default" for nowhere."""
        if path[0] == "instances" and path not in self.places and (inherited := ("trace", *path[2:])) in self.places:
            path = inherited
        return str(find_place(self.places, path) or "default")


def read_layers(paths: Sequence[Path]) -> list[Layer]:
    """Read the files.

    Raises:
      ConfigError: one cannot be read.
    """
    layers = []
    for path in paths:
        try:
            layers.append(Layer(str(path), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
            raise ConfigError(
                "the configuration cannot be read",
                where=str(path),
                got=str(reason),
                hint="check the path given with -c",
            ) from e
    return layers


def load_config(
    paths: Sequence[Path], overrides: Sequence[Override] = (), sink_models: SinkModels | None = None
) -> Config:
    """Read the files and overlay them, in order, then the command line's values.

    Args:
      sink_models: {type: model} of [[sinks]]; without it there may be none.
    Raises:
      InvalidConfigError: with every problem of every file.
      ConfigError: a file cannot be read.
    """
    return parse_layers(read_layers(paths), overrides, sink_models)


def parse_config(text: str, where: str, sink_models: SinkModels | None = None) -> Config:
    """Parse one TOML text.

    Raises:
      InvalidConfigError: with every problem.
    """
    return parse_layers([Layer(where, text)], sink_models=sink_models)


def parse_layers(
    layers: Sequence[Layer], overrides: Sequence[Override] = (), sink_models: SinkModels | None = None
) -> Config:
    """As load_layers(), without the places."""
    return load_layers(layers, overrides, sink_models).config


def load_layers(
    layers: Sequence[Layer], overrides: Sequence[Override] = (), sink_models: SinkModels | None = None
) -> LoadedConfig:
    """Overlay TOML texts and single values, and validate the result once.

    Args:
      sink_models: {type: model} of [[sinks]]; without it there may be none.
    Raises:
      InvalidConfigError: with every problem.
    """
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    places: dict[tuple[str, ...], Place] = {}
    for layer in layers:
        table = parse_layer(layer)
        if isinstance(table, Problem):
            problems.append(table)
            continue
        overlay(merged, table)
        places = {key: place for key, place in places.items() if key[0] not in ARRAYS or key[0] not in table}
        places.update({key: Place(layer.where, line) for key, line in find_lines(layer.text).items()})
    for override in overrides:
        nested: object = override.value
        for name in reversed(override.key):
            nested = {name: nested}
        assert isinstance(nested, dict)
        overlay(merged, nested)
        places[override.key] = Place(override.option, None)
    inherited = inherit_keys(merged, overrides)
    sinks, sink_errors, models = validate_sinks(merged.pop("sinks", []), sink_models or {})
    files = layers[-1].where if layers else "command line"
    problems += [describe(error, places, files, models) for error in sink_errors]
    try:
        config = Config.model_validate(merged | {"sinks": sinks})
        if not sink_errors:
            spool_errors = check_spools(config.sinks, Path(config.archive.folder))
            problems += [describe(error, places, files, models) for error in spool_errors]
    except ValidationError as e:
        # An instance has all of [trace] in it, and says what is wrong there too.
        errors = [x for x in e.errors(include_url=False) if not (inherited and x["loc"][:1] == ("trace",))]
        problems += dict.fromkeys(describe(error, places, files, {}) for error in errors)
    if problems:
        raise InvalidConfigError(problems)
    return LoadedConfig(config, places)
