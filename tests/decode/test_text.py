"""The text parser: on recorded kernels against the raw decode, on all forms of a line, on hostile and broken ones."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collector.capture.pipe import TextFormats, build_text_plan
from collector.decode import ring
from collector.decode.plan import build_event_plan
from collector.decode.text import PAGE_BYTES, TextBatch
from collector.decode.text_plan import FIRST_ID
from tests import reference
from tests.conftest import RECORDED_CASES

EVENTS = [("sched", "sched_switch"), ("a", "twice"), ("b", "twice")]


@dataclass(frozen=True)
class Entry:
    """One entry, its record taken apart again."""

    event: str
    ts: int
    flags: int
    preempt_count: int
    pid: int
    comm: bytes | None
    cpu: int | None
    tgid: int | None
    message: bytes
    lazy: int | None = None


@dataclass(frozen=True)
class Parsed:
    """All that a text gave."""

    entries: list[Entry]
    gaps: list[tuple[int, int | None]]
    unparsed: int
    folded: int
    bytes: int  # in entries and gaps


def parse(text: bytes, *, tracer: str = "nop", options: str = "", whole: bool = False, header: str = "") -> Parsed:
    """Parse a text to its end. A batch holds few entries, so that it is full at times."""
    plan = build_text_plan(tracer, options.split(), whole=whole, header=header)
    formats = TextFormats(plan, lambda: EVENTS)
    batch = TextBatch(plan, PAGE_BYTES, plan.entries_per_page)
    entries: list[Entry] = []
    gaps: list[tuple[int, int | None]] = []
    taken = 0
    fd = os.memfd_create("text")
    try:
        os.pwrite(fd, text, 0)
        status: int | None = None
        while status != ring.EMPTY:
            status, detail = batch.fill(fd, 1 << 40)
            if status == ring.UNKNOWN:
                assert detail is not None
                found = formats.get(detail)
                assert found is not None
                plan.add(build_event_plan(found))
                continue
            assert status in (ring.EMPTY, ring.FULL)
            gaps += [(len(entries) + index, lost) for index, lost in batch.gap_list]
            entries += take_apart(batch)
            taken += batch.raw_bytes
            batch.reset()
        assert batch.held_bytes == 0
        assert batch.total_entries == len(entries)
        return Parsed(entries, gaps, batch.total_unparsed, batch.total_folded, taken)
    finally:
        os.close(fd)


def take_apart(batch: ring.Batch) -> Iterator[Entry]:
    for ts, event_id, flags, preempt_count, pid, is_raw, record in batch.entries():
        event = batch.plan.events[event_id]
        assert event_id >= FIRST_ID
        assert not is_raw
        got: dict[str, bytes] = {}
        for column in event.columns:
            got[column.name] = record[column.offset :][: column.size if column.cls != "tail" else None]
        yield Entry(
            f"{event.system}:{event.name}", ts, flags, preempt_count, pid,
            got["comm"].rstrip(b"\0") if "comm" in got else None,
            int.from_bytes(got["cpu"], "little") if "cpu" in got else None,
            int.from_bytes(got["tgid"], "little", signed=True) if "tgid" in got else None,
            got["message"],
            int.from_bytes(lazy, "little") if (lazy := got.get("common_preempt_lazy_count")) else None,
        )  # fmt: skip


def one(text: bytes, **how: str | bool) -> Entry:
    parsed = parse(text, **how)  # type: ignore[arg-type]
    assert len(parsed.entries) == 1, parsed
    assert parsed.bytes == len(text)
    return parsed.entries[0]


# ---- recorded kernels


def read_rounds(case: Path) -> list[bytes]:
    """trace.txt without its header: what trace_pipe would have given, one text per drain."""
    text = (case / "trace.txt").read_bytes()
    rounds = re.split(rb"^### round .*\n", text, flags=re.MULTILINE)
    return [re.sub(rb"^#(?! [0-9a-f]+ buf:).*\n", b"", part, flags=re.MULTILINE) for part in rounds]


def form_of(case: Path) -> dict[str, str]:
    tree = case / "tracefs"
    return {
        "tracer": (tree / "current_tracer").read_text().strip(),
        "options": (tree / "trace_options").read_text(),
    }


def raw_entries(case: Path) -> list[tuple[int, reference.Entry]]:
    layout, formats, pages = reference.read_case(case)
    return [(cpu, e) for cpu, data in pages.items() for e in reference.decode_pages(data, layout, formats).entries]


@pytest.mark.parametrize("name", RECORDED_CASES)
def test_recorded_text_says_what_the_raw_entries_say(recorded_case: Callable[[str], Path], name: str) -> None:
    case = recorded_case(name)
    form = form_of(case)
    parsed = [parse(text, whole=True, **form) for text in read_rounds(case)]
    entries = [entry for part in parsed for entry in part.entries]
    raw = raw_entries(case)
    assert sum(part.unparsed for part in parsed) == 0
    if form["tracer"] == "function_graph":
        # A call that calls nothing is one line for two entries.
        assert len(entries) + sum(part.folded for part in parsed) == len(raw)
        assert {entry.event for entry in entries} == {"text:funcgraph"}
        return
    assert len(entries) == len(raw)
    if name.endswith("/synth"):
        return  # the kernel's text leaves out the time of discarded entries
    clock = (case / "tracefs/trace_clock").read_text()
    step = 1 if "[counter]" in clock or "[x86-tsc]" in clock else 1000
    assert Counter((e.ts, e.flags, e.preempt_count, e.pid, e.cpu) for e in entries) == Counter(
        (rounded(e.ts, step), shown_flags(e.flags, name), e.preempt_count, e.pid, cpu) for cpu, e in raw
    )


def rounded(ts: int, step: int) -> int:
    return ts if step == 1 else (ts + 500) // 1000 * 1000


def shown_flags(flags: int, name: str) -> int:
    """What of the flags the letters keep: a softirq under an NMI has none, nor bit 2 beside others up to 6.12."""
    if flags & 0x40:
        flags &= ~0x10
    if flags & 0x81 and not name.startswith("6.18/"):
        flags &= ~0x02
    return flags


# ---- forms of a line

HEAD = b"            bash-1234    [001] d..2.  7489.260301: "


def test_default_columns() -> None:
    assert one(HEAD + b"sched_switch: prev_comm=bash\n") == Entry(
        "sched:sched_switch", 7489_260301_000, 0x01, 0x02, 1234, b"bash", None, None, b"prev_comm=bash"
    )


def test_the_pipe_of_all_cpus_keeps_the_cpu() -> None:
    assert one(HEAD + b"sched_switch: x\n", whole=True).cpu == 1


@pytest.mark.parametrize(
    ("columns", "flags", "preempt_count"),
    [
        (b".....", 0, 0),
        (b"D....", 0x81, 0),
        (b"b....", 0x80, 0),
        (b"X....", 0x02, 0),
        (b".N...", 0x24, 0),
        (b".n...", 0x04, 0),
        (b".p...", 0x20, 0),
        (b".B...", 0x26, 0),
        (b".L...", 0x22, 0),
        (b".b...", 0x06, 0),
        (b".l...", 0x02, 0),
        (b"..Z..", 0x48, 0),
        (b"..z..", 0x40, 0),
        (b"..H..", 0x18, 0),
        (b"..h..", 0x08, 0),
        (b"..s..", 0x10, 0),
        (b"dNh2.", 0x2D, 0x02),
        (b"DNZff", 0xED, 0xFF),
        (b"...1", 0, 1),  # before 5.15
        (b"d.h3", 0x09, 3),
    ],
)
def test_flag_letters_of_all_releases(columns: bytes, flags: int, preempt_count: int) -> None:
    entry = one(b"            bash-1234    [001] " + columns + b"  7489.260301: x: y\n")
    assert (entry.flags, entry.preempt_count, entry.event) == (flags, preempt_count, "text:x")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        # irq-info off
        (b"            bash-1234    [001]  7489.260301: x: y\n", (7489_260301_000, 0, 1234, b"bash", None)),
        # record-tgid
        (b"            bash-1234    (   1200) [001] .....  7489.260301: x: y\n",
         (7489_260301_000, 0, 1234, b"bash", 1200)),
        (b"            bash-1234    (-------) [001] .....  7489.260301: x: y\n",
         (7489_260301_000, 0, 1234, b"bash", 0)),
        # a clock that counts
        (b"            bash-1234    [001] .....          235: x: y\n", (235, 0, 1234, b"bash", None)),
        # names that the kernel makes up, and long numbers
        (b"          <idle>-0       [000] .....     1.000001: x: y\n", (1_000001_000, 0, 0, b"<idle>", None)),
        (b"           <...>-4194304 [1023] ..... 1795387852.636751: x: y\n",
         (1795387852_636751_000, 0, 4194304, b"<...>", None)),
        (b"           <XXX>--1      [000] .....     1.000001: x: y\n", (1_000001_000, 0, -1, b"<XXX>", None)),
        # before 5.10: columns of 5 for thread and process
        (b"           <...>-976   [003] d..4   150.000001: x: y\n", (150_000001_000, 1, 976, b"<...>", None)),
        (b"           <...>-1234567 [003] d..4   150.000001: x: y\n", (150_000001_000, 1, 1234567, b"<...>", None)),
        (b"          <idle>-0     (-----) [002] dn.1   150.000001: x: y\n", (150_000001_000, 5, 0, b"<idle>", 0)),
        (b"          logger-17544 (17540) [000] dn.4 15000.000001: x: y\n",
         (15000_000001_000, 5, 17544, b"logger", 17540)),
    ],
)  # fmt: skip
def test_forms_of_the_context(line: bytes, expected: tuple[object, ...]) -> None:
    entry = one(line)
    assert (entry.ts, entry.flags, entry.pid, entry.comm, entry.tgid) == expected
    assert entry.message == b"y"


RT_HEADER = """\
# tracer: nop
#
# entries-in-buffer/entries-written: 3/3   #P:4
#
#                                _-------=> irqs-off
#                               / _------=> need-resched
#                              | / _-----=> need-resched-lazy
#                              || / _----=> hardirq/softirq
#                              ||| / _---=> preempt-depth
#                              |||| / _--=> preempt-lazy-depth
#                              ||||| / _-=> migrate-disable
#                              |||||| /     delay
#           TASK-PID     CPU#  |||||||  TIMESTAMP  FUNCTION
#              | |         |   |||||||     |         |
"""


@pytest.mark.parametrize("header", [RT_HEADER, RT_HEADER.replace("-lazy\n", "_lazy\n"), ""])
@pytest.mark.parametrize(
    ("columns", "flags", "preempt_count", "lazy"),
    [
        (b".......", 0, 0, 0),
        (b"dn.h2..", 0x0D, 2, 0),
        (b"....1..", 0, 1, 0),
        (b"dnLs13.", 0x35, 1, 3),
        (b"....a2f", 0, 0xFA, 2),
    ],
)
def test_columns_of_preempt_rt_are_what_the_header_calls_them(
    header: str, columns: bytes, flags: int, preempt_count: int, lazy: int
) -> None:
    line = b"          insmod-1644    [000] " + columns + b"   555.401628: ipi: to 2\n"
    entry = one(line, header=header)
    assert (entry.flags, entry.preempt_count, entry.lazy, entry.message) == (flags, preempt_count, lazy, b"to 2")


def test_a_header_is_believed_before_the_number_of_columns() -> None:
    """RHEL's has six: no column for need-resched-lazy."""
    header = "".join(line for line in RT_HEADER.splitlines(True) if "need-resched-lazy" not in line)
    entry = one(b"          insmod-1644    [000] dns234   555.401628: x: y\n", header=header)
    assert (entry.flags, entry.preempt_count, entry.lazy) == (0x15, 0x42, 3)
    other = b"          insmod-1644    [000] dns2   555.401628: x: y\n"
    assert one(other, header=header).event == "text:unparsed"


