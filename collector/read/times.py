"""Points in time on the command line: a trace clock's own value, or wall time."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from collector.archive.bodies import Clock
from collector.archive.objects import ClockPair
from collector.errors import UsageError
from collector.read.walltime import wall_clock

_RAW = re.compile(r"\d+(ns)?")
_SECONDS = re.compile(r"(\d+)(?:\.(\d{0,9}))?s?")


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time as it was asked for."""

    value: int
    scale: Literal["raw", "seconds", "wall"]  # raw: the clock's unit; seconds and wall: value in ns
    text: str  # for messages


def parse_moment(text: str) -> Moment:
    """Reads `123` or `123ns` (the clock's own value), `1.5` or `3s` (seconds of the clock), or an ISO wall time.

    A wall time without an offset is local.

    Raises:
      UsageError: none of these.
    """
    text = text.strip()
    if _RAW.fullmatch(text):
        return Moment(int(text.removesuffix("ns")), "raw", text)
    if found := _SECONDS.fullmatch(text):
        return Moment(int(found[1]) * 10**9 + int((found[2] or "0").ljust(9, "0")), "seconds", text)
    try:
        when = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            "not a point in time",
            got=repr(text),
            expected="a trace clock's value (123456), its seconds (123.456) or a time such as 2026-01-31T12:00:00Z",
        ) from None
    # timestamp() is a float and would round to 100 ns.
    return Moment(int(when.replace(microsecond=0).timestamp()) * 10**9 + when.microsecond * 1000, "wall", text)


def parse_wall_ns(text: str) -> int:
    """Reads a wall time as parse_moment does; ns since 1970.

    Raises:
      UsageError: it is none.
    """
    moment = parse_moment(text)
    if moment.scale != "wall":
        raise UsageError("not a wall time", got=repr(text), expected="a time such as 2026-01-31T12:00:00Z")
    return moment.value


def resolve_moment(
    moment: Moment, instance: str, clock: Clock | None, pairs: Sequence[ClockPair], *, last: bool
) -> int:
    """Gives the moment in an instance's trace clock.

    Args:
      clock: of the instance; None when the segment does not say.
      pairs: the instance's clock pairs.
      last: of several times that a wall time may be (the clock was set back) the last rather than the first.
    Raises:
      UsageError: the clock cannot express it.
    """
    if moment.scale == "raw":
        return moment.value
    if moment.scale == "wall":
        wall = wall_clock(instance, clock, pairs, moment.text)
        return wall.last_at(moment.value) if last else wall.first_at(moment.value)
    if clock is not None and not clock.is_ns:
        raise UsageError(
            f"the trace clock {clock.name} does not count nanoseconds",
            where=f"instance {instance}", got=moment.text, expected="a value of that clock",
        )  # fmt: skip
    return moment.value
