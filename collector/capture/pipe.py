"""The text pipes of an instance as streams: the kernel's own lines, for where text is wanted.

    read -> whole lines -> entries of a batch (decode/text.pyx) -> blocks, ledger and metrics as of a ring

Formatting a line costs the kernel some 2.6 us, and the reading process pays: raw is the default.
docs/text-pipes.md says what text cannot tell.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from collector.capture.account import Account
from collector.capture.formats import FormatBook
from collector.capture.source import LiveInstance, LiveSource, build_format_object
from collector.capture.stream import Stream
from collector.capture.visit import Ask, Visit, Worker
from collector.decode.plan import CommonHead
from collector.decode.text import PAGE_BYTES, TextBatch
from collector.decode.text_plan import (
    HAS_COMM,
    HAS_CPU,
    HAS_LAZY,
    HAS_TGID,
    KIND_FIXED,
    KIND_NAMED,
    KIND_SYSCALL_ENTER,
    KIND_SYSCALL_EXIT,
    TextPlan,
)
from collector.ledger import KernelCounts, ReaderCounts
from collector.tracefs.columns import parse_flag_columns
from collector.tracefs.events import EventName
from collector.tracefs.formats import EventFormat, parse_event_format
from collector.tracefs.layout import PageLayout
from collector.tracefs.snapshots import SWAPPING_TRACERS
from collector.tracefs.stats import sum_stats

# The CPU under which the pipe of all CPUs is kept: none can have this number (CONFIG_NR_CPUS is at most 8192), and
# each entry has its own.
WHOLE_PIPE_CPU = 65535

GAP_SOURCE = "line"  # `CPU:N [LOST M EVENTS]`
SKIPPED_FOLDED = "folded"  # the return of a function that shares a line with its call
SKIPPED_NO_TEXT = "no_text"  # what function_graph leaves out of its drawing
UNPARSED = "unparsed"  # lines kept as they are, see decode_errors

RESOLUTION_NS = 1000  # of a line's time

# Below the ring's watermark nothing but the flush of each interval reads, so that it must take all that a second can
# bring: the kernel formats some 40 MB of text a second. An end it needs all the same, for other streams wait for it.
FLUSH_BYTES = 64 << 20

# A "page" of the sizing is the least that a batch needs; few of its bytes are heads of entries.
_LAYOUT = PageLayout(0, 8, 8, 8, PAGE_BYTES - 65536, 65536)

# {name of the text: (system, event)} of records that no event file has
_TRACER_EVENTS = {
    "kernel_stack": ("ftrace", "kernel_stack"),
    "user_stack": ("ftrace", "user_stack"),
    "function": ("ftrace", "function"),
}
logger = logging.getLogger(__name__)

_HEADLESS = frozenset({"nocontext-info", "raw", "hex", "bin"})  # options under which lines have no head

# So many lines are judged together, and so many of them may be of a form that is not known.
JUDGED_LINES = 200
MOST_UNPARSED = 0.5

_MARKER = "tracing_mark_write"  # the function that a marker's line names


class TextFormats:
    """The formats that lines have in the archive, made up as names turn up.

    Args:
      plan: knows the names.
      list_events: gives (system, event) of all that the kernel has now.
    """

    def __init__(self, plan: TextPlan, list_events: Callable[[], Sequence[EventName]]) -> None:
        self._plan = plan
        self._list_events = list_events
        self._systems: dict[str, list[str]] = {}  # {event: systems that have one of this name}

    def get(self, event_id: int) -> EventFormat | None:
        """The format of one of our ids."""
        found = self._plan.name_of(event_id)
        if found is None:
            return None
        kind, has, name = found
        system, event = self._event_of(kind, name)
        if kind == KIND_NAMED and system == "text":
            self._plan.set_joins(event_id)
        return parse_event_format(build_text_format(event_id, event, has), system, word_size=8)

    def _event_of(self, kind: int, name: str) -> EventName:
        if kind == KIND_FIXED:
            return _TRACER_EVENTS.get(name, ("text", name))
        if kind == KIND_SYSCALL_ENTER:
            return "syscalls", f"sys_enter_{name.removeprefix('sys_')}"
        if kind == KIND_SYSCALL_EXIT:
            return "syscalls", f"sys_exit_{name.removeprefix('sys_')}"
        if name == _MARKER:
            return "ftrace", "print"
        if name not in self._systems:  # of a module or a probe that came meanwhile, or printed by trace_printk
            self._systems = {}
            for system, event in self._list_events():
                self._systems.setdefault(event, []).append(system)
        systems = self._systems.get(name, [])
        return (systems[0], name) if len(systems) == 1 else ("text", name)


def build_text_format(event_id: int, name: str, has: int) -> str:
    """The format file that the kernel would have for the records of decode/text.pyx.

    Args:
      has: HAS_ bits of decode/text_plan.pyx.
    """
    fields = ["unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;",
              "unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;",
              "unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;",
              "int common_pid;\toffset:4;\tsize:4;\tsigned:1;"]  # fmt: skip
    own = []
    at = 8
    if has & HAS_LAZY:  # a common field of the kernels that have it
        fields.append(f"unsigned int common_preempt_lazy_count;\toffset:{at};\tsize:4;\tsigned:0;")
        at += 4
    for bit, declaration, size, signed in (
        (HAS_COMM, "char comm[16]", 16, 0),
        (HAS_CPU, "unsigned int cpu", 4, 0),
        (HAS_TGID, "int tgid", 4, 1),
    ):
        if has & bit:
            own.append(f"{declaration};\toffset:{at};\tsize:{size};\tsigned:{signed};")
            at += size
    own.append(f"char message[];\toffset:{at};\tsize:0;\tsigned:0;")
    head, body = ("".join(f"\tfield:{field}\n" for field in part) for part in (fields, own))
    return f'name: {name}\nID: {event_id}\nformat:\n{head}\n{body}\nprint fmt: "%s", REC->message\n'


def is_graph(tracer: str, options: Collection[str]) -> bool:
    """Whether lines are function_graph's drawing."""
    return tracer == "function_graph" or "display-graph" in options


