"""Every metric: name, type, labels, help, and where its value comes from.

docs/metrics.md is made from METRICS (`python -m collector.monitor.metrics`), a test compares them.
Conventions: base units, `_total` for counters, no timestamps, no label `instance` (that is the
scraper's own), known label sets start at 0, an unknown value is an absent series.
"""

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from collector.monitor.exposition import Exposition
from collector.monitor.logs import LogCounts
from collector.monitor.metrics_model import Each, HistogramSpec, MetricSpec, State
from collector.monitor.metrics_sinks import SINK, SINK_HISTOGRAMS, SINK_METRICS
from collector.monitor.state import HistogramSnapshot, Snapshot, StreamSnapshot
from collector.version import __version__

PREFIX = "ftrace_collector_"

# A lag of a second already delays flushes; below a millisecond it is the scheduler's noise.
LAG_BUCKETS_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)

LOG_LEVELS = ("debug", "info", "warning", "error")
UNWRITTEN_REASONS = ("queue_full", "rate_limit", "write_error")


class _Queue(NamedTuple):
    """What is in memory before the archive, or for a network sink."""

    events: int
    bytes: int
    limit_bytes: int


def _streams_by_instance(state: State) -> Iterator[tuple[tuple[str], list[StreamSnapshot]]]:
    found: dict[str, list[StreamSnapshot]] = {}
    for stream in state.snapshot.streams:
        found.setdefault(stream.instance, []).append(stream)
    for instance, streams in found.items():
        yield (instance,), streams


def _queues(state: State) -> Iterator[tuple[tuple[str], _Queue]]:
    of = state.snapshot
    yield ("archive",), _Queue(of.queue_events, of.queue_bytes, of.queue_limit_bytes)
    for sink in of.sinks:
        yield (sink.name,), _Queue(sink.queued_events, sink.held_bytes, sink.held_limit_bytes)


def _discards(state: State) -> Iterator[tuple[tuple[str], Mapping[str, int]]]:
    yield ("file",), {"suspended": 0} | dict(state.snapshot.discarded)
    for sink in state.snapshot.sinks:
        yield (sink.name,), sink.discarded_events


