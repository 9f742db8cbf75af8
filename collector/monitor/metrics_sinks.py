"""The metrics of the sinks on a network, and of the spools before them."""

from collector.monitor.metrics_model import Each, HistogramSpec, MetricSpec, State
from collector.monitor.state import SinkSnapshot

SINK = ("sink",)

SINKS: Each[State, SinkSnapshot] = Each(SINK, lambda state: [((s.name,), s) for s in state.snapshot.sinks])
SPOOLS: Each[State, SinkSnapshot] = Each(
    SINK, lambda state: [((s.name,), s) for s in state.snapshot.sinks if s.durable]
)

SINK_METRICS: tuple[MetricSpec[State], ...] = (
    SINKS.counter("filtered_events_total", lambda s: s.filtered_events,
        "Decoded entries that a sink's filter left out."),
    SINKS.counter_by("reason", "discarded_bytes_total", lambda s: s.discarded_bytes,
        "Bytes of the blocks that a network sink was not given or did not deliver."),
    SINKS.counter("sink_offered_events_total", lambda s: s.offered_events,
        "Decoded entries that were put before a sink's filter."),
    SINKS.counter("sink_acked_events_total", lambda s: s.acked_events,
        "Entries that the receiver has acknowledged."),
    SINKS.counter("sink_acked_bytes_total", lambda s: s.acked_bytes,
        "Bytes that the receiver has acknowledged, headers and names included."),
    SINKS.counter("sink_resent_events_total", lambda s: s.resent_events,
        "Entries that were sent again; some of them may have arrived twice."),
    SINKS.counter("sink_requests_total", lambda s: s.requests,
        "Batches sent."),
    SINKS.counter("sink_retries_total", lambda s: s.retries,
        "Batches that had to be sent again."),
    SINKS.counter_by("reason", "sink_request_failures_total", lambda s: s.request_failures,
        "Batches that were not acknowledged."),
    SINKS.gauge("sink_in_flight_requests", lambda s: s.in_flight,
        "Batches sent and not answered."),
    SINKS.gauge("sink_connected", lambda s: s.connected,
        "1 while there is a way to the receiver."),
    SINKS.gauge("sink_stalled_seconds", lambda s: s.stalled_s,
        "Time without an acknowledgement while something waits to be delivered; 0 when nothing does."),
    SINKS.gauge("sink_last_ack_timestamp_seconds", lambda s: s.last_ack_s,
        "Wall time of the last acknowledgement; absent before the first."),
    SINKS.gauge("sink_tls_certificate_not_after_timestamp_seconds", lambda s: s.certificate_not_after_s,
        "Wall time at which the receiver's certificate ends."),
    SINKS.counter("sink_slow_subscribers_total", lambda s: s.slow_subscribers,
        "Subscribers of a tap that were ended because they did not keep up."),
    SINKS.gauge("sink_ledger_residual_events", lambda s: s.residual,
        "Entries by which a sink's accounting fails; 0, or it is wrong."),
    SPOOLS.gauge("spool_bytes", lambda s: s.spool_bytes,
        "Bytes of a sink's spool on disk."),
    SPOOLS.gauge("spool_limit_bytes", lambda s: s.spool_limit_bytes,
        "What a sink's spool may have of the disk."),
    SPOOLS.gauge("spool_events", lambda s: s.spooled_events,
        "Entries in a sink's spool that are not acknowledged."),
    SPOOLS.gauge("spool_segments", lambda s: s.spool_segments,
        "Segments of a sink's spool that are not acknowledged as a whole."),
    SPOOLS.gauge("spool_quarantined_segments", lambda s: s.spool_quarantined_segments,
        "Files in a sink's spool that could not be read and were set aside."),
    SPOOLS.gauge("spool_suspended", lambda s: s.spool_suspended,
        "1 while a spool's disk takes nothing."),
    SPOOLS.counter("spool_corrupt_records_total", lambda s: s.spool_corrupt_records,
        "Records of a spool that did not read back."),
    SPOOLS.counter("spool_corrupt_bytes_total", lambda s: s.spool_corrupt_bytes,
        "Bytes of a spool that did not read back."),
    SPOOLS.counter("spool_replayed_events_total", lambda s: s.replayed_events,
        "Entries that the spool had from earlier runs at the start."),
)  # fmt: skip

SINK_HISTOGRAMS: tuple[HistogramSpec[State], ...] = (
    SINKS.histogram("sink_request_duration_seconds", lambda s: s.request_duration,
        "From a batch's first byte to its answer."),
    SINKS.histogram("sink_delivery_latency_seconds", lambda s: s.delivery_latency,
        "From a block's end to its acknowledgement; blocks of earlier runs are left out."),
    SPOOLS.histogram("spool_fsync_duration_seconds", lambda s: s.spool_fsync_duration,
        "Time that a sync of the spool took."),
)  # fmt: skip
