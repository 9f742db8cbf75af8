"""Log output that can be read by the journal, never floods, and never stalls the capture.

A message is formatted where it is logged, put on a bounded queue, and written to stderr by a
thread of its own: a full pipe or a slow journal blocks that thread alone. What does not fit
the queue is dropped and counted. The same message again and again is written a few times per
minute, the rest is counted too.

Log with the standard library: `logging.getLogger("collector.x").warning("text %s", value)`.
Values that a machine should find go beside the text: `extra={"fields": {"cpu": 3}}`.
"""

import json
import logging
import os
import queue
import re
import select
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

# Lines; with MAX_LINE_CHARS this bounds the memory to some 4 MB of ASCII.
QUEUE_LINES = 500
MAX_LINE_CHARS = 8000

# Enough to see a burst's beginning; a malformed page per second then writes 10 lines a minute.
LIMIT_MESSAGES, LIMIT_PERIOD_S = 10, 60.0
LIMIT_KEYS = 500

# sd-daemon(3): the priorities of syslog.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3}


@dataclass(frozen=True, slots=True)
class LogCounts:
    """What was logged since the start."""

    messages: Mapping[str, int]  # {level: messages}, those not written included
    unwritten: Mapping[str, int]  # {"queue_full" | "rate_limit" | "write_error": messages}


class RateLimiter:
    """At most `burst` messages of a key in each period. Pure: the caller brings the time."""

    def __init__(self, burst: int = LIMIT_MESSAGES, period_s: float = LIMIT_PERIOD_S) -> None:
        self._burst, self._period_s = burst, period_s
        self._keys: OrderedDict[object, list[float]] = OrderedDict()  # {key: [start_s, messages, suppressed]}

    def admit(self, key: object, now_s: float) -> int | None:
        """None: don't write this one. Else write it, and this many before it were suppressed."""
        entry = self._keys.get(key)
        if entry is None:
            entry = self._keys[key] = [now_s, 0, 0]
            if len(self._keys) > LIMIT_KEYS:
                self._keys.popitem(last=False)
        self._keys.move_to_end(key)
        if now_s - entry[0] >= self._period_s:
            entry[0], entry[1] = now_s, 0
        if entry[1] >= self._burst:
            entry[2] += 1
            return None
        entry[1] += 1
        suppressed, entry[2] = int(entry[2]), 0
        return suppressed


def format_record(record: logging.LogRecord, style: Format, *, journal: bool, suppressed: int = 0) -> str:
    """One physical line, without its end.

    Args:
      journal: begin with the priority as sd-daemon(3) has it, and leave the time to the journal.
      suppressed: equal messages that were not written before this one.
    """
    values: dict[str, Any] = {}
    if not journal:
        at = datetime.fromtimestamp(record.created, UTC)
        values["ts"] = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    values["level"] = level_name(record.levelno)
    values["event"] = record.getMessage()
    values["logger"] = record.name
    values.update(getattr(record, "fields", {}))
    if suppressed:
        values["suppressed"] = suppressed
    if record.exc_info:
        values["exception"] = logging.Formatter().formatException(record.exc_info)
    if style == "json":
        line = json.dumps(values, ensure_ascii=False, default=str)
    else:
        line = " ".join(f"{name}={_quote(value)}" for name, value in values.items())
        if len(line) > MAX_LINE_CHARS:
            line = line[:MAX_LINE_CHARS] + "…"
    return f"<{_PRIORITY[values['level']]}>{line}" if journal else line


def level_name(number: int) -> str:
    """One of the four levels that there are here."""
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


