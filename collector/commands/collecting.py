"""The commands that collect, or say what a configuration means: run, check, plan, config, snapshot."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from collector.commands import words
from collector.errors import EXIT_OK, CollectorError, ConfigError, UsageError, raise_all
from collector.version import PROGRAM

if TYPE_CHECKING:
    from collector.commands.words import Commands
    from collector.config.load import LoadedConfig
    from collector.config.trace import TraceConfig
    from collector.tracefs.files import TracefsDir


def register(commands: "Commands") -> None:
    config = words.config_options()
    run_words = commands.add_parser(
        "run",
        parents=[config],
        help="collect until stopped",
        description="Collects until SIGINT or SIGTERM, then drains and seals.",
    )
    run_words.add_argument("--duration", type=words.seconds, metavar="S", help="stop by itself after so many seconds")
    run_words.add_argument(
        "--replay",
        type=Path,
        metavar="CASE",
        help="take a recorded kernel instead: a folder with tracefs/, uname and kallsyms",
    )
    run_words.set_defaults(function=run)

    check_words = commands.add_parser(
        "check", parents=[config], help="check the configuration, and the kernel against it"
    )
    check_words.set_defaults(function=check)

    plan_words = commands.add_parser("plan", parents=[config], help="print what `run` would write to tracefs, in order")
    plan_words.add_argument("--json", action="store_true", help="one JSON object a line")
    plan_words.set_defaults(function=plan)

    settings = commands.add_parser("config", help="print the configuration")
    whats = settings.add_subparsers(title="what to print", metavar="WHAT", required=True)
    in_force = whats.add_parser("show", parents=[config], help="all settings in force, and where each comes from")
    in_force.set_defaults(function=config_show)
    defaults = whats.add_parser("default", help="all settings but those of sinks, with their defaults, to be changed")
    defaults.set_defaults(function=config_default)

    snapshot_words = commands.add_parser(
        "snapshot",
        help="take a snapshot, which the running daemon archives",
        description='Takes a snapshot of instances that a running daemon reads with read = "snapshot".',
    )
    snapshot_words.add_argument("instances", nargs="*", metavar="INSTANCE", help="default: all such instances")
    snapshot_words.set_defaults(function=snapshot)


def run(args: argparse.Namespace) -> int:
    config = words.load(args).config
    from collector.run.daemon import run

    return run(config, replay=args.replay, duration_s=args.duration)


def check(args: argparse.Namespace) -> int:
    loaded = words.load(args)
    config = loaded.config
    from collector.run.daemon import check_sinks
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.tracers import SHARED_KEYS, explain_unheeded_shared

    errors: list[CollectorError] = []
    if wrong := [f"{loaded.place_of('sinks', str(i))}: {error}" for i, error in check_sinks(config).items()]:
        errors.append(ConfigError("these sinks cannot be started\n" + "\n".join(f"  {line}" for line in wrong)))
    try:
        tracefs = TracefsDir(find_tracefs())
        clocks = tracefs.read_clock()[1]
    except CollectorError as e:
        raise_all(errors)
        print(f"configuration ok; not compared with this kernel: {e}")
        return EXIT_OK
    found, wrong = _compare(loaded, tracefs, clocks)
    if wrong:
        errors.append(ConfigError("this kernel cannot do what is configured\n" + "\n".join(f"  {p}" for p in wrong)))
    raise_all(errors)
    clock = ", ".join(dict.fromkeys(trace.clock or "auto" for trace in config.instances()))
    print(f"configuration ok; {found} events, clock {clock}, archive {config.archive.folder}")
    for trace in config.instances():
        _print_notes(trace, explain_unheeded_shared(trace.tracer, {key: getattr(trace, key) for key in SHARED_KEYS}))
    return EXIT_OK


def _print_notes(trace: "TraceConfig", notes: Sequence[str]) -> None:
    """What is not wrong, but has no effect; `run` logs it."""
    for note in notes:
        print(f"{PROGRAM}: note: {trace.instance}: {note}", file=sys.stderr)


def _compare(loaded: "LoadedConfig", tracefs: "TracefsDir", clocks: Sequence[str]) -> tuple[int, list[str]]:
    """Look for clocks and events in the kernel; gives how many events there are, and what there is not."""
    found, wrong = 0, []
    instances = loaded.config.instances()
    for position, trace in enumerate(instances):
        table = ("instances", str(position)) if loaded.config.instance_tables else ("trace",)
        if trace.clock is not None and trace.clock not in clocks:
            place = loaded.place_of(*table, "clock")
            wrong.append(f"{place}: trace.clock: expected one of {', '.join(clocks)}, got {trace.clock}")
        for pattern in trace.events:
            try:
                found += len(tracefs.match_events([pattern]))
            except UsageError as e:
                wrong.append(f"{loaded.place_of(*table, 'events')}: trace.events: {e}")
    return found, list(dict.fromkeys(wrong))  # instances share what is in [trace]


def plan(args: argparse.Namespace) -> int:
    config = words.load(args).config
    import json

    from collector.control.desired import build_spec, describe, preview
    from collector.control.journal import Journals
    from collector.control.wish import explain_unheeded
    from collector.tracefs.files import TracefsDir, find_tracefs

    tracefs = TracefsDir(find_tracefs())
    for trace in config.instances():
        for write in preview(trace, tracefs, Journals.of_system()):
            if args.json:
                print(json.dumps({"instance": trace.instance, **describe(write)}))
            else:
                own = write.scope == "instance" and not trace.top_level_buffer
                place = trace.instance if own else "top level"
                print(f"{place}: {write.file} {write.value or '(empty)'}  [undone by: {write.undone_by}]")
        _print_notes(trace, explain_unheeded(build_spec(trace, tracefs)))
    return EXIT_OK


def config_show(args: argparse.Namespace) -> int:
    loaded = words.load(args)
    from collector.config.show import format_config

    print(format_config(loaded), end="")
    return EXIT_OK


def config_default(args: argparse.Namespace) -> int:
    from collector.config.show import format_defaults

    print(format_defaults(), end="")
    return EXIT_OK


def snapshot(args: argparse.Namespace) -> int:
    from collector.control.shutter import take_of_running
    from collector.tracefs.files import TracefsDir, find_tracefs

    for name in take_of_running(TracefsDir(find_tracefs()), args.instances):
        print(f"{name}: snapshot taken")
    return EXIT_OK
