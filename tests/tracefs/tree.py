"""A small recorded tree, and one that stands in for the kernel."""

import errno
import os
from pathlib import Path

from collector.tracefs.files import TracefsDir
from collector.tracefs.functions import matching_functions, parse_functions

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


FUNCTIONS = "vfs_read\nvfs_write\ndo_sys_openat2\next4_sync [ext4]\next4_read [ext4]\n"


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

    Sub-buffers larger than `memory_kb` are refused with ENOMEM, writes to the files in `refused` with their errno.
    Appended lines are added, `!line` and `-:line` take them away. `written` has all writes in order.
    """

    memory_kb = 64

    def __init__(self, path: Path, top: TracefsDir | None = None) -> None:
        super().__init__(path, top=top)
        self.written: list[tuple[str, str]] = []
        self.refused: dict[tuple[str, str], int] = {}  # {(file, value): errno}

    def instance(self, name: str) -> "FakeKernel":
        made = FakeKernel(self.path / "instances" / name, top=self)
        made.memory_kb, made.written, made.refused = self.memory_kb, self.written, self.refused
        return made

    def _write(self, name: str, value: str, flags: int) -> None:
        self.written.append((name, value))
        number = self.refused.get((name, value))
        if name == "buffer_subbuf_size_kb" and int(value) > self.memory_kb:
            number = errno.ENOMEM
        if number is not None:
            if name in FUNCTION_LISTS and flags & os.O_TRUNC:
                self._put_functions(name, "", flags)
            if name.endswith("/filter"):
                log = self.path / "error_log"
                log.write_text((log.read_text() if log.exists() else "") + REFUSAL)
            failure = OSError(number, os.strerror(number))
            raise self._error(failure, name, "the kernel refuses the value", value, opened=True) from failure
        if name == "buffer_subbuf_size_kb":
            (self.path / "events/header_page").write_text(header_page(int(value)))
        if name == "trace_clock":
            value = f"[{value}] local"
        if name == "snapshot":
            value = SECOND_RING["freed" if value == "0" else "empty"]
        if name == "buffer_size_kb":
            for file in (self.path / "per_cpu").glob("*/buffer_size_kb"):
                file.write_text(f"{value}\n")
        if name in ("set_ftrace_pid", "set_ftrace_notrace_pid") and not value:
            value = "no pid"
        if (name, value) == ("events/enable", "0"):
            for file in (self.path / "events").glob("*/*/enable"):
                file.write_text("0\n")
        if name in FUNCTION_LISTS:
            self._put_functions(name, value, flags)
            return
        if flags & os.O_APPEND:
            lines = (self.path / name).read_text().splitlines()
            if value[:1] == "!":
                lines.remove(value[1:])
            elif value[:2] == "-:":
                kept = [line for line in lines if not _is_removed(line, value)]
                if kept == lines:
                    failure = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
                    raise self._error(failure, name, "the kernel refuses the value", value, opened=True) from failure
                lines = kept
            else:
                lines.append(value)
                if name == "dynamic_events":
                    self._make_event(value)
            value = "\n".join(lines)
        (self.path / name).write_text(value + "\n" if value else "")

    def _put_functions(self, name: str, pattern: str, flags: int) -> None:
        """The list has names, not patterns; an empty one says so."""
        text = self.top.read_text("available_filter_functions")
        means = matching_functions(pattern, parse_functions(text)) if pattern else set()
        now = set() if flags & os.O_TRUNC else {n for n, _ in parse_functions(self.read_text(name))}
        lines = [line for line in text.splitlines() if line.split()[0] in now | means]
        (self.path / name).write_text("\n".join(lines or [FUNCTION_LISTS[name]]) + "\n")

    def _make_event(self, line: str) -> None:
        """Every instance has the event's folder."""
        event = _event_of(line)
        top = [self.path] if (self.path / "events").exists() else []
        for instance in (*top, *(self.path / "instances").iterdir()):
            put(instance, {f"events/{event}/{file}": "" for file in ("enable", "filter", "trigger")})


def _event_of(line: str) -> str:
    """GROUP/NAME of a line of dynamic_events; the kernel's group of user events is not in it."""
    name = line.split()[0].partition(":")[2]
    return name if "/" in name else f"user_events/{name}"


def _is_removed(line: str, removal: str) -> bool:
    """As dyn_event_release() compares: of user events the fields too, all of them and as they are listed."""
    wanted, *fields = removal.removeprefix("-:").split()
    if wanted != _event_of(line):
        return False
    return not line.startswith("u:") or line.split()[1:] == fields


# {state of a snapshot's ring: how the file begins}
SECOND_RING = {
    "freed": "# tracer: nop\n#\n#\n# * Snapshot is freed *\n#\n# Snapshot commands:",
    "empty": "# tracer: nop\n#\n#\n# * Snapshot is allocated *\n#\n# Snapshot commands:",
    "full": "# tracer: nop\n#\n# entries-in-buffer/entries-written: 10/10   #P:2\n#",
}

# {file: what it says when it is empty}
FUNCTION_LISTS = {
    "set_ftrace_filter": "#### all functions enabled ####",
    "set_ftrace_notrace": "#### no functions disabled ####",
    "set_graph_function": "#### all functions enabled ####",
    "set_graph_notrace": "#### no functions disabled ####",
}

REFUSAL = """\
[   12.345678] event filter parse error: error: Field not found
  Command: foo == 1
             ^
"""


def make_fake_kernel(root: Path, name: str, *, entries: int = 0) -> FakeKernel:
    """A tree with an instance that is set up as a new one is."""
    put(
        root,
        {
            "available_events": "sched:sched_switch\nsched:sched_waking\n",
            "available_tracers": "blk mmiotrace function_graph function nop\n",
            "available_filter_functions": FUNCTIONS,
            "dynamic_events": "",
            "error_log": "[    1.000000] event filter parse error: error: An old one\n  Command: x\n           ^\n",
            "per_cpu/cpu0/stats": stats(0),
            "trace_clock": "[local] global mono\n",
            "set_graph_function": "vfs_write\n",
            "set_graph_notrace": "#### no functions disabled ####\n",
            "max_graph_depth": "0\n",
            "saved_cmdlines_size": "128\n",
            "tracing_thresh": "0\n",
        },
    )
    put(root.parent / "sysctl", {"ftrace_enabled": "1\n", "stack_tracer_enabled": "0\n"})
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
            "set_event_pid": "",
            "set_ftrace_filter": "#### all functions enabled ####\n",
            "set_ftrace_notrace": "#### no functions disabled ####\n",
            "set_ftrace_pid": "no pid\n",
            "set_ftrace_notrace_pid": "no pid\n",
            "available_tracers": "function nop\n",
            "current_tracer": "nop\n",
            "events/sched/sched_switch/filter": "none\n",
            "events/sched/sched_switch/trigger": "",
            "events/sched/sched_waking/enable": "0\n",
            "events/sched/sched_waking/filter": "none\n",
            "events/sched/sched_waking/trigger": "",
            "options/func_stack_trace": "0\n",
            "options/sym-addr": "0\n",
            "per_cpu/cpu0/buffer_size_kb": "1410\n",
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
