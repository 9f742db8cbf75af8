"""Wall time from pairs of clock readings, and back."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from collector.archive.bodies import Clock
from collector.archive.objects import ClockPair
from collector.archive.totals import Totals
from collector.errors import UsageError
from collector.read.walltime import WallClock
from collector.show.show import show_paths
from tests.archive.encoder import header
from tests.read.made import plain, write_segment

S = 1_000_000_000
BASE = 1_700_000_000 * S


def pair(trace: int, realtime_ns: int, error_ns: int = 50) -> ClockPair:
    return ClockPair("main", trace, realtime_ns, 0, 0, error_ns)


def body(trace: int, realtime_ns: int, error_ns: int = 50) -> dict[str, Any]:
    return {"trace": trace, "realtime_ns": realtime_ns, "boottime_ns": 0, "monotonic_ns": 0, "error_ns": error_ns}


def clock_of(*pairs: ClockPair, name: str = "mono") -> WallClock:
    return WallClock(Clock(name, "ns"), pairs)


def test_between_pairs_it_is_interpolated_and_beyond_them_the_nearest_counts() -> None:
    wall = clock_of(pair(100 * S, BASE), pair(160 * S, BASE + 60 * S + 600, 70))
    assert wall.at(100 * S) == (BASE, 70)
    assert wall.at(130 * S) == (BASE + 30 * S + 300, 70)
    assert wall.at(99 * S) == (BASE - S, 50)
    assert wall.at(170 * S) == (BASE + 70 * S + 600, 70)
    assert wall.over([99 * S, 130 * S]) == [wall.at(99 * S), wall.at(130 * S)]


def test_clocks_that_drift_have_an_error_that_grows() -> None:
    wall = clock_of(pair(100 * S, BASE), name="local")
    assert wall.at(102 * S) == (BASE + 2 * S, 50 + 1_000_000)
    assert wall.at(98 * S) == (BASE - 2 * S, 50 + 1_000_000)


@pytest.mark.parametrize("step_ns", [3600 * S, -3600 * S, S])
def test_a_wall_clock_that_was_set_makes_the_error_as_large_as_the_step(step_ns: int) -> None:
    wall = clock_of(pair(100 * S, BASE), pair(160 * S, BASE + 60 * S + step_ns))
    assert wall.at(110 * S) == (BASE + 10 * S, 50 + abs(step_ns))
    assert wall.at(150 * S) == (BASE + 50 * S + step_ns, 50 + abs(step_ns))


@pytest.mark.parametrize("rise", [60 * S, 60 * S + 617, 60 * S - 617, 7260 * S, -3000 * S])
def test_bounds_are_the_first_and_the_last_time_that_qualify(rise: int) -> None:
    wall = clock_of(pair(100, BASE), pair(100 + 60 * S, BASE + rise), pair(100 + 120 * S, BASE + rise + 60 * S))
    times = [0, 1, 99, 100, 101, 30 * S + 99, 30 * S + 100, 30 * S + 101, 60 * S + 100, 130 * S, 130 * S + 1]
    for ts in times:
        at = wall.at(ts)[0]
        first, last = wall.first_at(at), wall.last_at(at)
        assert first <= ts <= last
        assert wall.at(first)[0] >= at >= wall.at(last)[0]
        assert first == 0 or wall.at(first - 1)[0] < at
        assert wall.at(last + 1)[0] > at
    assert wall.first_at(BASE - 1000 * S - abs(rise)) == 0
    assert wall.last_at(BASE - 10**6 * S) == -1


def show(path: Path, **how: Any) -> list[str]:
    out = io.StringIO()
    show_paths([path], out, **how)
    return out.getvalue().splitlines()


def test_show_prints_either_or_both(tmp_path: Path) -> None:
    path = write_segment(tmp_path, [(("main", 0), [plain(2 * S + 5, 7)])], pairs=[body(2 * S, BASE, 60)])
    assert show(path, time="wall") == ["<...>-7 [000] 2023-11-14T22:13:20.000000005Z: made:plain: value=1"]
    assert show(path, time="both") == ["<...>-7 [000] 2.000000005 2023-11-14T22:13:20.000000005Z: made:plain: value=1"]
    for time in ("wall", "both"):
        entry = json.loads(show(path, time=time, format="json")[0])
        assert (entry["ts_ns"], entry["wall_ns"], entry["wall_error_ns"]) == (2 * S + 5, BASE + 5, 60)
    assert "wall_ns" not in json.loads(show(path, format="json")[0])
    with pytest.raises(UsageError, match="unknown kind of time"):
        show(path, time="now")


def test_bounds_in_wall_time_use_the_pairs_on_both_sides(tmp_path: Path) -> None:
    rows = [plain(at * S, 7) for at in range(100, 161, 10)]
    path = write_segment(
        tmp_path, [(("main", 0), rows)], pairs=[body(100 * S, BASE), body(160 * S, BASE + 60 * S + 600)]
    )
    # At 130 s of the trace clock it is 22:13:50.000000300.
    assert len(show(path, since="2023-11-14T22:13:50Z")) == 4
    assert len(show(path, since="2023-11-14T22:13:50.000001Z")) == 3
    assert len(show(path, until="2023-11-14T22:13:50Z")) == 3
    assert len(show(path, until="2023-11-14T22:13:50.000001Z")) == 4


@pytest.mark.parametrize("unit", ["count", "ticks10ms", "cycles"])
def test_clocks_without_wall_time_say_so(tmp_path: Path, unit: str) -> None:
    path = write_segment(tmp_path, [(("main", 0), [plain(5, 7)])], unit=unit)
    for time in ("wall", "both"):
        with pytest.raises(UsageError, match="has no wall time"):
            show(path, time=time)
    with pytest.raises(UsageError, match="has no wall time"):
        show(path, since="2023-11-14T22:13:50Z")
    assert len(show(path)) == 1


def test_an_archive_without_pairs_says_so_and_one_segment_without_does_not_stop_the_others(tmp_path: Path) -> None:
    rows = [(("main", 0), [plain(5, 7)])]
    write_segment(tmp_path, rows)
    with pytest.raises(UsageError, match="relates to wall time"):
        show(tmp_path, time="wall")
    write_segment(tmp_path, rows, pairs=[body(0, BASE)], of=header(1, {("main", 0): Totals()}))
    assert [line.split()[2] for line in show(tmp_path, time="wall")] == ["?:", "2023-11-14T22:13:20.000000005Z:"]
    found = [json.loads(line) for line in show(tmp_path, time="wall", format="json")]
    assert [(e["wall_ns"], e["wall_error_ns"]) for e in found] == [(None, None), (BASE + 5, 50)]
