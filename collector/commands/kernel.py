"""The commands that look at the kernel, or tidy it up: doctor, list, cleanup."""

import argparse
import sys
from typing import TYPE_CHECKING, Literal

from collector.commands import words
from collector.errors import EXIT_FAILURE, EXIT_OK, CollectorError, raise_all
from collector.version import PROGRAM

if TYPE_CHECKING:
    from collector.commands.words import Commands


def register(commands: "Commands") -> None:
    doctor_words = commands.add_parser(
        "doctor", parents=[words.config_options()], help="say what this kernel can do, and what is in the way"
    )
    doctor_words.add_argument("--json", action="store_true", help="one JSON object instead of a report")
    doctor_words.set_defaults(function=doctor)

    listing = commands.add_parser("list", help="list what this kernel has, and who uses it")
    listing.add_argument(
        "what",
        choices=["tracers", "events", "functions", "options", "clocks", "instances"],
        help="functions: those that filters can name",
    )
    listing.add_argument(
        "glob", nargs="?", default="*", metavar="GLOB", help="only those whose name matches; SYSTEM:EVENT for events"
    )
    listing.add_argument("--instance", metavar="NAME", help="of that tracing instance; default: the top level")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(function=list_)

    cleanup_words = commands.add_parser(
        "cleanup",
        help="take away what killed runs left in tracefs",
        description="Restores what they changed, and removes their instances.",
    )
    cleanup_words.add_argument(
        "instances", nargs="*", metavar="INSTANCE", help="of these; default: of all runs that were killed"
    )
    cleanup_words.add_argument(
        "--keep-entries",
        action="store_true",
        help="leave an instance that has unread entries for the next start to archive",
    )
    cleanup_words.set_defaults(function=cleanup)


def doctor(args: argparse.Namespace) -> int:
    config = words.load(args).config
    from collector.doctor.examine import examine
    from collector.doctor.judge import format_report

    report = examine(config)
    if args.json:
        import json

        print(json.dumps(report.summary(), indent=2))
    else:
        print(format_report(report), end="")
    return EXIT_OK if report.can_run else EXIT_FAILURE


def list_(args: argparse.Namespace) -> int:
    from collector.doctor.listing import LISTERS
    from collector.show.tables import columns_of, write_rows
    from collector.tracefs.files import TracefsDir, find_tracefs

    rows = LISTERS[args.what](TracefsDir(find_tracefs()), args.glob, args.instance)
    style: Literal["table", "lines", "json"] = "table" if sys.stdout.isatty() else "lines"
    count = write_rows(columns_of(args.what), rows, sys.stdout, "json" if args.json else style)
    if not count and args.glob != "*":
        print(f"{PROGRAM}: none of the {args.what} matches {args.glob!r}", file=sys.stderr)
        return EXIT_FAILURE
    return EXIT_OK


def cleanup(args: argparse.Namespace) -> int:
    from collector.control.journal import Journals
    from collector.control.leftovers import clean_up, find_leftovers
    from collector.tracefs.files import TracefsDir, find_tracefs

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
