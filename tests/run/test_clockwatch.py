"""A wall clock that is set, and one that is not."""

import pytest

from collector.run.clockwatch import ClockWatch

S = 10**9


@pytest.mark.parametrize(
    ("wall_ns", "jump_s"),
    [
        (1001 * S, None),
        (1001 * S + 400_000, None),  # slewed
        (1001 * S + 3600 * S, 3600.0),
        (1001 * S - 7200 * S, -7200.0),
    ],
)
def test_a_jump_is_told_once_with_its_size(wall_ns: int, jump_s: float | None) -> None:
    watch = ClockWatch(1000 * S, 50 * S)
    assert watch.look(wall_ns, 51 * S) == jump_s
    assert watch.look(wall_ns + S, 52 * S) is None
    assert watch.jumps == (jump_s is not None)


def test_a_machine_that_slept_has_not_jumped() -> None:
    watch = ClockWatch(1000 * S, 50 * S)
    assert watch.look(9000 * S, 8050 * S) is None
    assert watch.jumps == 0
