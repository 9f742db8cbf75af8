"""Trace clocks: which the kernel offers, their units, and how they relate to the wall clock. Pure."""

import re
from dataclasses import dataclass
from typing import Literal

from collector.errors import TracefsFormatError

ClockUnit = Literal["ns", "ticks10ms", "count", "cycles"]


@dataclass(frozen=True, slots=True)
class TraceClock:
    """One clock that trace_clock can name."""

    name: str
    unit: ClockUnit  # of the times in the ring
    posix_id: int | None  # the CLOCK_* id that clock_gettime reads it with; None: there is none
    comparable: bool  # times of different CPUs can be compared


# Numbers of include/uapi/linux/time.h: a pure module imports no clock.
CLOCK_MONOTONIC = 1
CLOCK_MONOTONIC_RAW = 4
CLOCK_BOOTTIME = 7
CLOCK_TAI = 11

# {name: clock}. Source: kernel/trace/trace.c, trace_clocks[]; checked against clock_gettime on 6.18.
CLOCKS = {
    clock.name: clock
    for clock in (
        TraceClock("local", "ns", None, False),
        TraceClock("global", "ns", None, True),
        TraceClock("counter", "count", None, True),
        TraceClock("uptime", "ticks10ms", None, True),
        TraceClock("perf", "ns", None, False),
        TraceClock("mono", "ns", CLOCK_MONOTONIC, True),
        TraceClock("mono_raw", "ns", CLOCK_MONOTONIC_RAW, True),
        TraceClock("boot", "ns", CLOCK_BOOTTIME, True),
        TraceClock("tai", "ns", CLOCK_TAI, True),
        TraceClock("x86-tsc", "cycles", None, True),
        TraceClock("ppc-tb", "cycles", None, True),
    )
}


@dataclass(frozen=True, slots=True)
class ClockPair:
    """The trace clock and the system's clocks at one moment; all ns."""

    trace: int
    realtime_ns: int  # CLOCK_REALTIME: it steps and slews, so pairs are taken again and again
    boottime_ns: int
    monotonic_ns: int
    error_ns: int  # the values were read within +- this


def parse_trace_clock(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse trace_clock: (current clock, all clocks in the kernel's order).

    Raises:
      TracefsFormatError: no name, or more than one, is in brackets.
    """
    words = text.split()
    current = [word[1:-1] for word in words if re.fullmatch(r"\[[^\[\]]+\]", word)]
    if len(current) != 1:
        raise TracefsFormatError(
            "no current clock", where="trace_clock", expected="one name in [brackets]", got=repr(text[:120])
        )
    return current[0], tuple(word.strip("[]") for word in words)


def clock_of(name: str) -> TraceClock:
    """The clock of that name; one that is not in the table counts in a unit of its own."""
    return CLOCKS.get(name) or TraceClock(name, "count", None, False)


def pair_from_bracket(
    *,
    monotonic_before_ns: int,
    trace: int | None,
    realtime_ns: int,
    boottime_ns: int,
    monotonic_after_ns: int,
    resolution_ns: int = 0,
) -> ClockPair:
    """The pair of readings that were taken between two readings of CLOCK_MONOTONIC.

    Args:
      trace: the trace clock; None when it is CLOCK_MONOTONIC itself.
      resolution_ns: what the reading of the trace clock was cut to.
    """
    middle_ns = (monotonic_before_ns + monotonic_after_ns) // 2
    error_ns = (monotonic_after_ns - monotonic_before_ns + 1) // 2 + resolution_ns
    return ClockPair(middle_ns if trace is None else trace, realtime_ns, boottime_ns, middle_ns, error_ns)