def test_latency_format_of_preempt_rt() -> None:
    text = (
        b"  <idle>-0       0d...1..   14us+: ktime_get <-tick_enter\n"
        b"  <idle>-0       0dN.h3..  163us : preempt_sub <-raw_spin\n"
        b"  <idle>-0       0dN..1..  321us : <stack trace>\n => trace_on\n => cpuidle\n"
    )
    parsed = parse(text, options="latency-format", whole=True)
    assert [(e.ts, e.flags, e.preempt_count, e.lazy, e.event) for e in parsed.entries] == [
        (14_000, 0x01, 1, 0, "ftrace:function"), (163_000, 0x2D, 3, 0, "ftrace:function"),
        (321_000, 0x25, 1, 0, "ftrace:kernel_stack"),
    ]  # fmt: skip
    assert parsed.entries[-1].message == b"<stack trace>\n => trace_on\n => cpuidle"


def test_a_latency_tracers_drawing_of_preempt_rt() -> None:
    text = (
        b"     1168 us |   0)  stress--204   |  .n..... |               |  unmap() {\n"
        b"     1190 us |   0)  stress--204   |  .n..1.. |   3.000 us    |    _raw_lock();\n"
        b"     1196 us |   3)  stress--204   |  dn..2.. | ! 588.667 us  |  }\n"
    )
    parsed = parse(text, tracer="irqsoff", options="display-graph latency-format", whole=True)
    assert [(e.ts, e.cpu, e.pid, e.flags, e.preempt_count) for e in parsed.entries] == [
        (1168_000, 0, 204, 4, 0), (1190_000, 0, 204, 4, 1), (1196_000, 3, 204, 5, 2),
    ]  # fmt: skip
    assert (parsed.unparsed, parsed.folded) == (0, 1)


