"""Which block numbers of a stream have come: ranges, for nearly all of them follow each other. Pure."""

from bisect import bisect_right

# Holes are what a sender's full spool or a filter leaves. With more of them the lowest are taken for filled: a
# sender goes back by its spool at most, and to the lowest numbers last.
MAX_RANGES = 4096


class Seen:
    """A set of numbers that is small while they come in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []  # included

    def __len__(self) -> int:
        """How many ranges."""
        return len(self._starts)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]

    def add(self, number: int) -> None:
        """Notes that a number has come."""
        at = bisect_right(self._starts, number)
        if at and number <= self._ends[at - 1]:
            return
        follows = at > 0 and self._ends[at - 1] == number - 1
        precedes = at < len(self._starts) and self._starts[at] == number + 1
        if follows and precedes:
            self._ends[at - 1] = self._ends.pop(at)
            del self._starts[at]
        elif follows:
            self._ends[at - 1] = number
        elif precedes:
            self._starts[at] = number
        else:
            self._starts.insert(at, number)
            self._ends.insert(at, number)
            if len(self._starts) > MAX_RANGES:
                del self._starts[1], self._ends[0]

    def fill_before(self, number: int) -> None:
        """Takes for come what is before this number, and before the lowest that has come."""
        lowest = max(number, self._starts[0]) if self._starts else number
        if lowest > 0:
            at = bisect_right(self._starts, lowest)
            end = max(lowest - 1, self._ends[at - 1]) if at else lowest - 1
            self._starts[:at], self._ends[:at] = [0], [end]