def _add_up(counts: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for of in counts:
        for reason, number in of.items():
            total[reason] += number
    return total


RUN: Each[State, Snapshot] = Each((), lambda state: [((), state.snapshot)])
LOGS: Each[State, LogCounts] = Each((), lambda state: [((), state.logs)])
INSTANCES: Each[State, list[StreamSnapshot]] = Each(("trace_instance",), _streams_by_instance)
STREAMS: Each[State, StreamSnapshot] = Each(
    ("trace_instance", "cpu"), lambda state: [((s.instance, str(s.cpu)), s) for s in state.snapshot.streams]
)
QUEUES: Each[State, _Queue] = Each(("queue",), _queues)
DISCARDS: Each[State, Mapping[str, int]] = Each(SINK, _discards)
BUILD: Each[State, int] = Each(
    ("version", "python", "kernel"), lambda state: [((__version__, platform.python_version(), state.kernel), 1)]
)

METRICS: tuple[MetricSpec[State], ...] = (
    STREAMS.counter("kernel_overrun_events_total", lambda s: s.kernel_overrun,
        "Entries that the kernel overwrote before they were read."),
    STREAMS.counter("kernel_dropped_events_total", lambda s: s.kernel_dropped,
        "Entries that the kernel refused because the ring was full (overwrite = false)."),
    STREAMS.counter("kernel_commit_overrun_events_total", lambda s: s.kernel_commit_overrun,
        "Entries that the kernel lost because nested writes wrapped the ring."),
    STREAMS.counter("kernel_read_events_total", lambda s: s.kernel_read,
        "Entries that the kernel handed out, by its own count."),
    STREAMS.gauge("kernel_buffer_events", lambda s: s.kernel_entries,
        "Entries that wait in the ring."),
    STREAMS.gauge("kernel_buffer_used_bytes", lambda s: s.kernel_bytes,
        "Bytes that wait in the ring, by the kernel's estimate."),
    STREAMS.gauge("kernel_buffer_size_bytes", lambda s: s.kernel_size_bytes,
        "Size of the ring."),
    STREAMS.gauge("kernel_oldest_event_age_seconds", lambda s: s.oldest_age_s,
        "Age of the oldest entry that waits in the ring."),
    RUN.gauge_by("trace_instance", "kernel_seconds_to_overrun", lambda s: s.seconds_to_overrun,
        "Predicted time until the fullest ring overwrites; absent without a trend."),
    RUN.counter("kernel_stats_resets_total", lambda s: s.stats_resets,
        "Times that the kernel's counters went backwards: someone else cleared the ring."),
    RUN.counter("clock_jumps_total", lambda s: s.clock_jumps,
        "Times that somebody set the wall clock."),
    STREAMS.counter("reader_bytes_total", lambda s: s.reader_bytes,
        "Bytes of the sub-buffers read."),
    STREAMS.counter("reader_pages_total", lambda s: s.reader_pages,
        "Sub-buffers read."),
    STREAMS.counter("decoded_events_total", lambda s: s.decoded_events,
        "Entries decoded."),
    STREAMS.counter("lost_events_total", lambda s: s.lost_events,
        "Entries that the kernel lost: overrun, dropped and commit overrun together."),
    STREAMS.counter("gap_known_events_total", lambda s: s.gap_known_events,
        "Lost entries by the counts found in sub-buffers; part of lost_events_total seen from the other side."),
    STREAMS.counter("gaps_total", lambda s: s.gaps,
        "Places where entries are missing."),
    STREAMS.counter("unknown_gaps_total", lambda s: s.unknown_gaps,
        "Places where entries are missing and the sub-buffer has no count."),
    INSTANCES.counter_by("reason", "decode_errors_total", lambda streams: _add_up(s.decode_errors for s in streams),
        "Malformed sub-buffers: what stood before the fault is kept, behind it is a gap."),
    INSTANCES.counter_by("reason", "decode_skipped_events_total", lambda streams: _add_up(s.skipped for s in streams),
        "Entries read but not decoded."),
    STREAMS.gauge("ledger_unexplained_events", lambda s: s.unexplained,
        "Entries that the kernel handed out and nobody has seen; 0, or a sub-buffer was malformed."),
    STREAMS.gauge_by("identity", "ledger_residual_events", lambda s: s.residual,
        "Entries by which the two sides of an accounting identity differ; 0, or the ledger is wrong."),
    QUEUES.gauge("queue_events", lambda q: q.events,
        "Entries in memory, between the reader and a sink."),
    QUEUES.gauge("queue_bytes", lambda q: q.bytes,
        "Bytes in memory: the budget's for the archive, those that wait or are on their way for another sink."),
    QUEUES.gauge("queue_limit_bytes", lambda q: q.limit_bytes,
        "The memory budget, and what another sink may hold beside it."),
    RUN.counter_by("queue", "queue_blocked_seconds_total", lambda s: {"archive": s.queue_blocked_s},
        "Time that readers waited for the memory budget."),
    RUN.gauge("archive_bytes", lambda s: s.archive_bytes,
        "Bytes of all segments on disk."),
    RUN.gauge("archive_segments", lambda s: s.archive_segments,
        "Segments on disk, the open one included."),
    RUN.gauge("archive_oldest_timestamp_seconds", lambda s: s.archive_oldest_ts_s,
        "Wall time at which the oldest segment starts."),
    RUN.counter("archive_raw_bytes_total", lambda s: s.archive_raw_bytes,
        "Bytes of the sub-buffers whose entries were archived."),
    RUN.counter("archive_written_events_total", lambda s: s.archive_written_events,
        "Entries that the archive took."),
    RUN.counter("archive_durable_events_total", lambda s: s.archive_durable_events,
        "Entries that the archive took and synced: a crash of the machine leaves them."),
    RUN.gauge("archive_pinned_bytes", lambda s: s.archive_pinned_bytes,
        "Bytes of segments that are pinned: retention leaves them alone."),
    RUN.gauge("archive_waiting_bytes", lambda s: s.archive_waiting_bytes,
        "Bytes of segments that would be removed, but that another sink has not acknowledged."),
    RUN.gauge("archive_free_bytes", lambda s: s.archive_free_bytes,
        "Bytes that the archive's filesystem has left."),
    RUN.gauge("archive_suspended", lambda s: s.archive_suspended,
        "1 while nothing is archived because the disk has no room."),
    RUN.counter("archive_removed_segments_total", lambda s: s.archive_removed_segments,
        "Sealed segments that were removed to stay below the limits."),
    DISCARDS.counter_by("reason", "discarded_events_total", lambda discarded: discarded,
        "Decoded entries that a sink did not take or deliver; the kernel's losses are lost_events_total."),
    RUN.counter_by("what", "interference_total", lambda s: s.interference,
        "Changes that somebody else made to our instances, by the file that reads differently."),
    BUILD.gauge("build_info", lambda one: one,
        "1; the labels name what runs."),
    RUN.gauge("ready", lambda s: s.ready,
        "1 while /readyz answers 200."),
    LOGS.counter_by("level", "log_messages_total",
        lambda logs: {level: logs.messages.get(level, 0) for level in LOG_LEVELS},
        "Messages logged, those not written included."),
    LOGS.counter_by("reason", "log_unwritten_messages_total",
        lambda logs: {reason: logs.unwritten.get(reason, 0) for reason in UNWRITTEN_REASONS},
        "Messages not written: stderr did not take them in time or at all, or the same message came too often."),
    *SINK_METRICS,
)  # fmt: skip

HISTOGRAMS: tuple[HistogramSpec[State], ...] = SINK_HISTOGRAMS

LAG: Each[State, HistogramSnapshot] = Each((), lambda state: [((), state.lag)])
EVENT_LOOP_LAG = LAG.histogram(
    "event_loop_lag_seconds", lambda lag: lag, "How late the event loop woke up from a timer."
)


class Metrics(Exposition[State]):
    """Shows the last snapshot of the daemon.

    Args:
      kernel: release, as `uname -r` says it.
      log_counts: gives the counts of messages; called at each rendering.
    """

    def __init__(self, kernel: str, log_counts: Callable[[], LogCounts] = lambda: LogCounts({}, {})) -> None:
        super().__init__(PREFIX, METRICS, (*HISTOGRAMS, EVENT_LOOP_LAG), self._state)
        self._kernel = kernel
        self._log_counts = log_counts
        self._snapshot = Snapshot()
        self._lag_counts = [0] * (len(LAG_BUCKETS_S) + 1)  # the last: more than the largest bucket
        self._lag_sum_s = 0.0

    def update(self, snapshot: Snapshot) -> None:
        """Show this snapshot from now on."""
        self._snapshot = snapshot

    def observe_event_loop_lag(self, lag_s: float) -> None:
        """Count one measured lag of the event loop."""
        self._lag_counts[bisect_left(LAG_BUCKETS_S, lag_s)] += 1
        self._lag_sum_s += lag_s

    def _state(self) -> State:
        lag = HistogramSnapshot(LAG_BUCKETS_S, tuple(self._lag_counts), self._lag_sum_s)
        return State(self._snapshot, self._log_counts(), self._kernel, lag)


def markdown() -> str:
    """The table of docs/metrics.md."""
    rows = ["| Metric | Type | Labels | Meaning |", "|---|---|---|---|"]
    specs: tuple[MetricSpec[State] | HistogramSpec[State], ...] = (*METRICS, *HISTOGRAMS, EVENT_LOOP_LAG)
    for spec in specs:
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        rows.append(f"| `{PREFIX}{spec.name}` | {spec.kind} | {labels} | {spec.help} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
