"""What a metric is: a name, a type, labels, help, and where its values come from.

The rows of a table are made by an Each, which knows what there is a series of:

    STREAMS.counter("gaps_total", lambda stream: stream.gaps, "Places where entries are missing.")
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from collector.monitor.logs import LogCounts
from collector.monitor.state import HistogramSnapshot, Snapshot

S = TypeVar("S")  # the state that one rendering shows
T = TypeVar("T")  # what there is a series of

Series = Iterator[tuple[tuple[str, ...], float]]  # (label values, value)
Histograms = Iterator[tuple[tuple[str, ...], HistogramSnapshot]]  # (label values, value)


@dataclass(frozen=True, slots=True)
class State:
    """All that one rendering of the daemon's metrics shows."""

    snapshot: Snapshot
    logs: LogCounts
    kernel: str  # its release
    lag: HistogramSnapshot  # of the event loop


@dataclass(frozen=True, slots=True)
class MetricSpec(Generic[S]):
    """One metric family."""

    name: str  # without the prefix
    kind: str  # counter or gauge
    labels: tuple[str, ...]
    help: str
    series: Callable[[S], Series]


@dataclass(frozen=True, slots=True)
class HistogramSpec(Generic[S]):
    """One family of histograms."""

    name: str
    labels: tuple[str, ...]
    help: str
    series: Callable[[S], Histograms]

    kind = "histogram"


@dataclass(frozen=True, slots=True)
class Each(Generic[S, T]):
    """Things that have a series each; none where the value is unknown."""

    labels: tuple[str, ...]
    things: Callable[[S], Iterable[tuple[tuple[str, ...], T]]]  # (label values, thing)

    def counter(self, name: str, value: Callable[[T], float | None], help: str) -> MetricSpec[S]:
        return MetricSpec(name, "counter", self.labels, help, self._series(value))

    def gauge(self, name: str, value: Callable[[T], float | None], help: str) -> MetricSpec[S]:
        return MetricSpec(name, "gauge", self.labels, help, self._series(value))

    def counter_by(
        self, label: str, name: str, values: Callable[[T], Mapping[str, float | None]], help: str
    ) -> MetricSpec[S]:
        """Several series of each, told apart by one label more: {its value: number}."""
        return MetricSpec(name, "counter", (*self.labels, label), help, self._series_by(values))

    def gauge_by(
        self, label: str, name: str, values: Callable[[T], Mapping[str, float | None]], help: str
    ) -> MetricSpec[S]:
        """As counter_by."""
        return MetricSpec(name, "gauge", (*self.labels, label), help, self._series_by(values))

    def histogram(self, name: str, value: Callable[[T], HistogramSnapshot | None], help: str) -> HistogramSpec[S]:
        def series(state: S) -> Histograms:
            for labels, thing in self.things(state):
                if (found := value(thing)) is not None:
                    yield labels, found

        return HistogramSpec(name, self.labels, help, series)

    def _series(self, value: Callable[[T], float | None]) -> Callable[[S], Series]:
        def series(state: S) -> Series:
            for labels, thing in self.things(state):
                if (number := value(thing)) is not None:
                    yield labels, number

        return series

    def _series_by(self, values: Callable[[T], Mapping[str, float | None]]) -> Callable[[S], Series]:
        def series(state: S) -> Series:
            for labels, thing in self.things(state):
                for label, number in values(thing).items():
                    if number is not None:
                        yield (*labels, label), number

        return series
