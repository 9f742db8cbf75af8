"""Reading the trace clock beside the system's clocks."""

import time
from collections.abc import Callable

from collector.tracefs.clocks import ClockPair, clock_of, pair_from_bracket

_CLOCK_TRIES = 5  # brackets to take, of which the tightest counts: one in five is seldom interrupted


def read_clock_pair(clock_name: str, read_now: Callable[[], int | None] | None = None) -> ClockPair | None:
    """The trace clock beside the system's clocks, now; None when the clock has no wall time.

    Args:
      read_now: gives the trace clock in ns, cut to 1000 (`now_ts` of a stats file), for the clocks in
        ns that clock_gettime doesn't know (local, global, perf).
    """
    clock = clock_of(clock_name)
    if clock.unit != "ns" or (clock.posix_id is None and read_now is None):
        return None
    best: ClockPair | None = None
    for _ in range(_CLOCK_TRIES):
        before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        resolution_ns = 0
        trace: int | None = None
        if clock.posix_id is None:
            trace = read_now() if read_now else None
            resolution_ns = 1000
            if trace is None:
                return None
        elif clock.posix_id != time.CLOCK_MONOTONIC:
            trace = time.clock_gettime_ns(clock.posix_id)
        realtime_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        pair = pair_from_bracket(
            monotonic_before_ns=before_ns, trace=trace, realtime_ns=realtime_ns, boottime_ns=boottime_ns,
            monotonic_after_ns=time.clock_gettime_ns(time.CLOCK_MONOTONIC), resolution_ns=resolution_ns,
        )  # fmt: skip
        if best is None or pair.error_ns < best.error_ns:
            best = pair
    return best
