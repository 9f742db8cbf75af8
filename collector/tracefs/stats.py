"""The counters of one CPU's ring, from per_cpu/cpuN/stats. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from collector.errors import TracefsFormatError

_NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CpuStats:
    """One reading of a stats file; counts are entries since the ring's last reset.

    All counts fall back to 0 on a reset (trace_clock written, `trace` truncated, a tracer started). Old kernels count
    less: what they do not count they do not lose in that way, or nobody can tell.
    """

    entries: int  # unread now
    overrun: int  # overwritten unread, or cut when the buffer shrank
    commit_overrun: int  # reservations that failed because interrupts wrapped the ring
    bytes: int  # unread, with heads and some padding: a hint only; 0 where the kernel doesn't say
    oldest_event_ts: int | None  # None: the ring is empty, or the kernel doesn't say
    now_ts: int | None  # the trace clock now; None: the kernel doesn't say
    dropped_events: int  # refused because the ring was full (overwrite=0); before 3.7 part of `overrun`
    read_events: int | None  # consumed, by anyone; None: the kernel doesn't count them, before 3.6
    ts_is_ns: bool  # the two times are nanoseconds (in steps of 1000); else raw values of the clock


_NEEDED = ("entries", "overrun")


def parse_cpu_stats(text: str) -> CpuStats:
    """Parse one per_cpu/cpuN/stats file.

    Args:
      text: the whole file; times are `s.uuuuuu` for clocks in nanoseconds, else plain numbers.
    Raises:
      TracefsFormatError: `entries` or `overrun` is missing, or a line has no number.
    Source: kernel/trace/trace.c, tracing_stats_read().
    """
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            values[key] = value.strip()
    try:
        entries, overrun = (_parse_count(key, values[key]) for key in _NEEDED)
        commit_overrun, size, dropped = (
            _parse_count(key, values.get(key, "0")) for key in ("commit overrun", "bytes", "dropped events")
        )
        read = values.get("read events")
        oldest, now = values.get("oldest event ts"), values.get("now ts")
        return CpuStats(
            entries=entries,
            overrun=overrun,
            commit_overrun=commit_overrun,
            bytes=size,
            # An empty ring prints 0.
            oldest_event_ts=(_parse_ts(oldest) or None) if oldest is not None else None,
            now_ts=_parse_ts(now) if now is not None else None,
            dropped_events=dropped,
            read_events=None if read is None else _parse_count("read events", read),
            ts_is_ns="." in (now or oldest or ""),
        )
    except KeyError as error:
        raise TracefsFormatError(
            f"no line {error.args[0]!r}",
            where="per_cpu/cpuN/stats",
            expected=" and ".join(_NEEDED),
            got=repr(text[:200]),
        ) from None
    except ValueError as error:
        raise TracefsFormatError(
            "a line has no number", where="per_cpu/cpuN/stats", expected="numbers", got=str(error)
        ) from None


def sum_stats(stats: Sequence[CpuStats]) -> CpuStats:
    """The counters of several CPUs as those of one ring."""
    oldest = [s.oldest_event_ts for s in stats if s.entries and s.oldest_event_ts is not None]
    now = [s.now_ts for s in stats if s.now_ts is not None]
    return CpuStats(
        entries=sum(s.entries for s in stats),
        overrun=sum(s.overrun for s in stats),
        commit_overrun=sum(s.commit_overrun for s in stats),
        bytes=sum(s.bytes for s in stats),
        oldest_event_ts=min(oldest, default=None),
        now_ts=max(now, default=None),
        dropped_events=sum(s.dropped_events for s in stats),
        read_events=None if any(s.read_events is None for s in stats) else sum(s.read_events or 0 for s in stats),
        ts_is_ns=all(s.ts_is_ns for s in stats),
    )


def _parse_count(key: str, value: str) -> int:
    """A count as the kernel prints it, an unsigned long: a damaged recording may have anything."""
    if not value.isdecimal() or len(value) > 20 or int(value) >= 1 << 64:
        raise ValueError(f"{key}: {value[:40]}")
    return int(value)


def _parse_ts(value: str) -> int:
    """`s.uuuuuu` as nanoseconds, a plain number as it is."""
    seconds, dot, fraction = value.partition(".")
    ts = int(seconds) * _NS_PER_S + int(fraction[:9].ljust(9, "0")) if dot else int(value)
    if not 0 <= ts < 1 << 64:
        raise ValueError(f"time {value[:40]}")
    return ts