LINES = st.sampled_from([
    b"            bash-1234    [001] d..2.  7489.260301: x: 1\n",
    b"            bash-1234  [001] d..2  7489.260301: x: 2\n",
    b"            bash-1234567 [001] d..2  7489.260301: x: 3\n",
    b"          <idle>-0     (-----) [002] dn.1  1507.655129: x: 4\n",
    b"            bash-12   (   12) [1023] dn.1 12345678.655129: x: 5\n",
    b"            bash-1234    (   1200) [001] d...2.1  7489.260301: x: 6\n",
    b"            bash-1234    [001] d..2..  7489.260301: x: 7\n",
    b"            bash-1234    [001] d..2....9  7489.260301: of no form\n",
    b"            bash-1234    [001] d..2.  7489.26030: of no form\n",
])  # fmt: skip


@given(st.lists(LINES, max_size=30))
@settings(deadline=None, max_examples=150)
def test_no_line_swallows_another(lines: list[bytes]) -> None:
    parsed = parse(b"".join(lines))
    assert len(parsed.entries) == len(lines)
    assert parsed.unparsed == sum(b"of no form" in line for line in lines)
    assert all(line.endswith(entry.message + b"\n") for line, entry in zip(lines, parsed.entries, strict=True))


def test_latency_format() -> None:
    entry = one(b"  <idle>-0         0dN.2.  123us+: sched_switch: x\n", options="latency-format", whole=True)
    assert entry == Entry("sched:sched_switch", 123_000, 0x25, 2, 0, b"<idle>", 0, None, b"x")
    count = one(b"longname-12345     1.....  4711: x: y\n", options="latency-format")
    assert (count.ts, count.comm, count.pid) == (4711, b"longname", 12345)


