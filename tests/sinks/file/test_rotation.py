"""When a segment ends."""

import pytest

from sinks.file.rotation import Rotation

HOUR = 3600
DAY = 24 * HOUR
MIDNIGHT = 20_000 * DAY  # 2024-10-04T00:00:00Z


def test_a_segment_ends_at_its_size() -> None:
    assert [Rotation(100, 60).is_full(size) for size in (0, 99, 100, 101)] == [False, False, True, True]


def test_a_segment_ends_at_its_age_whatever_the_wall_clock_says() -> None:
    rotation = Rotation(100, 60)
    assert [rotation.is_due(age, 1000, 0) for age in (0, 59.9, 60)] == [False, False, True]


@pytest.mark.parametrize(("period_s", "opened_s", "last_s", "due_s"), [
    (HOUR, MIDNIGHT + 5, MIDNIGHT + HOUR - 0.1, MIDNIGHT + HOUR),
    (HOUR, MIDNIGHT, MIDNIGHT + HOUR - 1, MIDNIGHT + HOUR),
    (DAY, MIDNIGHT + 5, MIDNIGHT + DAY - 1, MIDNIGHT + DAY),
    (900, MIDNIGHT + 899, MIDNIGHT + 899.5, MIDNIGHT + 900),
    (HOUR, MIDNIGHT + 5, MIDNIGHT + 6, MIDNIGHT + 5 * HOUR),  # the machine slept
])  # fmt: skip
def test_a_segment_ends_where_a_period_begins(period_s: int, opened_s: float, last_s: float, due_s: float) -> None:
    rotation = Rotation(100, 1e9, period_s)
    assert not rotation.is_due(0, opened_s, last_s)
    assert rotation.is_due(0, opened_s, due_s)


def test_a_wall_clock_that_was_set_back_ends_nothing() -> None:
    assert not Rotation(100, 1e9, HOUR).is_due(0, MIDNIGHT + 5, MIDNIGHT - 5)
