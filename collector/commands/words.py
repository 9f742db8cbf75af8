"""Words that several commands have: the configuration's options, paths, and what numbers may be."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from collector.errors import UsageError
from collector.version import PROGRAM

if TYPE_CHECKING:
    from collector.config.load import LoadedConfig
    from collector.config.text import Override

    Commands = argparse._SubParsersAction[Any]

Number = TypeVar("Number", int, float)


def config_options() -> argparse.ArgumentParser:
    """The options of every command that takes a configuration, as a parent of its parser; see load()."""
    config = argparse.ArgumentParser(add_help=False)
    config.add_argument(
        "-c",
        "--config",
        action="append",
        type=Path,
        default=[],
        metavar="FILE",
        help="TOML file; repeatable, later ones win; without: built-in defaults",
    )
    config.add_argument(
        "-e",
        "--event",
        action="append",
        metavar="SYSTEM:EVENT",
        help="event to record, with globs on both sides; repeatable; default: sched:*",
    )
    config.add_argument("--cpu", metavar="LIST", help="CPUs to trace, as in 0-3,8; default: all")
    config.add_argument("--clock", metavar="NAME", help="trace clock; default: mono, or what the tracer needs")
    config.add_argument("--buffer-size-kb", type=int, metavar="N", help="ring of each CPU")
    config.add_argument("--subbuf-size-kb", type=int, metavar="N", help="sub-buffer of the ring; see the docs")
    config.add_argument("--instance", metavar="NAME", help=f"tracing instance; default: {PROGRAM}")
    config.add_argument("--keep-instance", action="store_const", const=True, help="leave the instance behind at exit")
    config.add_argument("--output", metavar="DIR", help="folder of the archive; default: ./traces")
    config.add_argument("--http", metavar="HOST:PORT", help='metrics and health; "" for none; default: 127.0.0.1:9464')
    config.add_argument("--log-format", choices=["text", "json"], help="of the messages on stderr; default: text")
    config.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    config.add_argument("-q", "--quiet", action="count", default=0, help="log warnings only; twice: errors only")
    return config


def load(args: argparse.Namespace) -> "LoadedConfig":
    """The configuration that a command's options ask for.

    Raises:
      ConfigError: with every problem of it.
    """
    from collector.config.load import load_layers, read_layers
    from collector.run.daemon import SINK_MODELS

    return load_layers(read_layers(args.config), build_overrides(args), SINK_MODELS)


def build_overrides(args: argparse.Namespace) -> "list[Override]":
    """The options of config_options() as settings."""
    from collector.config.text import Override

    level = None
    if args.verbose:
        level = "debug"
    elif args.quiet:
        level = "warning" if args.quiet == 1 else "error"
    http = args.http
    if http is None and getattr(args, "replay", None):
        http = ""  # a replay is over before anyone could scrape it, and must not meet a daemon's port
    values = [
        (("trace", "events"), args.event, "--event"),
        (("trace", "cpus"), args.cpu, "--cpu"),
        (("trace", "clock"), args.clock, "--clock"),
        (("trace", "buffer_size_kb"), args.buffer_size_kb, "--buffer-size-kb"),
        (("trace", "subbuf_size_kb"), args.subbuf_size_kb, "--subbuf-size-kb"),
        (("trace", "instance"), args.instance, "--instance"),
        (("trace", "keep_instance"), args.keep_instance, "--keep-instance"),
        (("archive", "folder"), args.output, "--output"),
        (("http", "listen"), http, "--http"),
        (("log", "format"), args.log_format, "--log-format"),
        (("log", "level"), level, "-v/-q"),
    ]
    return [Override(key, value, option) for key, value, option in values if value is not None]


def add_paths(parser: argparse.ArgumentParser) -> None:
    """What a command that reads an archive takes."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folder of an archive, or a segment")


def cpus(text: str) -> tuple[int, ...]:
    """The type of a list of CPUs."""
    from collector.tracefs.cpus import parse_cpu_list

    try:
        found = parse_cpu_list(text)
    except UsageError:
        found = ()
    if not found:
        raise argparse.ArgumentTypeError(f"expected CPUs as in 0-3,8, got {text!r}")
    return found


def seconds(text: str) -> float:
    """The type of a time that something may take."""
    return _number(text, float, "a number of seconds above 0", above=0)


def count(text: str) -> int:
    """The type of a number of things."""
    return _number(text, int, "a whole number, 0 or more", above=-1)


def _number(text: str, kind: type[Number], expected: str, above: float) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = kind(above)
    if not above < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
