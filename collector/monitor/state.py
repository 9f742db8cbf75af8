"""What the daemon knows of itself at one moment: immutable, cheap to pass between threads. Pure.

The metrics, the status line and the text for systemd are all made from it, so that none of
them reads the kernel: a stuck tracefs read can then hang neither a scrape nor the watchdog.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StreamSnapshot:
    """One instance and one CPU. Totals count from the start of the run; None is unknown."""

    instance: str
    cpu: int
    kernel_overrun: int | None = None  # entries overwritten before they were read
    kernel_dropped: int | None = None  # entries refused by a full ring
    kernel_commit_overrun: int | None = None  # entries that nested writes pushed out
    kernel_read: int | None = None  # entries that the kernel handed out
    kernel_entries: int | None = None  # entries that wait in the ring now
    kernel_bytes: int | None = None  # bytes that wait in the ring now
    kernel_size_bytes: int | None = None  # of the ring
    oldest_age_s: float | None = None  # of the oldest entry that waits
    reader_bytes: int = 0  # of the sub-buffers read
    reader_pages: int = 0  # sub-buffers read
    decoded_events: int = 0
    gap_known_events: int = 0  # sum of the counts found in sub-buffers
    gaps: int = 0
    unknown_gaps: int = 0  # flagged without a count
    decode_errors: Mapping[str, int] = field(default_factory=dict)  # {reason: malformed sub-buffers}
    skipped: Mapping[str, int] = field(default_factory=dict)  # {reason: entries}
    unexplained: int | None = None  # entries that the kernel handed out and nobody has seen
    residual: Mapping[str, int | None] = field(default_factory=dict)  # {identity: |left - right|}, None: unsettled

    @property
    def lost_events(self) -> int | None:
        """What the kernel lost: overrun + dropped + commit overrun."""
        if self.kernel_overrun is None or self.kernel_dropped is None or self.kernel_commit_overrun is None:
            return None
        return self.kernel_overrun + self.kernel_dropped + self.kernel_commit_overrun


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """How often a value fell where."""

    bounds: tuple[float, ...]  # upper ones, ascending
    counts: tuple[int, ...]  # one more than bounds: the last is above all of them
    total: float  # sum of the values


@dataclass(frozen=True, slots=True)
class SinkSnapshot:
    """One network sink. Totals count from the start of the run; entries are those in blocks."""

    name: str
    offered_events: int = 0  # decoded, and put before the sink
    replayed_events: int = 0  # found in the spool at the start, of earlier runs
    filtered_events: int = 0  # that its filter left out
    discarded_events: Mapping[str, int] = field(default_factory=dict)  # {reason: entries}
    discarded_bytes: Mapping[str, int] = field(default_factory=dict)  # {reason: bytes of their blocks}
    acked_events: int = 0
    acked_bytes: int = 0
    queued_events: int = 0  # in memory alone
    queued_bytes: int = 0
    spooled_events: int = 0  # on disk, not acknowledged
    held_bytes: int = 0  # of parcels in memory, read ahead or on their way
    held_limit_bytes: int = 0
    resent_events: int = 0
    requests: int = 0  # batches that were sent
    retries: int = 0  # of these, again
    request_failures: Mapping[str, int] = field(default_factory=dict)  # {reason: batches}
    in_flight: int = 0
    connected: bool = False
    last_error: str | None = None
    last_ack_s: float | None = None  # wall time
    certificate_not_after_s: float | None = None  # wall time
    slow_subscribers: int | None = None  # of a tap: ended, for they did not keep up; None: it is no tap
    request_duration: HistogramSnapshot | None = None
    delivery_latency: HistogramSnapshot | None = None  # from a block's arrival to its acknowledgement
    stalled_s: float = 0.0  # without an acknowledgement, while something waits
    stall_limit_s: float = float("inf")
    durable: bool = False  # it has a spool; the fields below are of that
    spool_bytes: int = 0
    spool_limit_bytes: int = 0
    spool_segments: int = 0
    spool_quarantined_segments: int = 0
    spool_corrupt_records: int = 0
    spool_corrupt_bytes: int = 0
    spool_suspended: bool = False
    spool_fsync_duration: HistogramSnapshot | None = None

    @property
    def residual(self) -> int:
        """By how much the sink's accounting fails: offered + replayed = all that became of them."""
        became = self.filtered_events + sum(self.discarded_events.values()) + self.acked_events
        return abs(self.offered_events + self.replayed_events - became - self.queued_events - self.spooled_events)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole daemon."""

    streams: tuple[StreamSnapshot, ...] = ()
    queue_events: int = 0  # decoded, not yet taken by the archive
    queue_bytes: int = 0  # of the memory budget, leased now
    queue_limit_bytes: int = 0  # the memory budget
    queue_blocked_s: float = 0.0  # total time that readers waited for the budget
    archive_bytes: int = 0  # of all segments, the open one too
    archive_segments: int = 0
    archive_oldest_ts_s: float | None = None  # wall time of the oldest segment's start, seconds since 1970
    archive_raw_bytes: int = 0  # total of the sub-buffers that the archived blocks came from
    archive_removed_segments: int = 0  # total that retention removed
    archive_suspended: bool = False  # no room on the disk
    archive_written_events: int = 0  # total that the archive took
    archive_durable_events: int = 0  # total of these that were synced
    archive_pinned_bytes: int = 0  # of segments that retention leaves alone
    archive_waiting_bytes: int = 0  # of segments that would be removed, but are not acknowledged
    archive_free_bytes: int | None = None  # on the archive's filesystem, at the last look
    interference: Mapping[str, int] = field(default_factory=dict)  # {file of ours: changes by somebody else}
    discarded: Mapping[str, int] = field(default_factory=dict)  # {reason: decoded entries not archived}
    ready: bool = False
    seconds_to_overrun: Mapping[str, float] = field(default_factory=dict)  # {instance: predicted}; absent: no trend
    stats_resets: int = 0  # kernel counters that went backwards: someone else cleared our ring
    clock_jumps: int = 0  # times that the wall clock was set
    sinks: tuple[SinkSnapshot, ...] = ()  # on a network