def test_verbose_latency_format() -> None:
    line = b"            bash    1234   1 5 00000002 00000007 [1bf08eb4d] 0.123ms (+0.001ms): x: y\n"
    entry = one(line, options="latency-format verbose", whole=True)
    assert (entry.ts, entry.flags, entry.preempt_count, entry.pid, entry.cpu) == (0x1BF08EB4D * 1000, 5, 2, 1234, 1)


@pytest.mark.parametrize(
    ("text", "event", "message"),
    [
        (b"sys_close(fd: 5)", "syscalls:sys_enter_close", b"(fd: 5)"),
        (b"sys_close -> 0x0", "syscalls:sys_exit_close", b"-> 0x0"),
        (b"tracing_mark_write: hello: world", "ftrace:print", b"hello: world"),
        (b"go: bprint", "text:go", b"bprint"),
        (b"twice: in two systems", "text:twice", b"in two systems"),
        (b"nothing: ", "text:nothing", b""),
        (b"vfs_open <-path_openat", "ftrace:function", b"vfs_open <-path_openat"),
        (b"ovl_open [overlay] <-do_open", "ftrace:function", b"ovl_open [overlay] <-do_open"),
        (b"# 1f buf: 01 02", "text:raw_data", b"# 1f buf: 01 02"),
        (b"#1 inner/outer(us): 5/7", "text:other", b"#1 inner/outer(us): 5/7"),
        (b"  8,0    Q   R 1234 + 8 [cat]", "text:blk", b"  8,0    Q   R 1234 + 8 [cat]"),
        (b"  8,0    A   W 12 + 8 <- (8,1) 34", "text:blk", b"  8,0    A   W 12 + 8 <- (8,1) 34"),
        (b"Unknown type 4711", "text:other", b"Unknown type 4711"),
        (b"", "text:other", b""),
        (b"n" * 65 + b": too long a name", "text:other", b"n" * 65 + b": too long a name"),
    ],
)
def test_what_an_event_s_text_begins_with(text: bytes, event: str, message: bytes) -> None:
    entry = one(HEAD + text + b"\n")
    assert (entry.event, entry.message) == (event, message)


