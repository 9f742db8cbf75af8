"""The command line: its words, and errors to messages and exit codes; commands.py has what the commands do.

Results go to stdout, everything else to stderr.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from collector import __version__, commands
from collector.commands import PROGRAM
from collector.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, CollectorError, UsageError

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
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

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

    run = subparsers.add_parser("run", parents=[config], help="collect until stopped",
                              description="Collects until SIGINT or SIGTERM, then drains and seals.")  # fmt: skip
    run.add_argument("--duration", type=_seconds, metavar="S", help="stop by itself after so many seconds")
    run.add_argument("--replay", type=Path, metavar="CASE",
                     help="take a recorded kernel instead: a folder with tracefs/, uname and kallsyms")  # fmt: skip
    run.set_defaults(function=commands.run)

    check = subparsers.add_parser("check", parents=[config], help="check the configuration, and the kernel against it")
    check.set_defaults(function=commands.check)

    settings = subparsers.add_parser("config", help="print the configuration")
    whats = settings.add_subparsers(title="what to print", metavar="WHAT", required=True)
    in_force = whats.add_parser("show", parents=[config], help="all settings in force, and where each comes from")
    in_force.set_defaults(function=commands.config_show)
    defaults = whats.add_parser("default", help="all settings but those of sinks, with their defaults, to be changed")
    defaults.set_defaults(function=commands.config_default)

    plan = subparsers.add_parser("plan", parents=[config], help="print what `run` would write to tracefs, in order")
    plan.add_argument("--json", action="store_true", help="one JSON object a line")
    plan.set_defaults(function=commands.plan)

    doctor = subparsers.add_parser(
        "doctor", parents=[config], help="say what this kernel can do, and what is in the way"
    )
    doctor.add_argument("--json", action="store_true", help="one JSON object instead of a report")
    doctor.set_defaults(function=commands.doctor)

    cleanup = subparsers.add_parser("cleanup", help="take away what killed runs left in tracefs",
                                  description="Restores what they changed, and removes their instances.")  # fmt: skip
    cleanup.add_argument("instances", nargs="*", metavar="INSTANCE",
                         help="of these; default: of all runs that were killed")  # fmt: skip
    cleanup.add_argument("--keep-entries", action="store_true",
                         help="leave an instance that has unread entries for the next start to archive")  # fmt: skip
    cleanup.set_defaults(function=commands.cleanup)

    listing = subparsers.add_parser("list", help="list what this kernel has, and who uses it")
    listing.add_argument("what", choices=["tracers", "events", "functions", "options", "clocks", "instances"],
                         help="functions: those that filters can name")  # fmt: skip
    listing.add_argument("glob", nargs="?", default="*", metavar="GLOB",
                         help="only those whose name matches; SYSTEM:EVENT for events")  # fmt: skip
    listing.add_argument("--instance", metavar="NAME", help="of that tracing instance; default: the top level")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(function=commands.list_)

    snapshot = subparsers.add_parser(
        "snapshot", help="take a snapshot, which the running daemon archives",
        description='Takes a snapshot of instances that a running daemon reads with read = "snapshot".',
    )  # fmt: skip
    snapshot.add_argument("instances", nargs="*", metavar="INSTANCE", help="default: all such instances")
    snapshot.set_defaults(function=commands.snapshot)

    info = subparsers.add_parser("info", help="say what an archive holds")
    _add_paths(info)
    info.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    info.set_defaults(function=commands.info)

    verify = subparsers.add_parser("verify", help="check every byte and the accounting; exit 1 on any damage")
    _add_paths(verify)
    verify.set_defaults(function=commands.verify)

    recover = subparsers.add_parser("recover", help="seal what a crash left open")
    recover.add_argument("folder", type=Path, metavar="DIR")
    recover.set_defaults(function=commands.recover)

    receive = subparsers.add_parser(
        "receive",
        help="keep archives of other hosts, which send them here",
        description="Takes what sinks of type stream send, until SIGINT or SIGTERM.",
    )
    receive.add_argument("--listen", required=True, metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    receive.add_argument("--output", type=Path, required=True, metavar="DIR", help="has a folder per host")
    receive.add_argument("--cert", metavar="FILE", help="TLS: our certificate, PEM")
    receive.add_argument("--key", metavar="FILE", help="its key; default: in the same file")
    receive.add_argument(
        "--client-ca", metavar="FILE", help="a host needs a certificate of this authority, for its name"
    )
    receive.add_argument("--max-bytes-per-host", type=_count, default=10 << 30, metavar="N",
                         help="the oldest segments of a host go; default: 10 GiB")  # fmt: skip
    receive.add_argument("--segment-bytes", type=_count, default=128 << 20, metavar="N",
                         help="size that seals a segment; default: 128 MiB")  # fmt: skip
    receive.add_argument("--segment-age", type=_seconds, default=3600.0, metavar="S",
                         help="age that seals a segment; default: 3600")  # fmt: skip
    receive.add_argument("--min-free-bytes", type=_count, default=1 << 30, metavar="N",
                         help="with less on the disk nothing is taken; default: 1 GiB")  # fmt: skip
    receive.add_argument("--max-memory-bytes", type=_count, default=1 << 30, metavar="N",
                         help="of records on their way, names and such; default: 1 GiB")  # fmt: skip
    receive.add_argument("--max-hosts", type=_count, default=4096, metavar="N", help="default: 4096")
    receive.add_argument("--log-format", choices=["text", "json"], default="text",
                         help="of the messages on stderr; default: text")  # fmt: skip
    receive.add_argument("--http", default="", metavar="HOST:PORT", help="metrics and health; default: none")
    receive.set_defaults(function=commands.receive)

    pin = subparsers.add_parser("pin", help="keep a stretch of an archive from being removed, or list what is kept")
    pin.add_argument("folder", type=Path, metavar="DIR")
    pin.add_argument("--name", metavar="NAME", help="what to call it; without it the pins are listed")
    pin.add_argument("--from", dest="since", metavar="TIME", help="a time such as 2026-01-31T12:00; local, or with Z")
    pin.add_argument("--to", dest="until", metavar="TIME", help="likewise, also in the future; default: now")
    pin.set_defaults(function=commands.pin)

    unpin = subparsers.add_parser("unpin", help="let what was pinned be removed again")
    unpin.add_argument("folder", type=Path, metavar="DIR")
    unpin.add_argument("--name", metavar="NAME", required=True, help="of the pin")
    unpin.set_defaults(function=commands.unpin)

    tap = subparsers.add_parser("tap", help="print what a running daemon collects, as it comes",
                              description="Needs a sink of type tap in the daemon's configuration.")  # fmt: skip
    tap.add_argument("address", nargs="?", default="unix:/run/ftrace-collector/tap.sock", metavar="ADDRESS",
                     help="unix:PATH of its socket; default: unix:/run/ftrace-collector/tap.sock")  # fmt: skip
    tap.add_argument("--event", action="append", metavar="SYSTEM:EVENT", help="only these, with globs; repeatable")
    tap.add_argument("--cpu", type=_cpus, metavar="LIST", help="only these CPUs")
    tap.add_argument("--format", choices=["fields", "json"], default="fields", help="default: fields")
    tap.add_argument("--limit", type=_count, metavar="N", help="stop after so many events")
    tap.set_defaults(function=commands.tap)

    show = subparsers.add_parser("show", help="print events")
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
    show.set_defaults(function=commands.show)

    version = subparsers.add_parser("version", help="print the versions")
    version.set_defaults(function=commands.version)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    return parser


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
