"""The counters of a ring."""

import pytest

from collector.errors import TracefsFormatError
from collector.tracefs.stats import CpuStats, parse_cpu_stats, sum_stats

STATS = """\
entries: 129
overrun: 2
commit overrun: 1
bytes: 7292
oldest event ts:  1821.665483
now ts:  1821.866289
dropped events: 3
read events: 18446744073709551615
"""


def test_a_clock_in_nanoseconds() -> None:
    assert parse_cpu_stats(STATS) == CpuStats(
        entries=129,
        overrun=2,
        commit_overrun=1,
        bytes=7292,
        oldest_event_ts=1_821_665_483_000,
        now_ts=1_821_866_289_000,
        dropped_events=3,
        read_events=2**64 - 1,
        ts_is_ns=True,
    )


def test_a_clock_that_counts() -> None:
    stats = parse_cpu_stats(STATS.replace("1821.665483", "4711").replace("1821.866289", "4712"))
    assert (stats.oldest_event_ts, stats.now_ts, stats.ts_is_ns) == (4711, 4712, False)


def test_an_empty_ring_has_no_oldest_entry() -> None:
    assert parse_cpu_stats(STATS.replace("1821.665483", "    0.000000")).oldest_event_ts is None


def test_without_times() -> None:
    stats = parse_cpu_stats("\n".join(line for line in STATS.splitlines() if " ts" not in line))
    assert (stats.oldest_event_ts, stats.now_ts, stats.ts_is_ns) == (None, None, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "entries"), (STATS.replace("overrun: 2", ""), "overrun"), (STATS.replace("7292", "many"), "no number")],
)
def test_a_wrong_file(text: str, message: str) -> None:
    with pytest.raises(TracefsFormatError, match=message):
        parse_cpu_stats(text)


def test_counters_of_all_cpus_add_up() -> None:
    first = CpuStats(1, 2, 3, 4, None, 50, 5, 6, True)
    second = CpuStats(10, 20, 30, 40, 45, 60, 50, 60, True)
    assert sum_stats([first, second]) == CpuStats(11, 22, 33, 44, 45, 60, 55, 66, True)