def test_stack_traces_belong_to_their_event() -> None:
    stack = b"<stack trace>\n => schedule\n => do_idle"
    text = HEAD + stack + b"\n" + HEAD + b"<user stack trace>\n =>  <00007fcceb5534f7>\n" + HEAD + b"x: y\n"
    parsed = parse(text)
    assert [(e.event, e.message) for e in parsed.entries] == [
        ("ftrace:kernel_stack", stack),
        ("ftrace:user_stack", b"<user stack trace>\n =>  <00007fcceb5534f7>"),
        ("text:x", b"y"),
    ]


def test_a_text_with_newlines_is_one_event() -> None:
    parsed = parse(HEAD + b"tracing_mark_write: two\nlines\n\n" + HEAD + b"x: y\n")
    assert [e.message for e in parsed.entries] == [b"two\nlines\n", b"y"]
    assert parsed.unparsed == 0


def test_trace_printk_without_a_newline_is_told_from_what_follows() -> None:
    parsed = parse(
        HEAD + b"go: no newline" + HEAD + b"go: -1-2 and none" + HEAD + b"sched_switch: x" + HEAD + b"y: z\n"
    )
    assert [e.message for e in parsed.entries] == [b"no newline", b"-1-2 and none", b"x" + HEAD + b"y: z"]


def test_lost_lines_are_gaps() -> None:
    text = b"CPU:1 [LOST 339 EVENTS]\n" + HEAD + b"x: 1\n" + HEAD + b"x: 2\nCPU:0 [LOST EVENTS]\n" + HEAD + b"x: 3\n"
    parsed = parse(text)
    assert parsed.gaps == [(0, 339), (2, None)]
    assert [e.message for e in parsed.entries] == [b"1", b"2", b"3"]
    assert parsed.bytes == len(text)


def test_a_line_too_big_is_an_event() -> None:
    parsed = parse(HEAD + b"x: 1\n[LINE TOO BIG]\n" + HEAD + b"x: 2\n")
    assert [e.event for e in parsed.entries] == ["text:x", "text:unparsed", "text:x"]
    assert parsed.entries[1].message == b"[LINE TOO BIG]"
    assert parsed.entries[1].ts == parsed.entries[0].ts


def test_without_context_each_line_is_kept() -> None:
    parsed = parse(b"sched_switch: a\n<stack trace>\n => f\n => g\nsched_switch: b\n")
    assert [(e.event, e.message) for e in parsed.entries] == [
        ("text:unparsed", b"sched_switch: a"),
        ("text:unparsed", b"<stack trace>\n => f\n => g"),
        ("text:unparsed", b"sched_switch: b"),
    ]
    assert parsed.unparsed == 3


# ---- function_graph

SWITCH = (
    b" ------------------------------------------\n 1)  python3-169   =>    <idle>-0   \n"
    b" ------------------------------------------\n\n"
)


def test_function_graph_keeps_its_drawing() -> None:
    lines = [
        b" 1)               |  vfs_open() {\n",
        b" 1) ! 225.961 us  |    leaf();\n",
        SWITCH + b" 1)               |  /* sched_switch: prev_state=R ==> x; y(); */\n",
        b" 0)   ==========> |\n 0)               |  smp_interrupt() {\n",
        b" 0)   2.1 us      |  } /* smp_interrupt */\n 0)   <========== |\n",
        b" 1)   1.5 us      |  with_args(a=0x1); /* ret=0 */\n",
    ]
    parsed = parse(b"".join(lines), tracer="function_graph", whole=True)
    assert [e.message for e in parsed.entries] == [line.removesuffix(b"\n") for line in lines]
    assert [e.cpu for e in parsed.entries] == [1, 1, 1, 0, 0, 1]
    assert {e.event for e in parsed.entries} == {"text:funcgraph"}
    assert (parsed.folded, parsed.unparsed, parsed.gaps) == (2, 0, [])


