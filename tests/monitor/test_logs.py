"""collector.monitor.logs: one line per message, never a flood, never a stall."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from collector.monitor.logs import (
    QUEUE_LINES,
    LogOutput,
    RateLimiter,
    format_record,
    is_journal,
    level_name,
    start_logging,
)

log = logging.getLogger("collector.test")


@contextmanager
def piped(style: str = "text", **environ: str) -> Iterator[tuple[LogOutput, int]]:
    """A started log on a pipe, and the descriptor to read it from."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    reader, writer = os.pipe()
    output = start_logging(style, "info", fd=writer, environ=environ)  # type: ignore[arg-type]
    try:
        yield output, reader
    finally:
        output.stop(0)
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        os.close(reader)
        output._queue.put(None)  # a full queue kept stop() from doing so
        output._thread.join(10)  # it must not write to a descriptor that another test gets
        os.close(writer)


def record(message: str, *args: object, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("collector.x", level, "", 0, message, args, None)
    made.created = 0.25
    made.fields = fields
    return made


@pytest.mark.parametrize(
    ("made", "journal", "line"),
    [
        (record("ready"), True, "<6>level=info event=ready logger=collector.x"),
        (
            record("page %d of %s", 3, "cpu0", level=logging.WARNING, cpu=0, path="/a b", text='say "x"\nagain'),
            False,
            'ts=1970-01-01T00:00:00.250Z level=warning event="page 3 of cpu0" logger=collector.x cpu=0 path="/a b" '
            'text="say \\"x\\"\\nagain"',
        ),
        (record("x", level=logging.CRITICAL, empty=""), True, '<3>level=error event=x logger=collector.x empty=""'),
    ],
)
def test_text_lines(made: logging.LogRecord, journal: bool, line: str) -> None:
    assert format_record(made, "text", journal=journal) == line


def test_json_lines_have_the_same_values() -> None:
    line = format_record(record("a\nb", cpu=3), "json", journal=False, suppressed=4)
    assert json.loads(line) == {
        "ts": "1970-01-01T00:00:00.250Z", "level": "info", "event": "a\nb", "logger": "collector.x", "cpu": 3,
        "suppressed": 4,
    }  # fmt: skip


def test_a_traceback_stays_on_its_line() -> None:
    made = record("failed")
    try:
        raise ValueError("reason")
    except ValueError:
        made.exc_info = sys.exc_info()
    line = format_record(made, "text", journal=True)
    assert "\n" not in line
    assert "ValueError: reason" in line


def test_an_endless_message_is_cut() -> None:
    assert len(format_record(record("x" * 100_000), "text", journal=True)) < 9000


def test_levels_are_four() -> None:
    assert [level_name(n) for n in (5, 10, 20, 25, 30, 40, 50)] == [
        "debug", "debug", "info", "info", "warning", "error", "error",
    ]  # fmt: skip


def test_the_journal_is_known_by_device_and_inode() -> None:
    reader, writer = os.pipe()
    stat = os.fstat(writer)
    try:
        assert is_journal(writer, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"})
        assert not is_journal(writer, {"JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino + 1}"})
        assert not is_journal(writer, {"JOURNAL_STREAM": "x"})
        assert not is_journal(writer, {})
    finally:
        os.close(reader)
        os.close(writer)


def test_the_limiter_lets_a_burst_through_and_counts_the_rest() -> None:
    limiter = RateLimiter(burst=2, period_s=10)
    assert [limiter.admit("a", t) for t in (0, 1, 2, 3)] == [0, 0, None, None]
    assert limiter.admit("b", 3) == 0
    assert [limiter.admit("a", t) for t in (11, 12, 13)] == [2, 0, None]


def test_the_limiter_forgets_old_keys() -> None:
    limiter = RateLimiter()
    for key in range(5000):
        limiter.admit(key, 0)
    assert len(limiter._keys) <= 500


def test_messages_are_written_and_counted_by_level() -> None:
    with piped() as (output, reader):
        log.info("one")
        log.debug("not at this level")
        log.error("two", extra={"fields": {"cpu": 1}})
        output.stop(10)
        lines = os.read(reader, 10_000).decode().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "level=info event=one logger=collector.test",
        "level=error event=two logger=collector.test cpu=1",
    ]
    assert output.counts().messages == {"info": 1, "error": 1}
    assert output.counts().unwritten == {}


def test_equal_messages_are_limited_and_counted() -> None:
    with piped() as (output, reader):
        for cpu in range(30):
            log.warning("malformed page on cpu %d", cpu)
        output.stop(10)
        assert os.read(reader, 100_000).count(b"\n") == 10
    assert output.counts().messages == {"warning": 30}
    assert output.counts().unwritten == {"rate_limit": 20}


def test_a_reader_that_stalls_never_stalls_the_one_who_logs() -> None:
    with piped() as (output, reader):
        sent = QUEUE_LINES + 200
        for n in range(sent):
            log.info("x" * 4000 + str(n))  # far more than the pipe and the queue hold
        counts = output.counts()
        assert counts.messages == {"info": sent}
        assert 0 < counts.unwritten["queue_full"] <= 200
        output.stop(0)  # gives up at once although nothing was read
        text = b""
        while output._thread.is_alive() and b"log messages dropped" not in text:
            text += os.read(reader, 1 << 20)
            output._queue.empty() and output._queue.put(None)
    assert b"log messages dropped" in text


def test_a_message_that_cannot_be_formatted_is_written_all_the_same() -> None:
    with piped() as (output, reader):
        log.info("%d entries", "many")
        output.stop(10)
        assert b"cannot format" in os.read(reader, 10_000)


def test_a_closed_stderr_is_counted() -> None:
    with piped() as (output, reader):
        other = os.dup(reader)
        os.close(reader)
        os.close(other)
        log.info("to nobody")
        output.stop(10)
        assert output.counts().unwritten == {"write_error": 1}
        os.dup2(os.open(os.devnull, os.O_RDONLY), reader)


def test_a_live_line_passes_through_as_it_is() -> None:
    with piped() as (output, reader):
        output.write_transient("\r\x1b[K12 events/s")
        output.stop(10)
        assert os.read(reader, 100) == b"\r\x1b[K12 events/s"
