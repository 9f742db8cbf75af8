"""Every metric: name, type, labels, help, and where its value comes from.

docs/metrics.md is made from METRICS (`python -m collector.monitor.metrics`), a test compares them.
Conventions: base units, `_total` for counters, no timestamps, no label `instance` (that is the
scraper's own), known label sets start at 0, an unknown value is an absent series.
"""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from collector.monitor.logs import LogCounts
from collector.monitor.metrics_model import HistogramSpec, MetricSpec, Series, State
from collector.monitor.metrics_sinks import SINK_HISTOGRAMS, SINK_METRICS, by_reason
from collector.monitor.state import SinkSnapshot, Snapshot, StreamSnapshot
from collector.version import __version__

PREFIX = "ftrace_collector_"

# A lag of a second already delays flushes; below a millisecond it is the scheduler's noise.
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

LOG_LEVELS = ("debug", "info", "warning", "error")

STREAM = ("trace_instance", "cpu")


def _stream(value: Callable[[StreamSnapshot], float | None]) -> Callable[[State], Series]:
    """A series per stream; none where the value is unknown."""

    def series(state: State) -> Series:
        for stream in state.snapshot.streams:
            if (number := value(stream)) is not None:
                yield (stream.instance, str(stream.cpu)), number

    return series


def _by_reason(counts: Callable[[StreamSnapshot], Mapping[str, int]]) -> Callable[[State], Series]:
    """A series per instance and reason: the sum over the CPUs."""

    def series(state: State) -> Series:
        total: Counter[tuple[str, ...]] = Counter()
        for stream in state.snapshot.streams:
            for reason, number in counts(stream).items():
                total[stream.instance, reason] += number
        yield from total.items()

    return series


def _one(value: Callable[[Snapshot], float | None], *labels: str) -> Callable[[State], Series]:
    """A single series; none where the value is unknown."""

    def series(state: State) -> Series:
        if (number := value(state.snapshot)) is not None:
            yield labels, number

    return series


def _residuals(state: State) -> Series:
    for stream in state.snapshot.streams:
        for identity, number in stream.residual.items():
            if number is not None:
                yield (stream.instance, str(stream.cpu), identity), number


def _overruns(state: State) -> Series:
    for instance, seconds in state.snapshot.seconds_to_overrun.items():
        yield (instance,), seconds


def _discarded(state: State) -> Series:
    for reason, number in ({"suspended": 0} | dict(state.snapshot.discarded)).items():
        yield ("file", reason), number
    yield from by_reason(lambda sink: sink.discarded_events)(state)


def _queues(archive: Callable[[Snapshot], float], sink: Callable[[SinkSnapshot], float]) -> Callable[[State], Series]:
    """A series for the archive and one per network sink."""

    def series(state: State) -> Series:
        yield ("archive",), archive(state.snapshot)
        for of in state.snapshot.sinks:
            yield (of.name,), sink(of)

    return series


def _interference(state: State) -> Series:
    for what, number in state.snapshot.interference.items():
        yield (what,), number


def _build(state: State) -> Series:
    yield (__version__, platform.python_version(), state.kernel), 1


def _log_messages(state: State) -> Series:
    for level in LOG_LEVELS:
        yield (level,), state.logs.messages.get(level, 0)


def _log_unwritten(state: State) -> Series:
    for reason in ("queue_full", "rate_limit", "write_error"):
        yield (reason,), state.logs.unwritten.get(reason, 0)


METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("kernel_overrun_events_total", "counter", STREAM,
               "Entries that the kernel overwrote before they were read.",
               _stream(lambda s: s.kernel_overrun)),
    MetricSpec("kernel_dropped_events_total", "counter", STREAM,
               "Entries that the kernel refused because the ring was full (overwrite = false).",
               _stream(lambda s: s.kernel_dropped)),
    MetricSpec("kernel_commit_overrun_events_total", "counter", STREAM,
               "Entries that the kernel lost because nested writes wrapped the ring.",
               _stream(lambda s: s.kernel_commit_overrun)),
    MetricSpec("kernel_read_events_total", "counter", STREAM,
               "Entries that the kernel handed out, by its own count.",
               _stream(lambda s: s.kernel_read)),
    MetricSpec("kernel_buffer_events", "gauge", STREAM,
               "Entries that wait in the ring.",
               _stream(lambda s: s.kernel_entries)),
    MetricSpec("kernel_buffer_used_bytes", "gauge", STREAM,
               "Bytes that wait in the ring, by the kernel's estimate.",
               _stream(lambda s: s.kernel_bytes)),
    MetricSpec("kernel_buffer_size_bytes", "gauge", STREAM,
               "Size of the ring.",
               _stream(lambda s: s.kernel_size_bytes)),
    MetricSpec("kernel_oldest_event_age_seconds", "gauge", STREAM,
               "Age of the oldest entry that waits in the ring.",
               _stream(lambda s: s.oldest_age_s)),
    MetricSpec("kernel_seconds_to_overrun", "gauge", ("trace_instance",),
               "Predicted time until the fullest ring overwrites; absent without a trend.",
               _overruns),
    MetricSpec("kernel_stats_resets_total", "counter", (),
               "Times that the kernel's counters went backwards: someone else cleared the ring.",
               _one(lambda s: s.stats_resets)),
    MetricSpec("clock_jumps_total", "counter", (),
               "Times that somebody set the wall clock.",
               _one(lambda s: s.clock_jumps)),
    MetricSpec("reader_bytes_total", "counter", STREAM,
               "Bytes of the sub-buffers read.",
               _stream(lambda s: s.reader_bytes)),
    MetricSpec("reader_pages_total", "counter", STREAM,
               "Sub-buffers read.",
               _stream(lambda s: s.reader_pages)),
    MetricSpec("decoded_events_total", "counter", STREAM,
               "Entries decoded.",
               _stream(lambda s: s.decoded_events)),
    MetricSpec("lost_events_total", "counter", STREAM,
               "Entries that the kernel lost: overrun, dropped and commit overrun together.",
               _stream(lambda s: s.lost_events)),
    MetricSpec("gap_known_events_total", "counter", STREAM,
               "Lost entries by the counts found in sub-buffers; part of lost_events_total seen from the other side.",
               _stream(lambda s: s.gap_known_events)),
    MetricSpec("gaps_total", "counter", STREAM,
               "Places where entries are missing.",
               _stream(lambda s: s.gaps)),
    MetricSpec("unknown_gaps_total", "counter", STREAM,
               "Places where entries are missing and the sub-buffer has no count.",
               _stream(lambda s: s.unknown_gaps)),
    MetricSpec("decode_errors_total", "counter", ("trace_instance", "reason"),
               "Malformed sub-buffers that were passed over.",
               _by_reason(lambda s: s.decode_errors)),
    MetricSpec("decode_skipped_events_total", "counter", ("trace_instance", "reason"),
               "Entries read but not decoded.",
               _by_reason(lambda s: s.skipped)),
    MetricSpec("ledger_residual_events", "gauge", (*STREAM, "identity"),
               "Entries by which the two sides of an accounting identity differ; 0, or the ledger is wrong.",
               _residuals),
    MetricSpec("queue_events", "gauge", ("queue",),
               "Entries in memory, between the reader and a sink.",
               _queues(lambda s: s.queue_events, lambda s: s.queued_events)),
    MetricSpec("queue_bytes", "gauge", ("queue",),
               "Bytes in memory: the budget's for the archive, those that wait or are on their way for another sink.",
               _queues(lambda s: s.queue_bytes, lambda s: s.held_bytes)),
    MetricSpec("queue_limit_bytes", "gauge", ("queue",),
               "The memory budget, and what another sink may hold beside it.",
               _queues(lambda s: s.queue_limit_bytes, lambda s: s.held_limit_bytes)),
    MetricSpec("queue_blocked_seconds_total", "counter", ("queue",),
               "Time that readers waited for the memory budget.",
               _one(lambda s: s.queue_blocked_s, "archive")),
    MetricSpec("archive_bytes", "gauge", (),
               "Bytes of all segments on disk.",
               _one(lambda s: s.archive_bytes)),
    MetricSpec("archive_segments", "gauge", (),
               "Segments on disk, the open one included.",
               _one(lambda s: s.archive_segments)),
    MetricSpec("archive_oldest_timestamp_seconds", "gauge", (),
               "Wall time at which the oldest segment starts.",
               _one(lambda s: s.archive_oldest_ts_s)),
    MetricSpec("archive_raw_bytes_total", "counter", (),
               "Bytes of the sub-buffers whose entries were archived.",
               _one(lambda s: s.archive_raw_bytes)),
    MetricSpec("archive_written_events_total", "counter", (),
               "Entries that the archive took.",
               _one(lambda s: s.archive_written_events)),
    MetricSpec("archive_durable_events_total", "counter", (),
               "Entries that the archive took and synced: a crash of the machine leaves them.",
               _one(lambda s: s.archive_durable_events)),
    MetricSpec("archive_pinned_bytes", "gauge", (),
               "Bytes of segments that are pinned: retention leaves them alone.",
               _one(lambda s: s.archive_pinned_bytes)),
    MetricSpec("archive_waiting_bytes", "gauge", (),
               "Bytes of segments that would be removed, but that another sink has not acknowledged.",
               _one(lambda s: s.archive_waiting_bytes)),
    MetricSpec("archive_free_bytes", "gauge", (),
               "Bytes that the archive's filesystem has left.",
               _one(lambda s: s.archive_free_bytes)),
    MetricSpec("archive_suspended", "gauge", (),
               "1 while nothing is archived because the disk has no room.",
               _one(lambda s: s.archive_suspended)),
    MetricSpec("archive_removed_segments_total", "counter", (),
               "Sealed segments that were removed to stay below the limits.",
               _one(lambda s: s.archive_removed_segments)),
    MetricSpec("discarded_events_total", "counter", ("sink", "reason"),
               "Decoded entries that a sink did not take or deliver; the kernel's losses are lost_events_total.",
               _discarded),
    MetricSpec("interference_total", "counter", ("what",),
               "Changes that somebody else made to our instances, by the file that reads differently.",
               _interference),
    MetricSpec("build_info", "gauge", ("version", "python", "kernel"),
               "1; the labels name what runs.",
               _build),
    MetricSpec("ready", "gauge", (),
               "1 while /readyz answers 200.",
               _one(lambda s: s.ready)),
    MetricSpec("log_messages_total", "counter", ("level",),
               "Messages logged, those not written included.",
               _log_messages),
    MetricSpec("log_unwritten_messages_total", "counter", ("reason",),
               "Messages not written: stderr did not take them in time or at all, or the same message came too often.",
               _log_unwritten),
    *SINK_METRICS,
)  # fmt: skip

