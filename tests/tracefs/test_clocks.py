"""Trace clocks and their pairs."""

import time

import pytest

from collector.errors import TracefsFormatError
from collector.tracefs.clocks import CLOCKS, ClockPair, clock_of, pair_from_bracket, parse_trace_clock
from collector.tracefs.wallclock import read_clock_pair


def test_current_and_available() -> None:
    assert parse_trace_clock("local global [mono] x86-tsc\n") == ("mono", ("local", "global", "mono", "x86-tsc"))


@pytest.mark.parametrize("text", ["", "local global\n", "[local] [global]\n"])
def test_a_file_without_one_current_clock(text: str) -> None:
    with pytest.raises(TracefsFormatError, match="trace_clock"):
        parse_trace_clock(text)


def test_units() -> None:
    assert {name: clock.unit for name, clock in CLOCKS.items() if clock.unit != "ns"} == {
        "counter": "count",
        "uptime": "ticks10ms",
        "x86-tsc": "cycles",
        "ppc-tb": "cycles",
    }
    assert clock_of("a new one").unit == "count"


def test_the_numbers_are_those_of_the_system() -> None:
    assert {name: clock.posix_id for name, clock in CLOCKS.items() if clock.posix_id is not None} == {
        "mono": time.CLOCK_MONOTONIC,
        "mono_raw": time.CLOCK_MONOTONIC_RAW,
        "boot": time.CLOCK_BOOTTIME,
        "tai": time.CLOCK_TAI,
    }


def test_a_pair_lies_in_the_middle_of_its_bracket() -> None:
    pair = pair_from_bracket(
        monotonic_before_ns=1000, trace=None, realtime_ns=5000, boottime_ns=3000, monotonic_after_ns=1101
    )
    assert pair == ClockPair(trace=1050, realtime_ns=5000, boottime_ns=3000, monotonic_ns=1050, error_ns=51)
    pair = pair_from_bracket(
        monotonic_before_ns=1000, trace=77, realtime_ns=5, boottime_ns=3, monotonic_after_ns=1100, resolution_ns=1000
    )
    assert (pair.trace, pair.error_ns) == (77, 1050)


@pytest.mark.parametrize("name", ["mono", "mono_raw", "boot", "tai"])
def test_a_clock_that_can_be_read(name: str) -> None:
    clock_id = CLOCKS[name].posix_id
    assert clock_id is not None
    before_ns = time.clock_gettime_ns(clock_id)
    pair = read_clock_pair(name)
    after_ns = time.clock_gettime_ns(clock_id)
    assert pair is not None
    assert before_ns <= pair.trace + pair.error_ns
    assert pair.trace - pair.error_ns <= after_ns


def test_a_clock_that_only_the_kernel_reads() -> None:
    pair = read_clock_pair("local", lambda: 123_000)
    assert pair is not None
    assert (pair.trace, pair.error_ns >= 1000) == (123_000, True)


def test_clocks_without_wall_time() -> None:
    def never() -> int:
        raise AssertionError("reading the counter would move it")

    assert read_clock_pair("counter", never) is None
    assert read_clock_pair("x86-tsc", never) is None
    assert read_clock_pair("local") is None
    assert read_clock_pair("local", lambda: None) is None
