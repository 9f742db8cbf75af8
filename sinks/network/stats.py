"""What a runner counts of its sink."""

from bisect import bisect_left
from dataclasses import dataclass, field

from collector.monitor.state import HistogramSnapshot
from sinks.network.backlog import REASONS, Lost

# From a local socket to a receiver on another continent that is slow.
REQUEST_BOUNDS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)
# A block waits up to its age before it is here; an outage lasts hours.
LATENCY_BOUNDS_S = (0.01, 0.05, 0.2, 1.0, 5.0, 30.0, 300.0, 3600.0, 36000.0)
FSYNC_BOUNDS_S = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)

ERROR, TIMEOUT, REFUSED, DEFECT = "error", "timeout", "rejected", "defect"
FAILURES = (ERROR, TIMEOUT, REFUSED, DEFECT)


class Histogram:
    """Counts values by size."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def snapshot(self) -> HistogramSnapshot:
        return HistogramSnapshot(self._bounds, tuple(self._counts), self._total)


def _zeros(names: tuple[str, ...]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class Stats:
    """Totals of a run."""

    offered_events: int = 0
    replayed_events: int = 0
    filtered_events: int = 0
    acked_events: int = 0
    acked_bytes: int = 0
    resent_events: int = 0
    requests: int = 0
    retries: int = 0
    last_ack_s: float | None = None  # wall time
    discarded_events: dict[str, int] = field(default_factory=lambda: _zeros(REASONS))
    discarded_bytes: dict[str, int] = field(default_factory=lambda: _zeros(REASONS))
    failures: dict[str, int] = field(default_factory=lambda: _zeros(FAILURES))
    request_duration: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_BOUNDS_S))
    fsync_duration: Histogram = field(default_factory=lambda: Histogram(FSYNC_BOUNDS_S))

    def discard(self, lost: Lost) -> None:
        """Count what was given up."""
        for reason, events in lost.events.items():
            self.discarded_events[reason] += events
        for reason, size_bytes in lost.bytes.items():
            self.discarded_bytes[reason] += size_bytes
