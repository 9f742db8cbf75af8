"""Loading the configuration: TOML text to frozen models (config_models.py), every error of it at once.

Every key has a default, so that no file is needed. Later files overlay earlier ones key by
key, the command line overlays all files. An unknown key is an error: a setting that is
silently ignored is worse than a daemon that does not start.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from collector.config_models import ArchiveConfig, CaptureConfig, Config, HttpConfig, LogConfig
from collector.config_sinks import SinkModels, validate_sinks
from collector.config_text import (
    InvalidConfigError,
    Layer,
    Override,
    Problem,
    find_lines,
    inherit_keys,
    overlay,
    split_listen,
    syntax_problem,
)
from collector.config_trace import TraceConfig
from collector.errors import ConfigError

__all__ = [
    "ArchiveConfig", "CaptureConfig", "Config", "HttpConfig", "InvalidConfigError", "Layer", "LogConfig", "Override",
    "Problem", "SinkModels", "TraceConfig", "config_keys", "find_lines", "load_config", "parse_config",
    "parse_layers", "split_listen",
]  # fmt: skip


# Settings of which there are several: a later file replaces all of them.
ARRAYS = ("instances", "sinks")


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
    return parse_layers(layers, overrides, sink_models)


def parse_config(text: str, where: str, sink_models: SinkModels | None = None) -> Config:
    """Parse one TOML text.

    Raises:
      InvalidConfigError: with every problem.
    """
    return parse_layers([Layer(where, text)], sink_models=sink_models)


def parse_layers(
    layers: Sequence[Layer], overrides: Sequence[Override] = (), sink_models: SinkModels | None = None
) -> Config:
    """Overlay TOML texts and single values, and validate the result once.

    Args:
      sink_models: {type: model} of [[sinks]]; without it there may be none.
    Raises:
      InvalidConfigError: with every problem.
    """
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    places: dict[tuple[str, ...], tuple[str, int | None]] = {}  # {key path: (file or option, line)}, the last wins
    for layer in layers:
        try:
            table = tomllib.loads(layer.text)
        except tomllib.TOMLDecodeError as e:
            problems.append(syntax_problem(layer, e))
            continue
        overlay(merged, table)
        places = {key: place for key, place in places.items() if key[0] not in ARRAYS or key[0] not in table}
        places.update({key: (layer.where, line) for key, line in find_lines(layer.text).items()})
    for override in overrides:
        nested: object = override.value
        for name in reversed(override.key):
            nested = {name: nested}
        assert isinstance(nested, dict)
        overlay(merged, nested)
        places[override.key] = (override.option, None)
    inherit_keys(merged, overrides)
    sinks, sink_errors, models = validate_sinks(merged.pop("sinks", []), sink_models or {})
    files = layers[-1].where if layers else "command line"
    problems += [_problem(error, places, files, models) for error in sink_errors]
    try:
        config = Config.model_validate(merged | {"sinks": sinks})
    except ValidationError as e:
        # An instance has all of [trace] in it, and says what is wrong there too.
        in_instances = merged.get("instances")
        errors = [x for x in e.errors(include_url=False) if not (in_instances and x["loc"][:1] == ("trace",))]
        problems += dict.fromkeys(_problem(error, places, files, {}) for error in errors)
    if problems:
        raise InvalidConfigError(problems)
    return config


def _problem(
    error: Any,
    places: Mapping[tuple[str, ...], tuple[str, int | None]],
    default_where: str,
    sink_models: Mapping[int, type[BaseModel]],  # {position in [[sinks]]: model}
) -> Problem:
    """Word one of pydantic's errors."""
    loc: tuple[str | int, ...] = error["loc"]
    path = tuple(str(part) for part in loc)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if path[:1] == ("instances",) and len(path) > 2 and path[:3] not in places and ("trace", *path[2:3]) in places:
        path = ("trace", *path[2:])  # inherited
        key = "trace." + ".".join(path[1:])
    where: str = default_where
    line: int | None = None
    for length in range(len(path), 0, -1):  # the key itself, or the nearest table that stands in the text
        if path[:length] in places:
            where, line = places[path[:length]]
            break
    if error["type"] == "extra_forbidden":
        known, hint = _near_matches(path, sink_models)
        return Problem(where, line, key, known, "an unknown key", hint)
    if error["type"] == "missing":
        return Problem(where, line, key, "a value", "no such key")
    return Problem(where, line, key, _expected(error), _got(error))


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _expected(error: Any) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "greater_than":
            return f"more than {context['gt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "literal_error":
            return f"one of {context['expected']}"
        case "value_error":
            return str(context["error"])
        case other:
            return _TYPES.get(other, str(error["msg"]))


def _got(error: Any) -> str:
    value = error["input"]
    if isinstance(value, (dict, BaseModel)):
        return "this combination" if error["type"] == "value_error" else "a table"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = json.dumps(value) if isinstance(value, (str, int, float, list)) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _near_matches(path: tuple[str, ...], sink_models: Mapping[int, type[BaseModel]]) -> tuple[str, str]:
    """What keys there are at an unknown key's place, and which one was probably meant."""
    model: type[BaseModel] = Config
    table = ".".join(path[:-1]) or "the top level"
    inside = path[:-1]
    if path[0] == "instances":
        table, inside = "trace", ("trace",)
    elif path[0] == "sinks":
        model, inside = sink_models[int(path[1])], path[2:-1]
        table = ".".join((f"sinks[{path[1]}]", *inside))
    for name in inside:
        if (inner := _model_of(model.model_fields[name].annotation)) is not None:
            model = inner
    known = f"a key of {table}"
    elsewhere = {key[-1]: ".".join(key) for key in config_keys()}
    if path[-1] in elsewhere:
        return known, f"did you mean {elsewhere[path[-1]]}?"
    if near := difflib.get_close_matches(path[-1], model.model_fields, n=1, cutoff=0.6):
        return known, f"did you mean {near[0]}?"
    if near := difflib.get_close_matches(path[-1], elsewhere, n=1, cutoff=0.8):
        return known, f"did you mean {elsewhere[near[0]]}?"
    return known, "keys here: " + ", ".join(field.alias or name for name, field in model.model_fields.items())


def _model_of(annotation: object) -> type[BaseModel] | None:
    """The model in the type of a field, which may be optional."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def config_keys() -> list[tuple[str, ...]]:
    """The path of every setting, in the order of the models."""
    keys: list[tuple[str, ...]] = []
    for name, field in Config.model_fields.items():
        if name == "sinks" or field.alias is not None:
            continue  # [[instances]] has the keys of [trace], each of [[sinks]] those of its type
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [(name, inner) for inner in field.annotation.model_fields]
        else:
            keys.append((name,))
    return keys
