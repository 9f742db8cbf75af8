"""What pydantic finds wrong with the settings, in words; a value that may be a secret is never among them."""

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel

from collector.config.models import Config, config_keys
from collector.config.text import Place, Places, Problem, find_place
from collector.config.types import Secret, looks_secret

SinkTables = Mapping[int, type[BaseModel]]  # {position in [[sinks]]: model of its type}

HIDDEN = "a value that is not shown: it may be a secret"

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def describe(error: Any, places: Places, default_where: str, sinks: SinkTables) -> Problem:
    """Word one of pydantic's errors.

    Args:
      default_where: the file, for what stands in none.
    """
    loc: tuple[str | int, ...] = error["loc"]
    path = tuple(str(part) for part in loc)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if path[:1] == ("instances",) and len(path) > 2 and path[:3] not in places and ("trace", *path[2:3]) in places:
        path = ("trace", *path[2:])  # inherited
        key = "trace." + ".".join(path[1:])
    place = find_place(places, path) or Place(default_where, None)
    if error["type"] == "extra_forbidden":
        known, hint = _near_matches(path, key[: -len(path[-1]) - 1] or "the top level", sinks)
        return Problem(place.where, place.line, key, known, "an unknown key", hint)
    if error["type"] == "missing":
        return Problem(place.where, place.line, key, "a value", "no such key")
    got = HIDDEN if _is_secret(path, sinks) and not isinstance(error["input"], dict) else _without_logins(_got(error))
    return Problem(place.where, place.line, key, _without_logins(_expected(error)), got)


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
        case "value_error" | "sink_error":
            return str(context["error"])
        case other:
            return _TYPES.get(other, str(error["msg"]))


def _got(error: Any) -> str:
    value = error["input"]
    if isinstance(value, (dict, BaseModel)):
        return "this combination" if error["type"] == "value_error" else "a table"
    if isinstance(value, list) and not all(isinstance(item, (str, int, float)) for item in value):
        return "an array"  # of tables, which may have secrets in them, or of dates
    text = json.dumps(value) if isinstance(value, (str, int, float, list)) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _without_logins(text: str) -> str:
    """Leave out of an address what stands before its host, and its query: both may be keys."""
    text = re.sub(r"(?<=://)[^/@\s\"']*@", "...@", text)
    return re.sub(r"(://[^?\s\"']*\?)[^\s\"']+", r"\1...", text)


def _is_secret(path: tuple[str, ...], sinks: SinkTables) -> bool:
    """Whether the value at a path is a secret, or what somebody wrote in the place of one."""
    if path[0] != "sinks" or len(path) < 3 or int(path[1]) not in sinks:
        return False
    model = sinks[int(path[1])]
    for name in path[2:]:
        model = _model_at(model, name)
        if model is Secret:
            return True
    return any(looks_secret(name) for name in path[3:])  # of options, which have no model


def _near_matches(path: tuple[str, ...], table: str, sinks: SinkTables) -> tuple[str, str]:
    """What keys there are at an unknown key's place, which is called `table`, and which one was probably meant."""
    model: type[BaseModel] = Config
    inside = path[:-1]
    if path[0] == "instances":
        table, inside = "trace", ("trace",)
    elif path[0] == "sinks":
        model, inside = sinks[int(path[1])], path[2:-1]
    for name in inside:
        model = _model_at(model, name)
    known = f"a key of {table}"
    elsewhere = {key[-1]: ".".join(key) for key in config_keys()}
    if path[-1] in elsewhere:
        return known, f"did you mean {elsewhere[path[-1]]}?"
    if near := difflib.get_close_matches(path[-1], model.model_fields, n=1, cutoff=0.6):
        return known, f"did you mean {near[0]}?"
    if near := difflib.get_close_matches(path[-1], elsewhere, n=1, cutoff=0.8):
        return known, f"did you mean {elsewhere[near[0]]}?"
    return known, "keys here: " + ", ".join(field.alias or name for name, field in model.model_fields.items())


def _model_at(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The model of a key; of a position in an array, or a key of a table without a model, the one around it."""
    field = model.model_fields.get(name)
    return model if field is None else model_in(field.annotation) or model


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model in the type of a field, which may be optional, or of the items of an array or a table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := model_in(inner)) is not None), None)
