"""How long to wait before something is tried again: longer each time, and never all at the same moment. Pure."""

from collections.abc import Callable

FACTOR = 2.0


class Backoff:
    """Waits that double from `first_s` to `max_s`, each shortened by chance.

    Without chance a thousand hosts cut off by one broken switch would all come back in the same second.

    Args:
      first_s: the first wait, seconds.
      max_s: no wait is longer.
      jitter: the part of a wait that chance may take off, 0 to 1.
      rng: gives numbers from 0 to below 1, such as random.random.
    """

    def __init__(self, first_s: float, max_s: float, jitter: float, rng: Callable[[], float]) -> None:
        if not 0 < first_s <= max_s or not 0 <= jitter <= 1:
            raise ValueError(f"first_s {first_s}, max_s {max_s}, jitter {jitter}")
        self.failures = 0  # since the last reset
        self._first_s, self._max_s, self._jitter, self._rng = first_s, max_s, jitter, rng
        self._wait_s = first_s

    def next_s(self) -> float:
        """Note a failure, and give the seconds to wait."""
        self.failures += 1
        wait_s, self._wait_s = self._wait_s, min(self._max_s, self._wait_s * FACTOR)
        return wait_s * (1 - self._jitter * self._rng())

    def reset(self) -> None:
        """It works again: the next wait is a first one."""
        self.failures = 0
        self._wait_s = self._first_s
