"""The settings in force as TOML, with where each comes from behind it: what `config show` and `config default` print.

What is printed is a configuration: read again it gives the same settings. One that is not set, and that no value can
unset, is a comment.
"""

import json
import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, BeforeValidator

from collector.config.load import LoadedConfig
from collector.config.models import Config, to_period
from collector.config.types import SinkSection, looks_secret, none_if_auto, to_cpus

# {what reads a setting: the text that it takes for None}
_WORDS = {none_if_auto: "auto", to_cpus: "all", to_period: "none"}

MASK = "***"


def format_config(loaded: LoadedConfig) -> str:
    """Give the settings with "default", FILE:LINE or the option behind each; values that may be secrets as ***."""
    config = loaded.config
    lines = list(_keys(config, (), loaded))
    for name, field in Config.model_fields.items():
        section = getattr(config, name)
        if name == "trace" and config.instance_tables:
            continue  # each instance has all that it takes from there
        if isinstance(section, BaseModel):
            lines += ["", f"[{name}]", *_keys(section, (name,), loaded)]
        elif isinstance(section, tuple):
            key = field.alias or name
            for position, table in enumerate(section):
                lines += ["", f"[[{key}]]", *_keys(table, (key, str(position)), loaded)]
    return "\n".join(lines) + "\n"


def format_defaults() -> str:
    """Give every setting but those of sinks as a comment with its default, to be changed."""
    text = format_config(LoadedConfig(Config(), {}))
    lines = [line.removesuffix("  # default") for line in text.splitlines()]
    return "".join(f"{line}\n" if not line or line.startswith("[") else f"# {line}\n" for line in lines)


def _keys(model: BaseModel, path: tuple[str, ...], loaded: LoadedConfig) -> Iterator[str]:
    for name, value in _values(model):
        if (isinstance(value, BaseModel) and not path) or name in ("instance_tables", "sinks"):
            continue  # a table of its own
        origin = loaded.place_of(*path, name) if name in model.model_fields_set else "default"
        yield f"# {name} is not set" if value is None else f"{name} = {_toml(value)}  # {origin}"


def _values(model: BaseModel) -> Iterator[tuple[str, object]]:
    """The settings that a table can have, with the word that stands for None where there is one."""
    for name, field in type(model).model_fields.items():
        if isinstance(model, SinkSection) and name in model.not_here:
            continue
        value = getattr(model, name)
        if value is None:
            functions = [each.func for each in field.metadata if isinstance(each, BeforeValidator)]
            value = next((_WORDS[function] for function in functions if function in _WORDS), None)
        yield name, value


def _toml(value: object) -> str:
    if isinstance(value, BaseModel):
        return _inline({name: inner for name, inner in _values(value) if inner is not None})
    if isinstance(value, Mapping):
        shown = {key: MASK if looks_secret(str(key)) and not isinstance(of, BaseModel) else of
                 for key, of in value.items()}  # fmt: skip
        return _inline(shown)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        return _text(value)
    return json.dumps(value)


def _inline(table: Mapping[str, object]) -> str:
    if not table:
        return "{}"
    return "{ " + ", ".join(f"{_key(str(key))} = {_toml(value)}" for key, value in table.items()) + " }"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def _text(text: str) -> str:
    """JSON's escapes are TOML's, but for one character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