def stream_type_of(tracer: str, options: Collection[str]) -> type[Stream]:
    """What reads such lines."""
    if not is_graph(tracer, options):
        return BareStream if not _HEADLESS.isdisjoint(options) else PipeStream
    return QuietGraphStream if "nofuncgraph-irqs" in options else GraphStream


def build_text_plan(tracer: str, options: Collection[str], *, whole: bool, header: str = "") -> TextPlan:
    """What a line looks like under a tracer and trace_options, as they are when the pipe is opened.

    Args:
      options: words of trace_options; `noX` is X switched off.
      whole: lines of all CPUs come through one pipe.
      header: of the file `trace`; it names the flag columns. "": their number tells.
    """
    plan = TextPlan(_LAYOUT, CommonHead())
    drawn_latency = tracer in SWAPPING_TRACERS and is_graph(tracer, options)  # whose drawing has columns of its own
    plan.set_form(
        whole=whole,
        latency="latency-format" in options,
        verbose="verbose" in options,
        graph=is_graph(tracer, options),
        graph_cpu=drawn_latency or "nofuncgraph-cpu" not in options,
        graph_abstime=not drawn_latency and "funcgraph-abstime" in options,
        graph_proc=drawn_latency or "funcgraph-proc" in options,
        graph_duration=drawn_latency or "nofuncgraph-duration" not in options,
        graph_reltime=drawn_latency,
        flags=parse_flag_columns(header),
    )
    return plan


class PipeStream(Stream):
    """The reader of one text pipe; its batch is a TextBatch.

    The kernel consumes an entry by formatting it. So `read events` = entries with a line + those that share one
    (function_graph's leaf calls), exactly: an entry of several lines is one, `[LINE TOO BIG]` is one, and a LOST line
    is none.
    """

    gap_source = GAP_SOURCE
    has_heads = True  # lines say who, where and when
    _batch: TextBatch
    _judged = (0, 0)  # entries, and those of them that are lines without a form, at the last judgement

    @property
    def skipped(self) -> Mapping[str, int]:
        """{reason: entries} that have no line of their own."""
        return {SKIPPED_FOLDED: self._batch.total_folded} if self._batch.total_folded else {}

    def visit(self, worker: Worker, ask: Ask, max_bytes: int) -> Visit:
        """Read, parse and encode what there is, up to max_bytes of text, or FLUSH_BYTES in a flush."""
        if ask & Ask.FLUSH and max_bytes:
            max_bytes = max(max_bytes, FLUSH_BYTES)
        visit = super().visit(worker, ask, max_bytes)
        if self._batch.total_unparsed:
            self.decode_errors[UNPARSED] = self._batch.total_unparsed
            self._judge()
        return visit

    def _judge(self) -> None:
        """Whether lines are of a form that is not known: of single ones, a text with newlines may be the cause."""
        entries, unparsed = self._batch.total_entries, self._batch.total_unparsed
        if not self.has_heads or entries - self._judged[0] < JUDGED_LINES:
            return
        share = (unparsed - self._judged[1]) / (entries - self._judged[0])
        self._judged = entries, unparsed
        if share <= MOST_UNPARSED:
            self.problem = None
            return
        if self.problem is None:
            example = self._batch.unparsed_example.partition(b"\n")[0].decode("utf-8", "backslashreplace")
            logger.error(
                "lines of a text pipe are of a form that is not known; they are kept as they are",
                extra={"fields": {
                    "instance": self.key.instance, "cpu": self.key.cpu, "share": f"{share:.0%}", "line": example,
                    "expected": "COMM-PID [CPU] FLAGS TIME: ..., see docs/text-pipes.md",
                }},
            )  # fmt: skip
        self.problem = f"lines of {self.key.instance} CPU {self.key.cpu} do not parse: {share:.0%} of the last ones"

    def _sample(self, visit: Visit) -> None:
        if not self._batch.held_bytes:  # else read from the kernel, but in no entry yet
            super()._sample(visit)
        if visit.sample is not None and visit.sample.now_ts is not None:
            self._batch.note_time(visit.sample.now_ts)


