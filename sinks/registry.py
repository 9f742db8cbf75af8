"""Which types of sinks there are. Each is imported when it is used, and with it the libraries that it needs."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import cast

from collector.errors import CollectorError, ConfigError
from sinks.contract.base import Follower, SinkContext, Transport
from sinks.contract.options import SinkCommon, SinkType

Loader = Callable[[], SinkType]


def _from(module: str) -> Loader:
    return lambda: cast(SinkType, import_module(module).SINK)


# {type in the configuration: imports it}
LOADERS: Mapping[str, Loader] = {
    "forward": _from("sinks.forward.sink"),
    "kafka": _from("sinks.kafka.sink"),
    "objectstore": _from("sinks.objectstore.sink"),
    "stream": _from("sinks.stream.sink"),
    "tap": _from("sinks.tap.sink"),
}


def load_type(name: str) -> SinkType:
    """Import a type of sink.

    Raises:
      ConfigError: the library that it needs is not installed.
      KeyError: there is no such type.
    """
    load = LOADERS[name]
    try:
        return load()
    except ModuleNotFoundError as e:
        if e.name is None or e.name.partition(".")[0] in ("collector", "sinks"):
            raise  # no extra has it: what is installed is not whole
        raise ConfigError(
            f"sinks of type {name} need a library that is not installed",
            got=f"no module {e.name}",
            hint=f"pip install 'ftrace-collector[{name}]'",
        ) from e


def build_all(all_options: Sequence[object], about: SinkContext) -> list[Transport | Follower | CollectorError]:
    """Build each sink, without connecting; gives in its place what was made, or why it cannot be."""
    built: list[Transport | Follower | CollectorError] = []
    for options in all_options:
        assert isinstance(options, SinkCommon)
        where = f"sink {options.title}"
        try:
            built.append(load_type(options.type).build(options, about))
        except CollectorError as e:
            built.append(e if e.where == where else ConfigError(str(e), where=where))
    return built


def models() -> dict[str, Callable[[], type[SinkCommon]]]:
    """{type: imports it and gives the model of its settings}."""
    return {name: lambda name=name: load_type(name).options for name in LOADERS}  # type: ignore[misc]
