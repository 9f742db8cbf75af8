"""What takes back writes to the top-level buffer: there is no instance that they go with. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from collector.control.planner import LIST_FILES, PID_FILES
from collector.control.wish import NOTRACE_FILE, SUBBUF_FILE, Undo, Write
from collector.tracefs.clocks import parse_trace_clock
from collector.tracefs.functions import parse_functions

SIZE_FILE = "buffer_size_kb"
ALL_EVENTS_FILE = "events/enable"
_CPU_SIZE = re.compile(r"per_cpu/cpu\d+/buffer_size_kb")
_EXPANDED = re.compile(r"\(expanded: (\d+)\)")


def with_undos(writes: Iterable[Write], before: Mapping[str, str]) -> list[Write]:
    """The writes, each with what takes it back; all events were off before.

    Args:
      before: {file: text} of the files that are written, and of all sizes where one of them is.
    """
    return [write if write.undo else replace(write, undo=_undo(write.file, before)) for write in writes]


def is_size(file: str) -> bool:
    """Whether the file changes the rings' sizes."""
    return file in (SUBBUF_FILE, SIZE_FILE) or _CPU_SIZE.fullmatch(file) is not None


def _undo(file: str, before: Mapping[str, str]) -> tuple[Undo, ...]:
    text = before.get(file, "")
    if file.startswith("events/") and file.endswith("/enable"):
        return (Undo(ALL_EVENTS_FILE, "0"),)
    if file.startswith("events/") and file.endswith("/filter"):
        return (Undo(file, "0" if text.strip() == "none" else text.strip()),)
    if file == SUBBUF_FILE:
        return (Undo(file, text.strip()), *_size_undos(before))
    if is_size(file):
        return _size_undos(before)
    if file in LIST_FILES:
        names = dict.fromkeys(name for name, _ in parse_functions(text))
        return (Undo(file, "", "clear"), *(Undo(file, name, "append") for name in names))
    if file in (NOTRACE_FILE, *PID_FILES):
        ids = [word for word in text.split() if word.isdecimal()]
        return (Undo(file, " ".join(ids), "replace") if ids else Undo(file, "", "clear"),)
    if file == "trace_clock":
        return (Undo(file, parse_trace_clock(text)[0]),)
    return (Undo(file, text.strip()),)


def _size_undos(before: Mapping[str, str]) -> tuple[Undo, ...]:
    """Of rings that nobody has used, "7 (expanded: 1408)", the size that they have from the first use on."""
    common = _size_kb(before.get(SIZE_FILE, ""))
    if common is not None:
        return (Undo(SIZE_FILE, common),)
    sizes = {file: _size_kb(text) for file, text in sorted(before.items()) if _CPU_SIZE.fullmatch(file)}
    return tuple(Undo(file, size) for file, size in sizes.items() if size is not None)


def _size_kb(text: str) -> str | None:
    """None: "X", CPUs differ."""
    if expanded := _EXPANDED.search(text):
        return expanded[1]
    word = text.strip()
    return word if word.isdecimal() else None
