"""The commands that look after an archive: info, verify, recover, pin, unpin."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from collector.commands import words
from collector.errors import EXIT_FAILURE, EXIT_OK, UsageError

if TYPE_CHECKING:
    from collector.commands.words import Commands


def register(commands: "Commands") -> None:
    info_words = commands.add_parser("info", help="say what an archive holds")
    words.add_paths(info_words)
    info_words.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    info_words.set_defaults(function=info)

    verify_words = commands.add_parser("verify", help="check every byte and the accounting; exit 1 on any damage")
    words.add_paths(verify_words)
    verify_words.set_defaults(function=verify)

    recover_words = commands.add_parser("recover", help="seal what a crash left open")
    recover_words.add_argument("folder", type=Path, metavar="DIR")
    recover_words.set_defaults(function=recover)

    pin_words = commands.add_parser("pin", help="keep a stretch of an archive from being removed, or list what is kept")
    pin_words.add_argument("folder", type=Path, metavar="DIR")
    pin_words.add_argument("--name", metavar="NAME", help="what to call it; without it the pins are listed")
    pin_words.add_argument(
        "--from", dest="since", metavar="TIME", help="a time such as 2026-01-31T12:00; local, or with Z"
    )
    pin_words.add_argument("--to", dest="until", metavar="TIME", help="likewise, also in the future; default: now")
    pin_words.set_defaults(function=pin)

    unpin_words = commands.add_parser("unpin", help="let what was pinned be removed again")
    unpin_words.add_argument("folder", type=Path, metavar="DIR")
    unpin_words.add_argument("--name", metavar="NAME", required=True, help="of the pin")
    unpin_words.set_defaults(function=unpin)


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


def pin(args: argparse.Namespace) -> int:
    from collector.archive.pins import list_pins, pin_stretch

    if args.name is None:
        for line in list_pins(args.folder):
            print(line)
        return EXIT_OK
    if args.since is None:
        raise UsageError("a pin needs a beginning", hint="add --from TIME")
    from collector.read.times import parse_wall_ns

    until_ns = None if args.until is None else parse_wall_ns(args.until)
    for path in pin_stretch(args.folder, args.name, parse_wall_ns(args.since), until_ns):
        print(path)
    return EXIT_OK


def unpin(args: argparse.Namespace) -> int:
    from collector.archive.pins import remove_pin

    remove_pin(args.folder, args.name)
    return EXIT_OK
