"""The command line: words to calls, errors to messages and exit codes. Nothing else happens here.

Commands import what they need when they run: `show` pays neither for trio nor for pydantic.
Results go to stdout, everything else to stderr.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn, TypeVar

from collector import __version__
from collector.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, CollectorError, ConfigError, UsageError

if TYPE_CHECKING:
    from collector.config import Config, Override

PROGRAM = "ftrace-collector"
Number = TypeVar("Number", int, float)

# The shells' convention for a process that a signal ended.
EXIT_INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """argparse, with the exit code of sysexits.h for a wrong command line."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (see collector.errors)."""
    args = build_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.function
    try:
        code = command(args)
        sys.stdout.flush()
        return code
    except CollectorError as e:
        return _report([e])
    except BaseExceptionGroup as group:
        ours, others = group.split(CollectorError)
        if ours is None or others is not None:
            traceback.print_exc()
            return EXIT_FAILURE
        return _report(_leaves(ours))
    except BrokenPipeError:
        # The reader of our output, such as `head`, has seen enough. Python would complain
        # once more when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception:
        traceback.print_exc()
        return EXIT_FAILURE


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    parser = _Parser(prog=PROGRAM, description="Collects the Linux kernel's ftrace ring buffers into an archive.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    config = _Parser(add_help=False)
    config.add_argument("-c", "--config", action="append", type=Path, default=[], metavar="FILE",
                        help="TOML file; repeatable, later ones win; without: built-in defaults")  # fmt: skip
    config.add_argument("-e", "--event", action="append", metavar="SYSTEM:EVENT",
                        help="event to record, with globs on both sides; repeatable; default: sched:*")  # fmt: skip
    config.add_argument("--cpu", metavar="LIST", help="CPUs to trace, as in 0-3,8; default: all")
    config.add_argument("--clock", metavar="NAME", help="trace clock; default: mono")
    config.add_argument("--buffer-size-kb", type=int, metavar="N", help="ring of each CPU")
    config.add_argument("--subbuf-size-kb", type=int, metavar="N", help="sub-buffer of the ring; see the docs")
    config.add_argument("--instance", metavar="NAME", help=f"tracing instance; default: {PROGRAM}")
    config.add_argument("--keep-instance", action="store_const", const=True, help="leave the instance behind at exit")
    config.add_argument("--output", metavar="DIR", help="folder of the archive; default: ./traces")
    config.add_argument("--http", metavar="HOST:PORT", help='metrics and health; "" for none; default: 127.0.0.1:9464')
    config.add_argument("--log-format", choices=["text", "json"], help="of the messages on stderr; default: text")
    config.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    config.add_argument("-q", "--quiet", action="count", default=0, help="log warnings only; twice: errors only")

    run = commands.add_parser("run", parents=[config], help="collect until stopped",
                              description="Collects until SIGINT or SIGTERM, then drains and seals.")  # fmt: skip
    run.add_argument("--duration", type=_seconds, metavar="S", help="stop by itself after so many seconds")
    run.add_argument("--replay", type=Path, metavar="CASE",
                     help="take a recorded kernel instead: a folder with tracefs/, uname and kallsyms")  # fmt: skip
    run.set_defaults(function=_run)

    check = commands.add_parser("check", parents=[config], help="check the configuration, and the kernel against it")
    check.set_defaults(function=_check)

    plan = commands.add_parser("plan", parents=[config], help="print what `run` would write to tracefs, in order")
    plan.add_argument("--json", action="store_true", help="one JSON object a line")
    plan.set_defaults(function=_plan)

    doctor = commands.add_parser("doctor", parents=[config], help="say what this kernel can do, and what is in the way")
    doctor.add_argument("--json", action="store_true", help="one JSON object instead of a report")
    doctor.set_defaults(function=_doctor)

    cleanup = commands.add_parser("cleanup", help="take away what killed runs left in tracefs",
                                  description="Restores what they changed, and removes their instances.")  # fmt: skip
    cleanup.add_argument("instances", nargs="*", metavar="INSTANCE",
                         help="of these; default: of all runs that were killed")  # fmt: skip
    cleanup.add_argument("--keep-entries", action="store_true",
                         help="leave an instance that has unread entries for the next start to archive")  # fmt: skip
    cleanup.set_defaults(function=_cleanup)

    listing = commands.add_parser("list", help="list what this kernel has, and who uses it")
    listing.add_argument("what", choices=["tracers", "events", "functions", "options", "clocks", "instances"],
                         help="functions: those that filters can name")  # fmt: skip
    listing.add_argument("glob", nargs="?", default="*", metavar="GLOB",
                         help="only those whose name matches; SYSTEM:EVENT for events")  # fmt: skip
    listing.add_argument("--instance", metavar="NAME", help="of that tracing instance; default: the top level")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(function=_list)

    snapshot = commands.add_parser(
        "snapshot", help="take a snapshot, which the running daemon archives",
        description='Takes a snapshot of instances that a running daemon reads with read = "snapshot".',
    )  # fmt: skip
    snapshot.add_argument("instances", nargs="*", metavar="INSTANCE", help="default: all such instances")
    snapshot.set_defaults(function=_snapshot)

    info = commands.add_parser("info", help="say what an archive holds")
    _add_paths(info)
    info.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    info.set_defaults(function=_info)

    verify = commands.add_parser("verify", help="check every byte and the accounting; exit 1 on any damage")
    _add_paths(verify)
    verify.set_defaults(function=_verify)

    recover = commands.add_parser("recover", help="seal what a crash left open")
    recover.add_argument("folder", type=Path, metavar="DIR")
    recover.set_defaults(function=_recover)

    receive = commands.add_parser("receive", help="keep archives of other hosts, which send them here",
                                  description="Takes what sinks of type stream send, until SIGINT or SIGTERM.")
    receive.add_argument("--listen", required=True, metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    receive.add_argument("--output", type=Path, required=True, metavar="DIR", help="has a folder per host")
    receive.add_argument("--cert", metavar="FILE", help="TLS: our certificate, PEM")
    receive.add_argument("--key", metavar="FILE", help="its key; default: in the same file")
    receive.add_argument("--client-ca", metavar="FILE",
                         help="a host needs a certificate of this authority, for its name")
    receive.add_argument("--max-bytes-per-host", type=_count, default=10 << 30, metavar="N",
                         help="the oldest segments of a host go; default: 10 GiB")  # fmt: skip
    receive.add_argument("--segment-bytes", type=_count, default=128 << 20, metavar="N",
                         help="size that seals a segment; default: 128 MiB")  # fmt: skip
    receive.add_argument("--segment-age", type=_seconds, default=3600.0, metavar="S",
                         help="age that seals a segment; default: 3600")  # fmt: skip
    receive.add_argument("--min-free-bytes", type=_count, default=1 << 30, metavar="N",
                         help="with less on the disk nothing is taken; default: 1 GiB")  # fmt: skip
    receive.add_argument("--max-hosts", type=_count, default=4096, metavar="N", help="default: 4096")
    receive.add_argument("--log-format", choices=["text", "json"], default="text",
                         help="of the messages on stderr; default: text")  # fmt: skip
    receive.set_defaults(function=_receive)

    pin = commands.add_parser("pin", help="keep a stretch of an archive from being removed, or list what is kept")
    pin.add_argument("folder", type=Path, metavar="DIR")
    pin.add_argument("--name", metavar="NAME", help="what to call it; without it the pins are listed")
    pin.add_argument("--from", dest="since", metavar="TIME", help="a time such as 2026-01-31T12:00; local, or with Z")
    pin.add_argument("--to", dest="until", metavar="TIME", help="likewise, also in the future; default: now")
    pin.set_defaults(function=_pin)

    unpin = commands.add_parser("unpin", help="let what was pinned be removed again")
    unpin.add_argument("folder", type=Path, metavar="DIR")
    unpin.add_argument("--name", metavar="NAME", required=True, help="of the pin")
    unpin.set_defaults(function=_unpin)

    tap = commands.add_parser("tap", help="print what a running daemon collects, as it comes",
                              description="Needs a sink of type tap in the daemon's configuration.")  # fmt: skip
    tap.add_argument("address", nargs="?", default="unix:/run/ftrace-collector/tap.sock", metavar="ADDRESS",
                     help="unix:PATH of its socket; default: unix:/run/ftrace-collector/tap.sock")  # fmt: skip
    tap.add_argument("--event", action="append", metavar="SYSTEM:EVENT", help="only these, with globs; repeatable")
    tap.add_argument("--cpu", type=_cpus, metavar="LIST", help="only these CPUs")
    tap.add_argument("--format", choices=["fields", "json"], default="fields", help="default: fields")
    tap.add_argument("--limit", type=_count, metavar="N", help="stop after so many events")
    tap.set_defaults(function=_tap)

    show = commands.add_parser("show", help="print events")
    _add_paths(show)
    moment = "the trace clock's value as in ts_ns, its seconds with a point, or a time such as 2026-01-31T12:00"
    show.add_argument("--since", metavar="TIME", help=f"from then on; {moment}")
    show.add_argument("--until", metavar="TIME", help="up to then, included")
    show.add_argument("--cpu", type=_cpus, metavar="LIST", help="CPUs, as in 0-3,8")
    show.add_argument("-e", "--event", action="append", metavar="SYSTEM:EVENT", help="with globs; repeatable")
    show.add_argument("--pid", action="append", type=int, metavar="N", help="thread id; repeatable")
    show.add_argument("--limit", type=_count, metavar="N", help="print so many events at most")
    show.add_argument("--format", choices=["fields", "json"], default="fields",
                      help="fields: name=value; json: one object a line")  # fmt: skip
    show.add_argument("--time", choices=["trace", "wall", "both"], default="trace",
                      help="trace: of the trace clock; wall: date and time, in UTC; json always has ts_ns")  # fmt: skip
    show.add_argument("--reports", action="store_true",
                      help="print the kernel's reports of largest latencies and deepest stacks instead")  # fmt: skip
    show.add_argument("--json", action="store_const", const="json", dest="format", help="the same as --format json")
    show.set_defaults(function=_show)

    version = commands.add_parser("version", help="print the versions")
    version.set_defaults(function=_version)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


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


def _load(args: argparse.Namespace) -> "Config":
    from collector.config import load_config
    from collector.daemon import SINK_MODELS

    return load_config(args.config, build_overrides(args), SINK_MODELS)


def _run(args: argparse.Namespace) -> int:
    config = _load(args)
    from collector.daemon import run

    return run(config, replay=args.replay, duration_s=args.duration)


def _check(args: argparse.Namespace) -> int:
    config = _load(args)
    from collector.tracefs.files import TracefsDir, find_tracefs

    try:
        tracefs = TracefsDir(find_tracefs())
        clocks = tracefs.read_clock()[1]
    except CollectorError as e:
        print(f"configuration ok; not compared with this kernel: {e}")
        return EXIT_OK
    problems = []
    if config.trace.clock not in clocks:
        problems.append(f"trace.clock: expected one of {', '.join(clocks)}, got {config.trace.clock}")
    found = 0
    for pattern in config.trace.events:
        try:
            found += len(tracefs.match_events([pattern]))
        except UsageError as e:
            problems.append(f"trace.events: {e}")
    if problems:
        raise ConfigError("this kernel cannot do what is configured\n" + "\n".join(f"  {p}" for p in problems))
    print(f"configuration ok; {found} events, clock {config.trace.clock}, archive {config.archive.folder}")
    return EXIT_OK


def _doctor(args: argparse.Namespace) -> int:
    config = _load(args)
    from collector.examine import examine
    from collector.tracefs.doctor import format_report

    report = examine(config)
    if args.json:
        import json

        print(json.dumps(report.summary(), indent=2))
    else:
        print(format_report(report), end="")
    return EXIT_OK if report.can_run else EXIT_FAILURE


def _cleanup(args: argparse.Namespace) -> int:
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.journal import Journals
    from collector.tracefs.leftovers import clean_up, find_leftovers

    tracefs, journals = TracefsDir(find_tracefs()), Journals.of_system()
    names = args.instances or [left.instance for left in find_leftovers(tracefs, journals)]
    for name in names:
        print(clean_up(tracefs, journals, name, keep_entries=args.keep_entries))
    if not names:
        print("nothing is left of a killed run")
    return EXIT_OK


def _list(args: argparse.Namespace) -> int:
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


def _plan(args: argparse.Namespace) -> int:
    config = _load(args)
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


def _snapshot(args: argparse.Namespace) -> int:
    from collector.tracefs.files import TracefsDir, find_tracefs
    from collector.tracefs.shutter import take_of_running

    for name in take_of_running(TracefsDir(find_tracefs()), args.instances):
        print(f"{name}: snapshot taken")
    return EXIT_OK


def _info(args: argparse.Namespace) -> int:
    from collector.archive.info import format_table, summarise

    summary = summarise(args.paths)
    if args.json:
        import json

        print(json.dumps(summary, indent=2))
    else:
        print(format_table(summary))
    return EXIT_OK


def _verify(args: argparse.Namespace) -> int:
    from collector.archive.verify import verify_archive

    report = verify_archive(args.paths)
    for problem in report.problems:
        print(problem)
    for note in report.notes:
        print(f"note: {note}", file=sys.stderr)
    problems = "1 problem" if len(report.problems) == 1 else f"{len(report.problems)} problems"
    print(f"{report.segments} segments, {report.blocks} blocks, {report.events} events: {problems}", file=sys.stderr)
    return EXIT_FAILURE if report.problems else EXIT_OK


def _recover(args: argparse.Namespace) -> int:
    from collector.archive.recover import recover_folder

    results = recover_folder(args.folder)
    for r in results:
        print(f"{r.path}: {r.reason}; {r.blocks} blocks, {r.events} events kept, {r.cut_bytes} bytes cut")
    if not results:
        print(f"{args.folder}: nothing to recover")
    return EXIT_FAILURE if any(r.reason.startswith("failed") for r in results) else EXIT_OK


def _receive(args: argparse.Namespace) -> int:
    from collector.receive import ReceiveOptions, receive

    return receive(
        ReceiveOptions(
            args.listen, args.output, args.segment_bytes, args.segment_age, args.max_bytes_per_host,
            args.min_free_bytes, args.max_hosts, args.cert, args.key, args.client_ca, args.log_format,
        )
    )  # fmt: skip


def _pin(args: argparse.Namespace) -> int:
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


def _unpin(args: argparse.Namespace) -> int:
    from collector.archive.pins import remove_pin

    remove_pin(args.folder, args.name)
    return EXIT_OK


def _tap(args: argparse.Namespace) -> int:
    from collector.tap import tap

    tap(args.address, sys.stdout, args.event, args.cpu, args.format, args.limit)
    return EXIT_OK


def _show(args: argparse.Namespace) -> int:
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


def _version(args: argparse.Namespace) -> int:
    import platform

    print(f"{PROGRAM} {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
    return EXIT_OK


def _add_paths(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="folder of an archive, or a segment")


def _cpus(text: str) -> tuple[int, ...]:
    from collector.tracefs.cpus import parse_cpu_list

    try:
        cpus = parse_cpu_list(text)
    except UsageError:
        cpus = ()
    if not cpus:
        raise argparse.ArgumentTypeError(f"expected CPUs as in 0-3,8, got {text!r}")
    return cpus


def _seconds(text: str) -> float:
    return _number(text, float, "a number of seconds above 0", above=0)


def _count(text: str) -> int:
    return _number(text, int, "a whole number, 0 or more", above=-1)


def _number(text: str, kind: type[Number], expected: str, above: float) -> Number:
    try:
        value = kind(text)
    except ValueError:
        value = kind(above)
    if not above < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value


def _leaves(group: BaseExceptionGroup[CollectorError]) -> list[CollectorError]:
    found: list[CollectorError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _report(errors: Sequence[CollectorError]) -> int:
    """Say each once, with what `doctor` knows about it; the first decides the exit code."""
    from collector.tracefs.doctor import explain

    for message, error in {str(e): e for e in errors}.items():
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        explanation = explain(error)
        if explanation and explanation not in message:
            print(f"{PROGRAM}: {explanation}", file=sys.stderr)
    return errors[0].exit_code
