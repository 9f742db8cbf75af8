"""What the daemon knows of itself at one moment: immutable, cheap to pass between threads.

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
    residual: Mapping[str, int | None] = field(default_factory=dict)  # {identity: |left - right|}, None: unsettled

    @property
    def lost_events(self) -> int | None:
        """What the kernel lost: overrun + dropped + commit overrun."""
        if self.kernel_overrun is None or self.kernel_dropped is None or self.kernel_commit_overrun is None:
            return None
        return self.kernel_overrun + self.kernel_dropped + self.kernel_commit_overrun


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
