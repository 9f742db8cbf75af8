"""[[sinks]]: each table is validated by the model of its own type, which the caller hands in."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from collector.config.types import SinkSection
from collector.errors import ConfigError

# {type of sink: imports and gives the model of its settings}
SinkModels = Mapping[str, Callable[[], type[SinkSection]]]

Error = dict[str, Any]  # as pydantic's errors() gives them: loc, type, input, ctx, msg; type sink_error is our own


def validate_sinks(
    tables: object, models: SinkModels
) -> tuple[tuple[SinkSection, ...], list[Error], dict[int, type[BaseModel]]]:
    """Validate each table by its model.

    Args:
      tables: what the configuration has for `sinks`.
    Returns:
      (settings in order, everything that is wrong, {position: model} of the tables whose type is known).
    """
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        # Of an array not what is in it: half of it may be tables with secrets.
        return (), [_error(("sinks",), "tables [[sinks]]", [{}] if isinstance(tables, list) else tables)], {}
    settings: list[SinkSection] = []
    errors: list[Error] = []
    found: dict[int, type[BaseModel]] = {}
    names: set[str] = set()
    for position, table in enumerate(tables):
        name = table.get("name") or table.get("type")
        if isinstance(name, str):  # anything else is refused below
            if name in names:
                errors.append(_error(("sinks", position, "name"), "a name of its own for each sink", name))
            names.add(name)
        kind = table.get("type")
        if not isinstance(kind, str) or kind not in models:
            known = ", ".join(f'"{name}"' for name in models) or "a type of sink; this program has none"
            errors.append(_error(("sinks", position, "type"), f"one of {known}" if models else known, kind))
            continue
        try:
            found[position] = model = models[kind]()
            settings.append(model.model_validate(table))
        except ConfigError as e:
            errors.append(_error(("sinks", position, "type"), f"a type whose library is installed: {e}", kind))
        except ValidationError as e:
            for error in e.errors(include_url=False):
                errors.append({**error, "loc": ("sinks", position, *error["loc"])})
    return tuple(settings), errors, found


def check_spools(sinks: Sequence[BaseModel], archive: Path) -> Iterator[Error]:
    """Find sinks whose spool is the archive, or another's: the second one to lock a folder could not start.

    Args:
      sinks: the settings of all, in order.
    """
    owners = {archive.resolve(): "the archive"}
    for position, settings in enumerate(sinks):
        if not isinstance(settings, SinkSection) or (folder := settings.spool_path(archive)) is None:
            continue
        owner = owners.setdefault(folder.resolve(), f"sinks[{position}]")
        if owner != f"sinks[{position}]":
            expected = f"a folder of its own, other than that of {owner}"
            yield _error(("sinks", position, "spool_folder"), expected, str(folder))


def _error(loc: tuple[str | int, ...], expected: str, got: object) -> Error:
    return {"loc": loc, "type": "sink_error", "input": got, "ctx": {"error": expected}, "msg": expected}
