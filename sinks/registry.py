"""Which types of sinks there are. Each is imported when it is used, and with it the libraries that it needs."""

from collections.abc import Callable, Mapping

from collector.errors import ConfigError
from sinks.options import SinkCommon, SinkType

Loader = Callable[[], SinkType]


def _kafka() -> SinkType:
    from sinks.kafka.sink import SINK

    return SINK


def _stream() -> SinkType:
    from sinks.stream.sink import SINK

    return SINK


# {type in the configuration: imports it}; a loader is a function that imports SINK and returns it.
LOADERS: Mapping[str, Loader] = {"kafka": _kafka, "stream": _stream}


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
        raise ConfigError(
            f"sinks of type {name} need a library that is not installed",
            got=f"no module {e.name}",
            hint=f"pip install 'ftrace-collector[{name}]'",
        ) from e


def models() -> dict[str, Callable[[], type[SinkCommon]]]:
    """{type: imports it and gives the model of its settings}."""
    return {name: lambda name=name: load_type(name).options for name in LOADERS}  # type: ignore[misc]
