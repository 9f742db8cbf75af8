"""What each command of the command line does: words to calls, results to stdout.

They import what they need when they run: `show` pays neither for trio nor for pydantic.
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from collector import __version__
from collector.errors import EXIT_FAILURE, EXIT_OK, CollectorError, ConfigError, UsageError, raise_all

if TYPE_CHECKING:
    from collector.config import LoadedConfig, Override
    from collector.tracefs.files import TracefsDir

PROGRAM = "ftrace-collector"


def build_overrides(args: argparse.Namespace) -> "list[Override]":
    """The options of `run` and `check` as settings."""
    from collector.config import Override

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


def _load(args: argparse.Namespace) -> "LoadedConfig":
    from collector.config import load_layers, read_layers
    from collector.daemon import SINK_MODELS

    return load_layers(read_layers(args.config), build_overrides(args), SINK_MODELS)


def run(args: argparse.Namespace) -> int:
    config = _load(args).config
    from collector.daemon import run

    return run(config, replay=args.replay, duration_s=args.duration)


def check(args: argparse.Namespace) -> int:
    loaded = _load(args)
    config = loaded.config
    from collector.daemon import check_sinks
    from collector.tracefs.files import TracefsDir, find_tracefs

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
    clock = ", ".join(dict.fromkeys(trace.clock for trace in config.instances()))
    print(f"configuration ok; {found} events, clock {clock}, archive {config.archive.folder}")
    return EXIT_OK


def _compare(loaded: "LoadedConfig", tracefs: "TracefsDir", clocks: Sequence[str]) -> tuple[int, list[str]]:
    """Look for clocks and events in the kernel; gives how many events there are, and what there is not."""
    found, wrong = 0, []
    instances = loaded.config.instances()
    for position, trace in enumerate(instances):
        table = ("instances", str(position)) if loaded.config.instance_tables else ("trace",)
        if trace.clock not in clocks:
            place = loaded.place_of(*table, "clock")
            wrong.append(f"{place}: trace.clock: expected one of {', '.join(clocks)}, got {trace.clock}")
        for pattern in trace.events:
            try:
                found += len(tracefs.match_events([pattern]))
            except UsageError as e:
                wrong.append(f"{loaded.place_of(*table, 'events')}: trace.events: {e}")
    return found, list(dict.fromkeys(wrong))  # instances share what is in [trace]


def config_show(args: argparse.Namespace) -> int:
    loaded = _load(args)
    from collector.config_show import format_config

    print(format_config(loaded), end="")
    return EXIT_OK


def config_default(args: argparse.Namespace) -> int:
    from collector.config_show import format_defaults

    print(format_defaults(), end="")
    return EXIT_OK


def doctor(args: argparse.Namespace) -> int:
    config = _load(args).config
    from collector.examine import examine
    from collector.tracefs.doctor import format_report

    report = examine(config)
    if args.json:
        import json

        print(json.dumps(report.summary(), indent=2))
    else:
        print(format_report(report), end="")
    return EXIT_OK if report.can_run else EXIT_FAILURE


def cleanup(args: argparse.Namespace) -> int:
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.journal import Journals
    from collector.tracefs.leftovers import clean_up, find_leftovers

    tracefs, journals = TracefsDir(find_tracefs()), Journals.of_system()
    names = args.instances or [left.instance for left in find_leftovers(tracefs, journals)]
    problems = []
    for name in names:
        try:
            print(clean_up(tracefs, journals, name, keep_entries=args.keep_entries))
        except CollectorError as error:
            problems.append(error)
    if not names:
        print("nothing is left of a killed run")
    raise_all(problems)
    return EXIT_OK


def list_(args: argparse.Namespace) -> int:
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.listing import LISTERS
    from collector.view.tables import columns_of, write_rows

    rows = LISTERS[args.what](TracefsDir(find_tracefs()), args.glob, args.instance)
    style: Literal["table", "lines", "json"] = "table" if sys.stdout.isatty() else "lines"
    count = write_rows(columns_of(args.what), rows, sys.stdout, "json" if args.json else style)
    if not count and args.glob != "*":
        print(f"{PROGRAM}: none of the {args.what} matches {args.glob!r}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_OK


def plan(args: argparse.Namespace) -> int:
    config = _load(args).config
    import json

    from collector.desired import describe, preview
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.journal import Journals

    tracefs = TracefsDir(find_tracefs())
    for trace in config.instances():
        for write in preview(trace, tracefs, Journals.of_system()):
            if args.json:
                print(json.dumps({"instance": trace.instance, **describe(write)}))
            else:
                own = write.scope == "instance" and not trace.top_level_buffer
                place = trace.instance if own else "top level"
                print(f"{place}: {write.file} {write.value or '(empty)'}  [undone by: {write.undone_by}]")
    return EXIT_OK


def snapshot(args: argparse.Namespace) -> int:
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.shutter import take_of_running

    for name in take_of_running(TracefsDir(find_tracefs()), args.instances):
        print(f"{name}: snapshot taken")
    return EXIT_OK


def info(args: argparse.Namespace) -> int:
    from collector.archive.info import format_table, summarise

    summary = summarise(args.paths)
    if args.json:
        import json

        print(json.dumps(summary, indent=2))
    else:
        print(format_table(summary))
    return EXIT_OK


def verify(args: argparse.Namespace) -> int:
    from collector.archive.verify import verify_archive

    report = verify_archive(args.paths)
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    problems = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
    print(f"{report.segments} segments, {report.blocks} blocks, {report.events} events: {problems}", file=sys.stderr)
    return EXIT_FAILURE if report.problems else EXIT_OK


def recover(args: argparse.Namespace) -> int:
    from collector.archive.recover import recover_folder

    results = recover_folder(args.folder)
    for r in results:
        print(f"{r.path}: {r.reason}; {r.blocks} blocks, {r.events} events kept, {r.cut_bytes} bytes cut")
    if not results:
        print(f"{args.folder}: nothing to recover")
    return EXIT_FAILURE if any(r.reason.startswith("failed") for r in results) else EXIT_OK


def receive(args: argparse.Namespace) -> int:
    from collector.receive import ReceiveOptions, receive

    return receive(
        ReceiveOptions(
            args.listen, args.output, args.segment_bytes, args.segment_age, args.max_bytes_per_host,
            args.min_free_bytes, args.max_hosts, args.max_memory_bytes, args.cert, args.key, args.client_ca, args.http,
            args.log_format,
        )
    )  # fmt: skip


def pin(args: argparse.Namespace) -> int:
    from collector.archive.pins import list_pins, pin_stretch

    if args.name is None:
        for line in list_pins(args.folder):
            print(line)
        return EXIT_OK
    if args.since is None:
        raise UsageError("a pin needs a beginning", hint="add --from TIME")
    from collector.view.times import parse_wall_ns

    until_ns = None if args.until is None else parse_wall_ns(args.until)
    for path in pin_stretch(args.folder, args.name, parse_wall_ns(args.since), until_ns):
        print(path)
    return EXIT_OK


def unpin(args: argparse.Namespace) -> int:
    from collector.archive.pins import remove_pin

    remove_pin(args.folder, args.name)
    return EXIT_OK


def tap(args: argparse.Namespace) -> int:
    from collector.tap import tap

    tap(args.address, sys.stdout, args.event, args.cpu, args.format, args.limit)
    return EXIT_OK


def show(args: argparse.Namespace) -> int:
    if args.reports:
        from collector.view.reports import show_reports

        damaged = show_reports(args.paths, sys.stdout, args.format)
        for damage in damaged:
            print(f"damaged: {damage}", file=sys.stderr)
        return EXIT_FAILURE if damaged else EXIT_OK
    from collector.view.show import show_paths

    shown = show_paths(
        args.paths,
        sys.stdout,
        since=args.since,
        until=args.until,
        cpus=args.cpu,
        event_globs=args.event,
        pids=args.pid,
        limit=args.limit,
        format=args.format,
        time=args.time,
    )
    for damage in shown.damaged:
        print(f"damaged: {damage}", file=sys.stderr)
    return EXIT_FAILURE if shown.damaged else EXIT_OK


def version(args: argparse.Namespace) -> int:
    import platform

    print(f"{PROGRAM} {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
    return EXIT_OK
