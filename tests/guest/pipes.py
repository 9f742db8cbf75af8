"""Inside a guest: text pipes of this kernel's tracers and options; a line for each check.

Usage: python -m tests.guest.pipes RELEASE, where RELEASE is how `uname -r` begins. Exits 1 when a check fails.

Each case is read by hand after tracing has stopped, so that what is decoded can be compared with the lines that `trace`
shows of the same entries; both function tracers' also go through the daemon into an archive.
"""

import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from collector.archive.block import Entry, decode_block
from collector.archive.objects import parse_format, parse_object
from collector.capture.pipe import PipeSource
from collector.capture.source import LiveInstance
from collector.capture.visit import Ask
from collector.tracefs.files import TracefsDir
from tests.capture.rig import RUN
from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.guest.tracers import OPENS, open_files, run_case
from tests.kernel.test_text_live import Reading

CPU = 0  # of the case whose lines are compared: a pipe of one CPU, for `trace` sorts those of several anew
# Where function_graph draws otherwise into a pipe than into `trace`: a leaf call has the time of its return; and which
# function a } ends is told where its call was printed in an earlier piece.
PIPE_ONLY = re.compile(rb"^ *\d+\.\d{6} \||(?<=\}) /\* \S+ \*/", re.MULTILINE)
GRAPH_TIMES = {"funcgraph-abstime": True, "funcgraph-proc": True}


@dataclass(frozen=True, slots=True)
class Case:
    """What an instance traces, and how it prints it."""

    name: str
    tracer: str = "nop"
    functions: tuple[str, ...] = ()
    events: tuple[str, ...] = ()  # SYSTEM:NAME
    options: dict[str, bool] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)  # {event: entries at the least}

    def config(self, read: str = "text") -> str:
        keys = [f'read = "{read}"', f"events = {list(self.events)!r}"]
        if self.tracer != "nop":
            keys.append(f'tracer = "{self.tracer}"')
        if self.functions:
            keys.append(f"functions = {list(self.functions)!r}")
        if self.options:
            pairs = ", ".join(f"{name} = {str(value).lower()}" for name, value in self.options.items())
            keys.append(f"options = {{{pairs}}}")
        return "\n".join(keys)


FUNCTIONS = ("do_sys_openat2", "vfs_fsta*")
GRAPHED = ("do_sys_openat2", "do_filp_open", "vfs_fstat*", "getname*")

CASES = (
    Case("function", "function", FUNCTIONS, wanted={"ftrace:function": OPENS}),
    Case("stacks", "function", FUNCTIONS, options={"func_stack_trace": True},
         wanted={"ftrace:function": OPENS, "ftrace:kernel_stack": OPENS}),
    Case("events", events=("sched:sched_switch", "sched:sched_waking"), options={"stacktrace": True},
         wanted={"sched:sched_switch": 1, "ftrace:kernel_stack": 1}),
    Case("userstacks", events=("syscalls:sys_enter_openat",), options={"userstacktrace": True},
         wanted={"syscalls:sys_enter_openat": OPENS, "ftrace:user_stack": OPENS}),
    Case("latency", "function", FUNCTIONS, options={"latency-format": True}, wanted={"ftrace:function": OPENS}),
    Case("verbose", "function", FUNCTIONS, options={"latency-format": True, "verbose": True},
         wanted={"ftrace:function": OPENS}),
    Case("tgid", "function", FUNCTIONS, options={"record-tgid": True, "irq-info": False},
         wanted={"ftrace:function": OPENS}),
)  # fmt: skip

GRAPH_CASES = tuple(
    Case(f"graph{number}", "function_graph", GRAPHED, options=options, wanted={"text:funcgraph": OPENS})
    for number, options in enumerate((
        {},
        GRAPH_TIMES,
        {**GRAPH_TIMES, "funcgraph-tail": True, "funcgraph-duration": False},
    ))
)  # fmt: skip


class Instance:
    """A tracing instance set up by hand for a case; removed at the end."""

    def __init__(self, case: Case) -> None:
        self.path = TRACEFS / "instances" / f"ftc-pipes-{os.getpid()}"
        self._case = case
        self._before: dict[str, str] = {}  # {file: text} of options that are the tracer's: they outlive the instance

    def __enter__(self) -> "Instance":
        self.path.mkdir()
        try:
            self._write("tracing_on", "0")
            self._write("trace_clock", "mono")
            self._write("buffer_size_kb", "8192")
            if self._case.functions:
                (self.path / "set_ftrace_filter").write_text("\n".join(self._case.functions) + "\n")
            for event in self._case.events:
                self._write(f"events/{event.replace(':', '/')}/enable", "1")
            self._write("current_tracer", self._case.tracer)
            for name, value in self._case.options.items():
                self._before[f"options/{name}"] = (self.path / f"options/{name}").read_text()
                self._write(f"options/{name}", str(int(value)))
        except BaseException:
            self.path.rmdir()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._write("tracing_on", "0")
        for file, text in self._before.items():
            self._write(file, text)
        self._write("current_tracer", "nop")
        self._write("events/enable", "0")
        self.path.rmdir()

    def trace(self) -> None:
        """Record what the case asks for, and markers of one and two lines."""
        self._write("tracing_on", "1")
        open_files()
        with (self.path / "trace_marker").open("wb", buffering=0) as marker:
            marker.write(b"one line\n")
            marker.write(b"two\nlines")
        self._write("tracing_on", "0")

    def _write(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)


