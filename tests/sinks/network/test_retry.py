"""sinks.network.retry: waits that double, and are shortened by chance."""

import pytest

from sinks.network.retry import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(0.5, 3.0, 0.5, lambda: 0.0)
    assert [backoff.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.failures == 5


def test_chance_takes_off_a_part_and_never_more() -> None:
    chances = iter([0.0, 0.5, 0.999])
    backoff = Backoff(1.0, 1.0, 0.5, lambda: next(chances))
    assert [backoff.next_s() for _ in range(3)] == pytest.approx([1.0, 0.75, 0.5005])


def test_after_a_success_the_first_wait_is_a_first_one_again() -> None:
    backoff = Backoff(0.5, 30.0, 0.0, lambda: 0.0)
    for _ in range(4):
        backoff.next_s()
    backoff.reset()
    assert (backoff.failures, backoff.next_s()) == (0, 0.5)


@pytest.mark.parametrize(("first_s", "max_s", "jitter"), [(0, 1, 0.5), (2, 1, 0.5), (1, 2, 1.5), (1, 2, -0.1)])
def test_impossible_waits_are_refused(first_s: float, max_s: float, jitter: float) -> None:
    with pytest.raises(ValueError, match="first_s"):
        Backoff(first_s, max_s, jitter, lambda: 0.0)
