"""The metrics of the sinks on a network, and of the spools before them."""

from collections.abc import Callable, Iterator, Mapping

from collector.monitor.metrics_model import HistogramSpec, MetricSpec, Series, State
from collector.monitor.state import HistogramSnapshot, SinkSnapshot

SINK = ("sink",)


def _sink(value: Callable[[SinkSnapshot], float | None]) -> Callable[[State], Series]:
    """A series per sink; none where the value is unknown."""

    def series(state: State) -> Series:
        for sink in state.snapshot.sinks:
            if (number := value(sink)) is not None:
                yield (sink.name,), number

    return series


def _spool(value: Callable[[SinkSnapshot], float]) -> Callable[[State], Series]:
    """A series per sink that has a spool."""
    return _sink(lambda sink: value(sink) if sink.durable else None)


def by_reason(value: Callable[[SinkSnapshot], Mapping[str, int]]) -> Callable[[State], Series]:
    """A series per sink and reason."""

    def series(state: State) -> Series:
        for sink in state.snapshot.sinks:
            for reason, number in value(sink).items():
                yield (sink.name, reason), number

    return series


def _histogram(
    value: Callable[[SinkSnapshot], HistogramSnapshot | None],
) -> Callable[[State], Iterator[tuple[tuple[str, ...], HistogramSnapshot]]]:
    def series(state: State) -> Iterator[tuple[tuple[str, ...], HistogramSnapshot]]:
        for sink in state.snapshot.sinks:
            if (found := value(sink)) is not None:
                yield (sink.name,), found

    return series


SINK_METRICS: tuple[MetricSpec, ...] = (
    MetricSpec("filtered_events_total", "counter", SINK,
               "Decoded entries that a sink's filter left out.",
               _sink(lambda s: s.filtered_events)),
    MetricSpec("discarded_bytes_total", "counter", ("sink", "reason"),
               "Bytes of the blocks that a network sink was not given or did not deliver.",
               by_reason(lambda s: s.discarded_bytes)),
    MetricSpec("sink_offered_events_total", "counter", SINK,
               "Decoded entries that were put before a sink's filter.",
               _sink(lambda s: s.offered_events)),
    MetricSpec("sink_acked_events_total", "counter", SINK,
               "Entries that the receiver has acknowledged.",
               _sink(lambda s: s.acked_events)),
    MetricSpec("sink_acked_bytes_total", "counter", SINK,
               "Bytes that the receiver has acknowledged, headers and names included.",
               _sink(lambda s: s.acked_bytes)),
    MetricSpec("sink_resent_events_total", "counter", SINK,
               "Entries that were sent again; some of them may have arrived twice.",
               _sink(lambda s: s.resent_events)),
    MetricSpec("sink_requests_total", "counter", SINK,
               "Batches sent.",
               _sink(lambda s: s.requests)),
    MetricSpec("sink_retries_total", "counter", SINK,
               "Batches that had to be sent again.",
               _sink(lambda s: s.retries)),
    MetricSpec("sink_request_failures_total", "counter", ("sink", "reason"),
               "Batches that were not acknowledged.",
               by_reason(lambda s: s.request_failures)),
    MetricSpec("sink_in_flight_requests", "gauge", SINK,
               "Batches sent and not answered.",
               _sink(lambda s: s.in_flight)),
    MetricSpec("sink_connected", "gauge", SINK,
               "1 while there is a way to the receiver.",
               _sink(lambda s: s.connected)),
    MetricSpec("sink_stalled_seconds", "gauge", SINK,
               "Time without an acknowledgement while something waits to be delivered; 0 when nothing does.",
               _sink(lambda s: s.stalled_s)),
    MetricSpec("sink_last_ack_timestamp_seconds", "gauge", SINK,
               "Wall time of the last acknowledgement; absent before the first.",
               _sink(lambda s: s.last_ack_s)),
    MetricSpec("sink_tls_certificate_not_after_timestamp_seconds", "gauge", SINK,
               "Wall time at which the receiver's certificate ends.",
               _sink(lambda s: s.certificate_not_after_s)),
    MetricSpec("sink_slow_subscribers_total", "counter", SINK,
               "Subscribers of a tap that were ended because they did not keep up.",
               _sink(lambda s: s.slow_subscribers)),
    MetricSpec("sink_ledger_residual_events", "gauge", SINK,
               "Entries by which a sink's accounting fails; 0, or it is wrong.",
               _sink(lambda s: s.residual)),
    MetricSpec("spool_bytes", "gauge", SINK,
               "Bytes of a sink's spool on disk.",
               _spool(lambda s: s.spool_bytes)),
    MetricSpec("spool_limit_bytes", "gauge", SINK,
               "What a sink's spool may have of the disk.",
               _spool(lambda s: s.spool_limit_bytes)),
    MetricSpec("spool_events", "gauge", SINK,
               "Entries in a sink's spool that are not acknowledged.",
               _spool(lambda s: s.spooled_events)),
    MetricSpec("spool_segments", "gauge", SINK,
               "Segments of a sink's spool that are not acknowledged as a whole.",
               _spool(lambda s: s.spool_segments)),
    MetricSpec("spool_quarantined_segments", "gauge", SINK,
               "Files in a sink's spool that could not be read and were set aside.",
               _spool(lambda s: s.spool_quarantined_segments)),
    MetricSpec("spool_suspended", "gauge", SINK,
               "1 while a spool's disk takes nothing.",
               _spool(lambda s: s.spool_suspended)),
    MetricSpec("spool_corrupt_records_total", "counter", SINK,
               "Records of a spool that did not read back.",
               _spool(lambda s: s.spool_corrupt_records)),
    MetricSpec("spool_corrupt_bytes_total", "counter", SINK,
               "Bytes of a spool that did not read back.",
               _spool(lambda s: s.spool_corrupt_bytes)),
    MetricSpec("spool_replayed_events_total", "counter", SINK,
               "Entries that the spool had from earlier runs at the start.",
               _spool(lambda s: s.replayed_events)),
)  # fmt: skip

SINK_HISTOGRAMS: tuple[HistogramSpec, ...] = (
    HistogramSpec("sink_request_duration_seconds", SINK,
                  "From a batch's first byte to its answer.",
                  _histogram(lambda s: s.request_duration)),
    HistogramSpec("sink_delivery_latency_seconds", SINK,
                  "From a block's end to its acknowledgement; blocks of earlier runs are left out.",
                  _histogram(lambda s: s.delivery_latency)),
    HistogramSpec("spool_fsync_duration_seconds", SINK,
                  "Time that a sync of the spool took.",
                  _histogram(lambda s: s.spool_fsync_duration if s.durable else None)),
)  # fmt: skip
