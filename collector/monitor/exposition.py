"""Tables of metrics as Prometheus text."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from collector.monitor.metrics_model import HistogramSpec, MetricSpec, S


class Exposition(Collector, Generic[S]):
    """Renders the metrics of some tables, and those of the process, in whatever thread asks.

    Args:
      prefix: of all names.
      metrics, histograms: in the order of the text.
      read: gives the state to show; called at each rendering, reads no file.
    """

    def __init__(
        self,
        prefix: str,
        metrics: Sequence[MetricSpec[S]],
        histograms: Sequence[HistogramSpec[S]],
        read: Callable[[], S],
    ) -> None:
        self._prefix = prefix
        self._metrics = metrics
        self._histograms = histograms
        self._read = read
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """Prometheus text exposition 0.0.4 of everything. About 25 ms for 128 streams: not in the event loop."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        state = self._read()
        for spec in self._metrics:
            family: CounterMetricFamily | GaugeMetricFamily
            name = self._prefix + spec.name
            if spec.kind == "counter":
                family = CounterMetricFamily(name, spec.help, labels=spec.labels)
            else:
                family = GaugeMetricFamily(name, spec.help, labels=spec.labels)
            for labels, value in spec.series(state):
                family.add_metric(labels, float(value))
            yield family
        for histogram in self._histograms:
            found = HistogramMetricFamily(self._prefix + histogram.name, histogram.help, labels=histogram.labels)
            for labels, of in histogram.series(state):
                found.add_metric(labels, _buckets(of.bounds, of.counts), of.total)
            yield found


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """[(upper bound, values up to it)], as Prometheus has them."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))
