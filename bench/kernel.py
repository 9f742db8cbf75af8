"""Tracing instances of the bench's own, for the rivals and for recording pages; always removed."""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator

from collector.errors import CollectorError
from collector.tracefs.files import TracefsDir, find_tracefs

from .loads import TRACED_CPU, Load

PREFIX = "bench-"
BUFFER_KB = 16384  # of the traced CPU's ring
REMOVE_ATTEMPTS = 50
REMOVE_PAUSE_S = 0.1


def open_tracefs() -> TracefsDir:
    """The kernel's tracefs; ends the program with a message where it is not usable."""
    if os.geteuid() != 0:
        sys.exit("tracing needs root: run it as root")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two CPUs are needed: one for the load, one for the reader")
    try:
        return TracefsDir(find_tracefs())
    except CollectorError as e:
        sys.exit(str(e))


@contextlib.contextmanager
def instance(name: str, load: Load, subbuf_kb: int, buffer_kb: int = BUFFER_KB) -> Iterator[TracefsDir]:
    """An instance that traces a load on its CPU, and is removed at the end."""
    top = open_tracefs()
    tree = top.instance(f"{PREFIX}{name}-{os.getpid()}")
    tree.path.mkdir()
    try:
        if tree.exists("buffer_subbuf_size_kb"):
            tree.write("buffer_subbuf_size_kb", str(subbuf_kb))
        tree.write("buffer_size_kb", str(buffer_kb))
        tree.write("trace_clock", "mono")
        tree.write("tracing_cpumask", f"{1 << TRACED_CPU:x}")
        for system in load.systems:
            if tree.exists(f"events/{system}"):
                tree.write(f"events/{system}/enable", "1")
        tree.clear("trace")
        yield tree
    finally:
        remove_instance(tree)


def remove_leftovers() -> None:
    """Remove the instances of this process that a killed daemon has left."""
    top = open_tracefs()
    own = re.compile(rf"{PREFIX}[a-z]+-{os.getpid()}(-\d+)?")
    for path in (top.path / "instances").iterdir():
        if own.fullmatch(path.name):
            remove_instance(top.instance(path.name))


def remove_instance(tree: TracefsDir) -> None:
    """Remove an instance; waits for whoever still has a file of it open."""
    for _ in range(REMOVE_ATTEMPTS):
        try:
            (tree.path / "events/enable").write_text("0\n")
            tree.path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(REMOVE_PAUSE_S)
    print(f"cannot remove {tree.path}; remove it with rmdir", file=sys.stderr)
