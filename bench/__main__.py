"""`python -m bench`: measure, print, and with --write put the tables into README.md."""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path

from . import decode, fleet, idle, live, rows, sinks, streams, text
from .kernel import open_tracefs, remove_leftovers
from .loads import Programs
from .report import describe_machine, say, write_section

SECTIONS = {
    "live": live.measure, "decode": decode.measure, "idle": idle.measure, "streams": streams.measure,
    "text": text.measure, "rows": rows.measure, "fleet": fleet.measure,
    "sinks": sinks.measure,
}  # fmt: skip


def main() -> int:
    """Run the sections that were asked for."""
    parser = argparse.ArgumentParser(prog="bench/run", description="Measures the daemon; see bench/README.md.")
    parser.add_argument("sections", nargs="*", type=_section, metavar="SECTION",
                        help=f"of {', '.join(SECTIONS)}; default: all")  # fmt: skip
    parser.add_argument("--runs", type=int, default=5, metavar="N", help="of which the median counts; default: 5")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    args = parser.parse_args()
    open_tracefs()  # says what is missing before anything is begun
    # So that instances are removed and processes ended also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        with tempfile.TemporaryDirectory(prefix="ftrace-collector-bench-") as folder:
            programs = Programs(Path(folder))
            for name in args.sections or SECTIONS:
                say(f"{name} ...")
                load_before = os.getloadavg()
                tables = SECTIONS[name](programs, Path(folder), max(1, args.runs))
                tables = f"{describe_machine(load_before)}\n\n{tables}"
                print(f"## {name}\n\n{tables}\n", flush=True)
                if args.write:
                    write_section(name, tables)
    finally:
        remove_leftovers()
    return 0


def _section(word: str) -> str:
    if word not in SECTIONS:
        raise argparse.ArgumentTypeError(f"{word!r} is none of {', '.join(SECTIONS)}")
    return word


if __name__ == "__main__":
    sys.exit(main())