def test_function_graph_with_times_and_processes() -> None:
    line = b"   73.490546 |   1)     sh-281     |   3.046 us    |    selinux_inode_permission();\n"
    parsed = parse(line, tracer="function_graph", options="funcgraph-abstime funcgraph-proc", whole=True)
    (entry,) = parsed.entries
    assert (entry.ts, entry.cpu, entry.pid, parsed.folded) == (73_490546_000, 1, 281, 1)


@pytest.mark.parametrize(
    ("options", "begin"),
    [
        ("funcgraph-abstime funcgraph-proc", b" 2479.677478 |   python-169   | "),
        ("funcgraph-abstime", b" 2479.677478 |  "),
        ("funcgraph-proc", b"  python-169   | "),
    ],
)
def test_function_graph_without_the_columns_of_cpu_and_duration(options: str, begin: bytes) -> None:
    lines = [begin + text + b"\n" for text in (b"vfs_fstatat() {", b"  getname_flags();", b"}")]
    options += " nofuncgraph-cpu nofuncgraph-duration"
    parsed = parse(b"".join(lines), tracer="function_graph", options=options)
    assert [e.message + b"\n" for e in parsed.entries] == lines
    assert (parsed.folded, parsed.unparsed) == (1, 0)


def test_function_graph_with_times(recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case("6.12/function_graph")
    text = re.sub(rb"^#.*\n", b"", (case / "trace.abstime.txt").read_bytes(), flags=re.MULTILINE)
    parsed = parse(text, tracer="function_graph", options="funcgraph-abstime funcgraph-proc")
    assert parsed.unparsed == 0
    assert len(parsed.entries) + parsed.folded == len(raw_entries(case))
    assert [e.ts for e in parsed.entries if not e.ts] == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"a", b"b", b"", b"a-1", b"sixteen letters.", b" a"]),  # comm
            st.sampled_from([0, 1, 77, 7777777, 77777777, -1]),  # pid
            st.sampled_from([0, 1, 123, 1023]),  # CPU
            st.sampled_from([(b"", 0), (b".....", 0), (b"D....", 0x81)]),
            st.sampled_from([0, 1, 9, 10, 11, 99999, 100000, 999999, 1000000, 10**9]),  # s
            st.sampled_from([0, 1, 90, 123456, 999999]),  # us
            st.sampled_from([b"x", b"y", b"xy", b"longer_than_8", b"longer_than_9", b"longer_than_16_aa"]),
        ),
        max_size=40,
    )
)
@settings(deadline=None, max_examples=300)
def test_what_a_line_has_in_common_with_earlier_ones_is_not_mixed_up(
    rows: list[tuple[bytes, int, int, tuple[bytes, int], int, int, bytes]],
) -> None:
    text = b"".join(
        b"%16s-%-7d [%03d] %s %5d.%06d: %s: z\n" % (comm, pid, cpu, columns, seconds, us, name)
        for comm, pid, cpu, (columns, _), seconds, us, name in rows
    )
    expected = [
        Entry(f"text:{name.decode()}", (seconds * 10**6 + us) * 1000, flags, 0, pid, comm.lstrip(b" "), cpu, None, b"z")
        for comm, pid, cpu, (_, flags), seconds, us, name in rows
    ]
    assert parse(text, whole=True).entries == expected


@pytest.mark.parametrize(
    "us", [b"12345", b"1234567", b"12345:", b"1234/6", b"12 456", b"", b"\xb1\xb2\xb3\xb4\xb5\xb6"]
)
def test_a_time_has_six_digits_behind_its_point(us: bytes) -> None:
    """What has another is no line of the form that is known: kept as it is, and never part of the line before."""
    line = HEAD.rpartition(b".")[0] + b"." + us + b": x: 2\n"
    parsed = parse(HEAD + b"x: 1\n" + line)
    if us[-1:].isdigit():
        assert [(e.event, e.message) for e in parsed.entries] == [("text:x", b"1"), ("text:unparsed", line[:-1])]
    else:
        assert len(parsed.entries) == 1


