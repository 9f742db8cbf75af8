"""When a segment ends: at a size, at an age, and at round times of the wall clock. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rotation:
    """The limits of one segment."""

    segment_bytes: int
    segment_age_s: float
    period_s: int | None = None  # ends also where a period begins, counted from 1970 in UTC: 3600 is each full hour

    def is_full(self, size_bytes: int) -> bool:
        """Whether a segment of this size ends."""
        return size_bytes >= self.segment_bytes

    def is_due(self, age_s: float, opened_s: float, now_s: float) -> bool:
        """Whether a segment ends because of the time.

        Args:
          age_s: by a clock that nobody sets.
          opened_s, now_s: wall time; a wall clock that was set back ends nothing.
        """
        if age_s >= self.segment_age_s:
            return True
        return self.period_s is not None and now_s // self.period_s > opened_s // self.period_s