def is_journal(fd: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this descriptor is connected to the journal.

    Source: systemd.exec(5), $JOURNAL_STREAM is `device:inode` of what systemd connected.
    """
    device, colon, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    if not (colon and device.isdigit() and inode.isdigit()):
        return False
    stat = os.fstat(fd)
    return (stat.st_dev, stat.st_ino) == (int(device), int(inode))


class LogOutput(logging.Handler):
    """The root logger's handler, with its queue and its thread."""

    def __init__(self, style: Format, *, fd: int = 2, environ: Mapping[str, str] = os.environ) -> None:
        super().__init__()
        self._style = style
        self._fd = fd
        self._journal = is_journal(fd, environ)
        # A live status line may stand in the terminal's last row: clear it first.
        self._before = b"\r\x1b[K" if os.isatty(fd) else b""
        self._queue: queue.Queue[bytes | None] = queue.Queue(QUEUE_LINES)
        self._limiter = RateLimiter()
        self._messages: Counter[str] = Counter()
        self._unwritten: Counter[str] = Counter()
        # daemon: a thread that hangs in a write to a dead terminal must not keep the process.
        self._thread = threading.Thread(target=self._write_lines, name="log-output", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Called by logging, under this handler's lock."""
        self._messages[level_name(record.levelno)] += 1
        suppressed = self._limiter.admit((record.name, record.levelno, record.msg), time.monotonic())
        if suppressed is None:
            self._unwritten["rate_limit"] += 1
            return
        try:
            line = format_record(record, self._style, journal=self._journal, suppressed=suppressed)
        except Exception as e:  # a wrong format string must not end the capture
            record.msg, record.args = f"cannot format {record.msg!r}: {e!r}", None
            line = format_record(record, self._style, journal=self._journal)
        try:
            self._queue.put_nowait(self._before + line.encode(errors="backslashreplace") + b"\n")
        except queue.Full:
            self._unwritten["queue_full"] += 1

    def write_transient(self, text: str) -> None:
        """Write text as it is, such as a live status line; left out without a count when the queue is full."""
        try:
            self._queue.put_nowait(text.encode(errors="backslashreplace"))
        except queue.Full:
            return

    def counts(self) -> LogCounts:
        """What was logged so far; from any thread."""
        return LogCounts(dict(self._messages), dict(self._unwritten))

    def stop(self, timeout_s: float = 1.0) -> None:
        """Take no more messages, and wait for the queue to be written, but not longer than this."""
        logging.getLogger().removeHandler(self)
        deadline_s = time.monotonic() + timeout_s
        try:
            self._queue.put(None, timeout=timeout_s)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline_s - time.monotonic()))

    def _write_lines(self) -> None:
        noted = 0
        while (line := self._queue.get()) is not None:
            self._write(line)
            if (dropped := self._unwritten["queue_full"]) > noted:
                record = logging.LogRecord(
                    __name__, logging.WARNING, "", 0, "log messages dropped: stderr was too slow", None, None
                )
                record.fields = {"messages": dropped - noted}
                noted = dropped
                self._write(self._before + format_record(record, self._style, journal=self._journal).encode() + b"\n")

    def _write(self, line: bytes) -> None:
        # os.write rather than sys.stderr: a daemon thread that hangs inside a buffered file
        # holds its lock, and the interpreter aborts at exit because it cannot flush that file.
        while line:
            try:
                line = line[os.write(self._fd, line) :]
            except BlockingIOError:  # someone made the shared descriptor non-blocking
                select.select([], [self._fd], [])
            except OSError:
                self._unwritten["write_error"] += 1
                return


def start_logging(style: Format, level: str, *, fd: int = 2, environ: Mapping[str, str] = os.environ) -> LogOutput:
    """Send the root logger's messages of this level and above to stderr; ends with `LogOutput.stop`.

    Args:
      level: debug, info, warning or error.
    """
    output = LogOutput(style, fd=fd, environ=environ)
    root = logging.getLogger()
    for handler in root.handlers[:]:
        root.removeHandler(handler)
    root.addHandler(output)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    return output


def _quote(value: object) -> str:
    text = str(value)
    if re.fullmatch(r"[^\s\"'=\\\x00-\x1f\x7f]+", text):
        return text
    return json.dumps(text, ensure_ascii=False)