# ---- hostile names, broken lines


@pytest.mark.parametrize(
    "comm",
    [
        b"a b",
        b"x-1 [000] .....",
        b"[001] d..2. 1:",
        b"\t\r\x1b[31m",
        b"\xff\xfe\x80",
        b"a\nb",
        b"\n",
        b"-",
        b"evil\n=> x",
    ],
)
def test_a_comm_can_be_anything(comm: bytes) -> None:
    text = HEAD + b"x: 1\n" + comm.rjust(16) + b"-77      [000] .....     2.000000: x: 2\n" + HEAD + b"x: 3\n"
    parsed = parse(text)
    assert [e.message for e in parsed.entries] == [b"1", b"2", b"3"]
    assert (parsed.entries[1].comm, parsed.entries[1].pid) == (comm, 77)


@given(st.lists(st.binary(max_size=120), max_size=30), st.booleans(), st.sampled_from(["nop", "function_graph"]))
@settings(deadline=None, max_examples=300)
def test_any_bytes_are_kept(lines: list[bytes], whole: bool, tracer: str) -> None:
    text = b"\n".join(lines)
    parsed = parse(text, whole=whole, tracer=tracer)
    assert parsed.bytes == len(text)


LINES = st.sampled_from([
    HEAD + b"sched_switch: prev_comm=bash\n", HEAD + b"<stack trace>\n => f\n", b"CPU:1 [LOST 3 EVENTS]\n",
    b"CPU:1 [LOST EVENTS]\n", b"[LINE TOO BIG]\n", b" 1) ! 225.961 us  |    leaf();\n", SWITCH,
    HEAD + b"sys_close(fd: 3)\n", b"            bash-1234    (-------) [001] .....  7489.260301: x: y\n",
    b"  <idle>-0         0dN.2.  123us+: sched_switch: x\n", HEAD + b"  8,0    Q   R 1234 + 8 [cat]\n",
    b"            bash    1234   1 5 00000002 00000007 [1bf08eb4d] 0.123ms (+0.001ms): x: y\n",
])  # fmt: skip


@st.composite
def broken_texts(draw: st.DrawFn) -> bytes:
    """Lines of all forms, with bytes changed, taken out and put in."""
    text = bytearray(b"".join(draw(st.lists(LINES, min_size=1, max_size=12))))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, len(text)))
        match draw(st.integers(0, 2)):
            case 0:
                text[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                del text[at : at + draw(st.integers(1, 40))]
            case _:
                text[at:at] = draw(st.binary(max_size=20))
    return bytes(text)


@given(
    broken_texts(),
    st.sampled_from(["nop", "function_graph"]),
    st.sampled_from(["", "latency-format", "latency-format verbose", "funcgraph-abstime funcgraph-proc"]),
)
@settings(deadline=None, max_examples=500)
def test_broken_lines_are_accounted_for_to_the_byte(text: bytes, tracer: str, options: str) -> None:
    parsed = parse(text, tracer=tracer, options=options, whole=True)
    assert parsed.bytes == len(text)
    kept = sum(len(e.message) for e in parsed.entries if e.event == "text:unparsed")
    assert kept <= len(text)


def test_an_event_larger_than_the_buffer_is_kept_in_pieces() -> None:
    text = HEAD + b"x: " + b"y" * 400_000 + b"\n" + HEAD + b"x: z\n"
    parsed = parse(text)
    assert parsed.bytes == len(text)
    assert parsed.entries[0].event == "text:x"
    assert parsed.entries[-1].message == b"z"


def test_more_entries_than_a_batch_holds() -> None:
    text = b"".join(HEAD + b"x: %d\n" % i for i in range(20_000))
    assert [int(e.message) for e in parse(text).entries] == list(range(20_000))


def test_names_are_bounded() -> None:
    text = b"".join(HEAD + b"made_up_%d: y\n" % i for i in range(10_000))
    events = Counter(e.event for e in parse(text).entries)
    assert len(events) < 8192
    assert events["text:other"] > 1800
