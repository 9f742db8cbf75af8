"""What a metric is: a name, a type, labels, help, and where its value comes from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from collector.monitor.logs import LogCounts
from collector.monitor.state import HistogramSnapshot, Snapshot

Series = Iterator[tuple[tuple[str, ...], float]]  # (label values, value)


@dataclass(frozen=True, slots=True)
class State:
    """All that one rendering shows."""

    snapshot: Snapshot
    logs: LogCounts
    kernel: str


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric family."""

    name: str  # without the prefix
    kind: str  # counter, gauge or histogram
    labels: tuple[str, ...]
    help: str
    series: Callable[[State], Series]


@dataclass(frozen=True, slots=True)
class HistogramSpec:
    """One family of histograms."""

    name: str
    labels: tuple[str, ...]
    help: str
    series: Callable[[State], Iterator[tuple[tuple[str, ...], HistogramSnapshot]]]

    kind = "histogram"