class GraphAccount(Account):
    """The account of lines that the tracer function_graph draws: it leaves losses out."""

    def sample(self, visit: Visit, reader: ReaderCounts, settled: bool) -> None:
        self._untold = "between a call and its return, where function_graph prints no loss"
        super().sample(visit, reader, settled)


class QuietGraphAccount(GraphAccount):
    """With `funcgraph-irqs` off it leaves entries out too: what the kernel has read and not printed are these."""

    def _explained(self, kernel: KernelCounts, reader: ReaderCounts) -> ReaderCounts:
        missing = kernel.read - reader.decoded - sum(reader.skipped.values())
        return reader if missing <= 0 else replace(reader, skipped={**reader.skipped, SKIPPED_NO_TEXT: missing})


class BareStream(PipeStream):
    """The reader of lines that the instance's options leave without a head."""

    has_heads = False


class GraphStream(PipeStream):
    """The reader of a text pipe with function_graph's drawing."""

    has_heads = False
    account_type: type[Account] = GraphAccount


class QuietGraphStream(GraphStream):
    """The same without what happens in interrupts."""

    account_type = QuietGraphAccount


class PipeSource(LiveSource):
    """The text pipes of an instance of the running kernel.

    Args:
      as for LiveSource; CPUs: whose pipes are read.
      whole: read the one pipe of all CPUs instead, merged in the order of time; it excludes the others.
    """

    batch_type = TextBatch

    def __init__(self, instance: LiveInstance, run: bytes, *, whole: bool = False) -> None:
        tree = instance.tree
        self._whole = whole
        self._possible_cpus = tree.possible_cpus() if whole else ()
        super().__init__(replace(instance, events=()), run)  # no format file tells of a line
        options = frozenset((tree.try_read_text("trace_options") or "").split())
        tracer = (tree.try_read_text("current_tracer") or "").strip()
        self.stream_type = stream_type_of(tracer, options)
        header = tree.read_head("trace") if tree.exists("trace") else ""
        plan = build_text_plan(tracer, options, whole=whole, header=header)
        self.plan = plan
        self.book = FormatBook(plan, TextFormats(plan, tree.list_events).get, build_format_object)
        if whole:
            self.cpus = (WHOLE_PIPE_CPU,)
            self._ring_bytes = {WHOLE_PIPE_CPU: sum(self._ring_bytes.values())}

    def header(self) -> dict[str, Any]:
        """What a segment's header says of the instance; times of ns clocks are rounded to `resolution_ns`."""
        header = {**super().header(), "read": "text"}
        if self.clock.unit == "ns":
            header["resolution_ns"] = RESOLUTION_NS
        return header

    def _open_ring(self, cpu: int) -> int:
        return self.tree.open_pipe(None if self._whole else cpu)

    def _cpus_of(self, cpu: int) -> Sequence[int]:
        return self._possible_cpus if self._whole else (cpu,)

    def _counts_now(self) -> Mapping[int, KernelCounts]:
        if not self._whole:
            return super()._counts_now()
        return {WHOLE_PIPE_CPU: KernelCounts.of(sum_stats([self.tree.read_stats(of) for of in self._possible_cpus]))}
