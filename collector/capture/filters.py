"""Which events a sink is given. Pure."""

from collections.abc import Sequence
from fnmatch import fnmatchcase


class EventFilter:
    """Shell patterns of SYSTEM:EVENT; any thread may ask."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = tuple(patterns)
        self._known: dict[str, bool] = {}  # {full name: whether one matches}; a run meets some dozens of names

    def takes(self, full_name: str) -> bool:
        """Whether one of the patterns matches."""
        found = self._known.get(full_name)
        if found is None:
            found = self._known[full_name] = any(fnmatchcase(full_name, pattern) for pattern in self.patterns)
        return found
