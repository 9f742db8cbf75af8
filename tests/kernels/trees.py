"""The files of a generation's tracefs: one that stands in for the live kernel."""

from pathlib import Path

from tests.kernels.generation import CLOCKS, Generation, release_of
from tests.tracefs.tree import FakeKernel, make_fake_kernel, put

HEADER_EVENT = """\
# compressed entry header
\ttype_len    :    5 bits
\ttime_delta  :   27 bits
\tarray       :   32 bits

\tpadding     : type == 29
\ttime_extend : type == 30
"""


def header_event(kernel: Generation) -> str:
    """events/header_event."""
    stamp = "\ttime_stamp : type == 31\n" if kernel.has_time_stamp else ""
    return f"{HEADER_EVENT}{stamp}\tdata max type_len  == 28\n"


def header_page(kernel: Generation, subbuf_size: int = 4096) -> str:
    """events/header_page."""
    head = 8 + kernel.word_size
    return (
        "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
        f"\tfield: local_t commit;\toffset:8;\tsize:{kernel.word_size};\tsigned:1;\n"
        "\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n"
        f"\tfield: char data;\toffset:{head};\tsize:{subbuf_size - head};\tsigned:0;\n"
    )


def stats(kernel: Generation, entries: int = 0, read: int = 0) -> str:
    """per_cpu/cpuN/stats."""
    text = f"entries: {entries}\noverrun: 0\ncommit overrun: 0\nbytes: 0\n"
    text += "oldest event ts:     0.000000\nnow ts:     1.000000\n"
    if release_of(kernel.release) >= (3, 7):
        text += f"dropped events: 0\nread events: {read}\n"
    return text


def event_format(kernel: Generation, name: str, event_id: int, own: str = "") -> str:
    """A format file with the generation's head."""
    head = "".join(
        f"\tfield:{of.type} {of.name};\toffset:{of.offset};\tsize:{of.size};\tsigned:{int(of.signed)};\n"
        for of in kernel.head
    )
    return f'name: {name}\nID: {event_id}\nformat:\n{head}\n{own}\nprint fmt: "x"\n'


def make_kernel(root: Path, kernel: Generation, instance: str = "ours") -> FakeKernel:
    """A tree as this kernel has it, with an instance that is set up as a new one is."""
    made = make_fake_kernel(root, instance)
    clocks = " ".join(clock for clock, since in CLOCKS.items() if release_of(since) <= release_of(kernel.release))
    for folder in (made.path, made.instance(instance).path):
        put(folder, {
            "trace_clock": clocks.replace("local", "[local]") + "\n",
            "events/header_page": header_page(kernel), "events/header_event": header_event(kernel),
            "events/sched/sched_switch/format": event_format(kernel, "sched_switch", 300),
            "events/ftrace/print/format": event_format(kernel, "print", 5),
            "per_cpu/cpu0/stats": stats(kernel),
            "options/pause-on-trace": "0\n",
        })  # fmt: skip
        for name in kernel.absent:
            (folder / name).unlink(missing_ok=True)
    return made
