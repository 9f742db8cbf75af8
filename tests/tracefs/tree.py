"""A small recorded tree, and one that stands in for the kernel."""

import errno
import os
from pathlib import Path

from collector.tracefs.files import TracefsDir

HEAD = """\
	field:unsigned short common_type;	offset:0;	size:2;	signed:0;
	field:unsigned char common_flags;	offset:2;	size:1;	signed:0;
	field:unsigned char common_preempt_count;	offset:3;	size:1;	signed:0;
	field:int common_pid;	offset:4;	size:4;	signed:1;

"""


def header_page(subbuf_kb: int) -> str:
    return (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:16;\tsize:{subbuf_kb * 1024 - 16};\tsigned:0;\n"
    )


def event_format(name: str, event_id: int) -> str:
    own = "\tfield:u64 value;\toffset:8;\tsize:8;\tsigned:0;\n"
    return f'name: {name}\nID: {event_id}\nformat:\n{HEAD}{own}\nprint fmt: "%llu", REC->value\n'


def stats(entries: int = 0) -> str:
    return (
        f"entries: {entries}\noverrun: 0\ncommit overrun: 0\nbytes: 0\noldest event ts:     0.000000\n"
        "now ts:     1.000000\ndropped events: 0\nread events: 0\n"
    )


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_recorded_tree(root: Path) -> TracefsDir:
    """Two CPUs, two events and one record of the tracers, as `CASE/tracefs`."""
    put(
        root / "tracefs",
        {
            "trace_clock": "local [mono]\n",
            "events/header_page": header_page(4),
            "events/sched/sched_switch/format": event_format("sched_switch", 300),
            "events/sched/sched_switch/id": "300\n",
            "events/irq/irq_entry/format": event_format("irq_entry", 40),
            "events/ftrace/print/format": event_format("print", 5),
            "events/sched/enable": "0\n",
            "per_cpu/cpu0/stats": stats(3),
            "per_cpu/cpu10/stats": stats(0),
            "per_cpu/cpu0/trace_pipe_raw": "raw",
        },
    )
    return TracefsDir(root / "tracefs")


class FakeKernel(TracefsDir):
    """A tree whose values take the place of the old ones when written, and whose memory can run out.

    Sub-buffers larger than `memory_kb` are refused with ENOMEM. `written` has all writes in order.
    """

    memory_kb = 64

    def __init__(self, path: Path, top: TracefsDir | None = None) -> None:
        super().__init__(path, top=top)
        self.written: list[tuple[str, str]] = []

    def instance(self, name: str) -> "FakeKernel":
        made = FakeKernel(self.path / "instances" / name, top=self)
        made.memory_kb, made.written = self.memory_kb, self.written
        return made

    def _write(self, name: str, value: str, flags: int) -> None:
        self.written.append((name, value))
        if name == "buffer_subbuf_size_kb":
            if int(value) > self.memory_kb:
                failure = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
                raise self._error(failure, name, "the kernel refuses the value", value) from failure
            (self.path / "events/header_page").write_text(header_page(int(value)))
        if name == "trace_clock":
            value = f"[{value}] local"
        (self.path / name).write_text(value + "\n")


def make_fake_kernel(root: Path, name: str, *, entries: int = 0) -> FakeKernel:
    """A tree with an instance that is set up as a new one is."""
    put(root, {"available_events": "sched:sched_switch\nsched:sched_waking\n"})
    put(
        root / "instances" / name,
        {
            "trace_clock": "[local] global mono\n",
            "events/header_page": header_page(4),
            "events/enable": "0\n",
            "events/sched/enable": "0\n",
            "events/sched/sched_switch/enable": "0\n",
            "set_event": "",
            "set_event_notrace_pid": "",
            "buffer_size_kb": "1410\n",
            "buffer_subbuf_size_kb": "4\n",
            "buffer_percent": "50\n",
            "options/overwrite": "1\n",
            "options/event-fork": "0\n",
            "tracing_on": "1\n",
            "tracing_cpumask": "1\n",
            "trace": "",
            "per_cpu/cpu0/stats": stats(entries),
        },
    )
    return FakeKernel(root)
