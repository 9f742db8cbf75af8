"""Wall time of a trace clock's values, from the pairs of readings that a segment holds.

Between two pairs it is interpolated. Before the first and behind the last it follows the nearest one. Where the wall
clock was set between two pairs nobody knows when: half the way follows the one, half the other, and the error is as
large as the step.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from collector.archive.bodies import Clock
from collector.archive.objects import ClockPair
from collector.errors import UsageError

# The system's clocks that NTP slews alike: only steps of the wall clock part them.
_SLEWED = frozenset({"mono", "boot", "tai"})

# By how much other clocks may drift from wall time, as a part of the time that passed: NTP slews no faster than
# 500 ppm, quartz is better than that.
_DRIFT_PARTS = 2_000

# Above that part it is no drift: the wall clock was set, or the machine slept while the trace clock stood still.
_STEP_PARTS = 1_000


@dataclass(frozen=True, slots=True)
class _Piece:
    """wall = wall_ns + (ts - ts_ns) * rise_ns / run_ns, from one time on."""

    from_ts: int
    ts_ns: int
    wall_ns: int
    rise_ns: int
    run_ns: int
    error_ns: int
    drifts: bool  # the error grows with the distance from ts_ns

    def at(self, ts: int) -> tuple[int, int]:
        away_ns = ts - self.ts_ns
        drift_ns = abs(away_ns) // _DRIFT_PARTS if self.drifts else 0
        return self.wall_ns + away_ns * self.rise_ns // self.run_ns, self.error_ns + drift_ns


class WallClock:
    """Gives wall time for times of one instance's trace clock.

    Args:
      clock: of the instance.
      pairs: of the instance, in any order; at least one.
    """

    def __init__(self, clock: Clock, pairs: Iterable[ClockPair]) -> None:
        by_ts = sorted({pair.trace: pair for pair in pairs}.values(), key=lambda pair: pair.trace)
        drifts = clock.name not in _SLEWED
        first = by_ts[0]
        self._pieces = [_Piece(0, first.trace, first.realtime_ns, 1, 1, first.error_ns, drifts)]
        for before, after in pairwise(by_ts):
            self._pieces += _between(before, after)
        last = by_ts[-1]
        self._pieces.append(_Piece(last.trace, last.trace, last.realtime_ns, 1, 1, last.error_ns, drifts))
        self._starts = [piece.from_ts for piece in self._pieces]

    def pieces(self) -> list[tuple[int, int, int, int, int]]:
        """Gives (from_ts, ts_ns, wall_ns, rise_ns, run_ns) of each piece, by from_ts from 0 on.

        From from_ts on, wall time is wall_ns + (ts - ts_ns) * rise_ns // run_ns.
        """
        return [(p.from_ts, p.ts_ns, p.wall_ns, p.rise_ns, p.run_ns) for p in self._pieces]

    def at(self, ts: int) -> tuple[int, int]:
        """Gives (wall time in ns since 1970, error bound in ns)."""
        return self._pieces[bisect_right(self._starts, ts) - 1].at(ts)

    def over(self, times: Sequence[int]) -> list[tuple[int, int]]:
        """Gives `at` of each."""
        return [self.at(ts) for ts in times]

    def first_at(self, wall_ns: int) -> int:
        """Gives the first time of the trace clock whose wall time is that or later."""
        for at, piece in enumerate(self._pieces):
            end = self._starts[at + 1] if at + 1 < len(self._starts) else None
            ts = max(-((piece.wall_ns - wall_ns) * piece.run_ns // piece.rise_ns) + piece.ts_ns, piece.from_ts)
            if end is None or ts < end:
                return ts
        raise AssertionError("the last piece has no end")

    def last_at(self, wall_ns: int) -> int:
        """Gives the last time of the trace clock whose wall time is that or earlier; -1: none."""
        for at in range(len(self._pieces) - 1, -1, -1):
            piece = self._pieces[at]
            ts = ((wall_ns + 1 - piece.wall_ns) * piece.run_ns - 1) // piece.rise_ns + piece.ts_ns
            if at + 1 < len(self._starts):
                ts = min(ts, self._starts[at + 1] - 1)
            if ts >= piece.from_ts:
                return ts
        return -1


def _between(before: ClockPair, after: ClockPair) -> list[_Piece]:
    run_ns, rise_ns = after.trace - before.trace, after.realtime_ns - before.realtime_ns
    error_ns = max(before.error_ns, after.error_ns)
    step_ns = abs(rise_ns - run_ns)
    if step_ns <= run_ns // _STEP_PARTS + before.error_ns + after.error_ns and rise_ns > 0:
        return [_Piece(before.trace, before.trace, before.realtime_ns, rise_ns, run_ns, error_ns, False)]
    middle = before.trace + run_ns // 2
    error_ns += step_ns
    return [
        _Piece(before.trace, before.trace, before.realtime_ns, 1, 1, error_ns, False),
        _Piece(middle, after.trace, after.realtime_ns, 1, 1, error_ns, False),
    ]


def wall_clock(instance: str, clock: Clock | None, pairs: Sequence[ClockPair], asked: str) -> WallClock:
    """Gives the wall clock of an instance.

    Args:
      clock: of the instance; None when the segment does not say.
      asked: for the message: what needs it.
    Raises:
      UsageError: its clock does not count nanoseconds, or the archive has no pair of it.
    """
    name = "unknown" if clock is None else clock.name
    if clock is not None and not clock.is_ns:
        raise UsageError(
            f"the trace clock {name} has no wall time: it does not count nanoseconds",
            where=f"instance {instance}", got=asked, expected="a value of that clock",
        )  # fmt: skip
    if clock is None or not pairs:
        raise UsageError(
            f"the archive does not say how the trace clock {name} relates to wall time",
            where=f"instance {instance}", got=asked, expected="a value of that clock",
        )  # fmt: skip
    return WallClock(clock, pairs)