def read_lines(instance: Path) -> bytes:
    """What the kernel prints of the entries, without consuming them: the same lines as a pipe's, and a header."""
    text = (instance / f"per_cpu/cpu{CPU}/trace").read_bytes()
    head = re.match(rb"(?:#.*\n|\n(?=#))*", text)  # a latency header has empty lines in it
    assert head is not None
    return text[head.end() :]


def compare(case: Case) -> None:
    """Read the pipe by hand; each entry must be what the kernel printed, in its order, to the byte."""
    os.sched_setaffinity(0, {CPU})
    try:
        with Instance(case) as instance:
            instance.trace()
            printed = read_lines(instance.path)
            entries, said = take_all(instance.path)
    finally:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
    check(len(entries) >= max(case.wanted.values()), f"{case.name}: {len(entries)} entries read by hand, {said}")
    is_graph = case.tracer == "function_graph"
    if is_graph:
        printed = PIPE_ONLY.sub(b"", printed)
    at = 0
    for number, entry in enumerate(entries):
        text = bytes(entry.fields["message"])
        if is_graph:
            text = PIPE_ONLY.sub(b"", text)
        found = printed.find(text + b"\n", at) if text else printed.find(b"\n", at)
        if found < 0 or not begins(printed[at:found], entry):
            check(False, f"{case.name}: entry {number}: {text!r}\n{printed[at : at + 400].decode()}")
        at = found + len(text) + 1
    check(not printed[at:].strip(), f"{case.name}: {len(printed)} bytes were printed, and all are in entries")


def begins(head: bytes, entry: Entry) -> bool:
    """Whether what was printed before an event's text is its head, and nothing else."""
    if entry.format.name in ("funcgraph", "unparsed"):
        return head == b""
    return b"\n" not in head and re.search(rb"[- ]%d " % entry.pid, head) is not None


def take_all(path: Path) -> tuple[list[Entry], str]:
    """The entries of a pipe, from its blocks; the ledger must agree."""
    source = PipeSource(LiveInstance(TracefsDir(path, top=TracefsDir(TRACEFS)), "pipes", (CPU,)), RUN)
    entries: list[Entry] = []
    try:
        reading = Reading(source)
        (stream,) = source.streams
        visit = stream.visit(reading.worker, Ask.FLUSH | Ask.SAMPLE | Ask.CLOSE, 64 << 20)
        for block, lease in visit.blocks:
            bodies = {kind.format_id: source.book.object_body(kind.format_id) for kind in block.kinds}
            formats = {key: parse_format(parse_object(body)) for key, body in bodies.items() if body is not None}
            entries += decode_block(block.body, formats).entries()
            lease.release()
        totals = stream.totals()
        said = f"residual {totals.residual}, skipped {dict(totals.skipped)}, errors {totals.decode_errors}"
        check(totals.settled and totals.residual == 0 and not totals.decode_errors, said)
        check(totals.events + sum(totals.skipped.values()) == totals.read, f"{totals.read} entries were read")
    finally:
        source.close()
    return entries, said


def mark() -> None:
    """Something to trace, and markers into whatever the daemon set up."""
    open_files()
    for path in (TRACEFS / "instances").glob("tracers-*"):
        with (path / "trace_marker").open("wb", buffering=0) as marker:
            for _ in range(OPENS):
                marker.write(b"two\nlines\n")


def main() -> None:
    release = sys.argv[1]
    check(os.uname().release.startswith(release), f"kernel {os.uname().release}")
    graphs = GRAPH_CASES if release != "6.1" else ()  # there function_graph is for the top level alone
    for case in CASES + graphs:
        compare(case)
    case = CASES[0]
    run_case(f"{case.name}-text", case.config(), mark, {**case.wanted, "ftrace:print": OPENS})
    run_case(f"{case.name}-merged", case.config("text-merged"), mark, {**case.wanted, "ftrace:print": OPENS})
    for case in graphs[1:2]:
        run_case(f"{case.name}-text", case.config(), mark, case.wanted)


if __name__ == "__main__":
    main()
