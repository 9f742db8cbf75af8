"""collector.monitor.status: the one line."""

import pytest

from collector.config.text import format_size
from collector.monitor.state import Snapshot, StreamSnapshot
from collector.monitor.status import build_status, render_line, render_status


def stream(cpu: int, decoded: int, used: int = 0, overrun: int | None = 0) -> StreamSnapshot:
    return StreamSnapshot(
        "i", cpu, kernel_overrun=overrun, kernel_dropped=0, kernel_commit_overrun=0, kernel_bytes=used,
        kernel_size_bytes=1000, decoded_events=decoded,
    )  # fmt: skip


def test_the_line_compares_two_snapshots() -> None:
    before = Snapshot(streams=(stream(0, 100), stream(1, 0)))
    now = Snapshot(streams=(stream(0, 20_100, 30), stream(1, 5_000, 250, 7)), archive_bytes=1_300_000)
    status = build_status(now, before, 2.0)
    assert render_status(status) == "12,500 events/s, lost 7, archive 1.2 MiB, rings 25 % full, 2 CPUs"


def test_unknown_numbers_are_left_out() -> None:
    status = build_status(Snapshot(streams=(StreamSnapshot("i", 0),)), Snapshot(), 1.0)
    assert render_status(status) == "0 events/s, lost 0, archive 0 B, 1 CPU"


def test_no_time_between_two_snapshots_is_no_rate() -> None:
    assert build_status(Snapshot(streams=(stream(0, 5),)), Snapshot(), 0.0).events_per_s == 0


def test_a_suspended_archive_is_said() -> None:
    assert "SUSPENDED" in render_status(build_status(Snapshot(archive_suspended=True), Snapshot(), 1.0))


@pytest.mark.parametrize(
    ("columns", "shown"), [(80, "abcdef"), (7, "abcdef"), (6, "abcd…"), (2, "…"), (1, ""), (0, "abcdef")]
)
def test_the_live_line_never_wraps(columns: int, shown: str) -> None:
    assert render_line("abcdef", columns) == "\r\x1b[K" + shown


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 30) - 1, "1.0 GiB"),
        (1 << 41, "2.0 TiB"),
    ],
)
def test_sizes_have_binary_units(size: int, text: str) -> None:
    assert format_size(size) == text
