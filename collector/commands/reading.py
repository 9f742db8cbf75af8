"""The commands that print events: show, and tap while they come."""

import argparse
import sys
from typing import TYPE_CHECKING

from collector.commands import words
from collector.errors import EXIT_FAILURE, EXIT_OK

if TYPE_CHECKING:
    from collector.commands.words import Commands


def register(commands: "Commands") -> None:
    show_words = commands.add_parser("show", help="print events")
    words.add_paths(show_words)
    moment = "the trace clock's value as in ts_ns, its seconds with a point, or a time such as 2026-01-31T12:00"
    show_words.add_argument("--since", metavar="TIME", help=f"from then on; {moment}")
    show_words.add_argument("--until", metavar="TIME", help="up to then, included")
    show_words.add_argument("--cpu", type=words.cpus, metavar="LIST", help="CPUs, as in 0-3,8")
    show_words.add_argument("-e", "--event", action="append", metavar="SYSTEM:EVENT", help="with globs; repeatable")
    show_words.add_argument("--pid", action="append", type=int, metavar="N", help="thread id; repeatable")
    show_words.add_argument("--limit", type=words.count, metavar="N", help="print so many events at most")
    show_words.add_argument(
        "--format", choices=["fields", "json"], default="fields", help="fields: name=value; json: one object a line"
    )
    show_words.add_argument(
        "--time",
        choices=["trace", "wall", "both"],
        default="trace",
        help="trace: of the trace clock; wall: date and time, in UTC; json always has ts_ns",
    )
    show_words.add_argument(
        "--reports",
        action="store_true",
        help="print the kernel's reports of largest latencies and deepest stacks instead",
    )
    show_words.add_argument(
        "--json", action="store_const", const="json", dest="format", help="the same as --format json"
    )
    show_words.set_defaults(function=show)

    tap_words = commands.add_parser(
        "tap",
        help="print what a running daemon collects, as it comes",
        description="Needs a sink of type tap in the daemon's configuration.",
    )
    tap_words.add_argument(
        "address",
        nargs="?",
        default="unix:/run/ftrace-collector/tap.sock",
        metavar="ADDRESS",
        help="unix:PATH of its socket; default: unix:/run/ftrace-collector/tap.sock",
    )
    tap_words.add_argument(
        "--event", action="append", metavar="SYSTEM:EVENT", help="only these, with globs; repeatable"
    )
    tap_words.add_argument("--cpu", type=words.cpus, metavar="LIST", help="only these CPUs")
    tap_words.add_argument("--format", choices=["fields", "json"], default="fields", help="default: fields")
    tap_words.add_argument("--limit", type=words.count, metavar="N", help="stop after so many events")
    tap_words.set_defaults(function=tap)


def show(args: argparse.Namespace) -> int:
    if args.reports:
        from collector.show.reports import show_reports

        damaged = show_reports(args.paths, sys.stdout, args.format)
        for damage in damaged:
            print(f"damaged: {damage}", file=sys.stderr)
        return EXIT_FAILURE if damaged else EXIT_OK
    from collector.show.show import show_paths

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


def tap(args: argparse.Namespace) -> int:
    from collector.run.tap import tap

    tap(args.address, sys.stdout, args.event, args.cpu, args.format, args.limit)
    return EXIT_OK
