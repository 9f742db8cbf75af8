"""The command line: errors to messages and exit codes; commands/ has the words, and what each command does.

Results go to stdout, everything else to stderr.
"""

import argparse
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from collector.commands import FAMILIES
from collector.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, CollectorError
from collector.version import PROGRAM, __version__

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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names in messages may be any bytes
            stream.reconfigure(errors="backslashreplace")
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
    for family in FAMILIES:
        family.register(commands)
    version = commands.add_parser("version", help="print the versions")
    version.set_defaults(function=_print_versions)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


def _print_versions(args: argparse.Namespace) -> int:
    import platform

    print(f"{PROGRAM} {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}")
    return EXIT_OK


def _leaves(group: BaseExceptionGroup[CollectorError]) -> list[CollectorError]:
    found: list[CollectorError] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


def _report(errors: Sequence[CollectorError]) -> int:
    """Say each once, with what `doctor` knows about it; the first decides the exit code."""
    from collector.doctor.judge import explain

    for message, error in {str(e): e for e in errors}.items():
        print(f"{PROGRAM}: error: {message}", file=sys.stderr)
        explanation = explain(error)
        if explanation and explanation not in message:
            print(f"{PROGRAM}: {explanation}", file=sys.stderr)
    return errors[0].exit_code