HISTOGRAMS: tuple[HistogramSpec, ...] = SINK_HISTOGRAMS

EVENT_LOOP_LAG = MetricSpec(
    "event_loop_lag_seconds",
    "histogram",
    (),
    "How late the event loop woke up from a timer.",
    lambda state: iter(()),
)


class Metrics(Collector):
    """Renders the last snapshot as Prometheus text, in whatever thread asks."""

    def __init__(self, kernel: str, log_counts: Callable[[], LogCounts] = lambda: LogCounts({}, {})) -> None:
        """Args:
        kernel: release, as `uname -r` says it.
        log_counts: gives the counts of messages; called at each rendering.
        """
        self._kernel = kernel
        self._log_counts = log_counts
        self._snapshot = Snapshot()
        self._lag_counts = [0] * (len(LAG_BUCKETS_S) + 1)  # the last: more than the largest bucket
        self._lag_sum_s = 0.0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def update(self, snapshot: Snapshot) -> None:
        """Show this snapshot from now on."""
        self._snapshot = snapshot

    def observe_event_loop_lag(self, lag_s: float) -> None:
        """Count one measured lag of the event loop."""
        self._lag_counts[bisect_left(LAG_BUCKETS_S, lag_s)] += 1
        self._lag_sum_s += lag_s

    def render(self) -> bytes:
        """Prometheus text exposition 0.0.4 of everything. About 25 ms for 128 streams: not in the event loop."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        state = State(self._snapshot, self._log_counts(), self._kernel)
        for spec in METRICS:
            family: CounterMetricFamily | GaugeMetricFamily
            name = PREFIX + spec.name
            if spec.kind == "counter":
                family = CounterMetricFamily(name, spec.help, labels=spec.labels)
            else:
                family = GaugeMetricFamily(name, spec.help, labels=spec.labels)
            for labels, value in spec.series(state):
                family.add_metric(labels, float(value))
            yield family
        for histogram in HISTOGRAMS:
            found = HistogramMetricFamily(PREFIX + histogram.name, histogram.help, labels=histogram.labels)
            for labels, of in histogram.series(state):
                found.add_metric(labels, _buckets(of.bounds, of.counts), of.total)
            yield found
        lag = HistogramMetricFamily(PREFIX + EVENT_LOOP_LAG.name, EVENT_LOOP_LAG.help)
        lag.add_metric((), _buckets(LAG_BUCKETS_S, self._lag_counts), self._lag_sum_s)
        yield lag


def _buckets(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    """[(upper bound, values up to it)], as Prometheus has them."""
    return list(zip([*map(str, bounds), "+Inf"], accumulate(counts), strict=True))


def markdown() -> str:
    """The table of docs/metrics.md."""
    rows = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    specs: tuple[MetricSpec | HistogramSpec, ...] = (*METRICS, *HISTOGRAMS, EVENT_LOOP_LAG)
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{PREFIX}{spec.name}` | {spec.kind} | {labels} | {spec.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
