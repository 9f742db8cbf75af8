"""The metrics of `receive`, in docs/stream.md."""

from collections.abc import Callable
from dataclasses import dataclass, field

from collector.monitor.exposition import Exposition
from collector.monitor.metrics_model import Each, MetricSpec

PREFIX = "ftrace_collector_receive_"

# Why connections end; known from the start, so that each is a series from the start.
REASONS = ("broken", "tls", "slow", "full", "malformed", "archive", "replaced", "limit", "memory")


@dataclass(frozen=True, slots=True)
class ReceiveSnapshot:
    """What a receiver has done since its start."""

    hosts: int = 0  # whose folders are open
    connections: int = 0  # open now
    held_bytes: int = 0  # of memory: what senders make the receiver hold
    held_limit_bytes: int = 0
    accepted: int = 0
    refused: dict[str, int] = field(default_factory=dict)  # {reason: connections that were ended}
    blocks: int = 0
    events: int = 0
    bytes: int = 0  # of the bodies of blocks
    duplicates: int = 0  # blocks that were here already


RECEIVER: Each[ReceiveSnapshot, ReceiveSnapshot] = Each((), lambda now: [((), now)])

METRICS: tuple[MetricSpec[ReceiveSnapshot], ...] = (
    RECEIVER.gauge("hosts", lambda s: s.hosts, "Hosts whose archives are open."),
    RECEIVER.gauge("connections", lambda s: s.connections, "Connections that are open."),
    RECEIVER.gauge("held_bytes", lambda s: s.held_bytes, "Memory that senders make the receiver hold, about."),
    RECEIVER.gauge("held_limit_bytes", lambda s: s.held_limit_bytes, "At most; then nothing is read."),
    RECEIVER.counter("accepted_connections_total", lambda s: s.accepted, "Connections that were accepted."),
    RECEIVER.counter("blocks_total", lambda s: s.blocks, "Blocks that were written and synced."),
    RECEIVER.counter("events_total", lambda s: s.events, "Entries in these blocks."),
    RECEIVER.counter("bytes_total", lambda s: s.bytes, "Bytes of these blocks."),
    RECEIVER.counter("duplicate_blocks_total", lambda s: s.duplicates, "Blocks that came again and were left out."),
    RECEIVER.counter_by(
        "reason", "refused_connections_total", lambda s: dict.fromkeys(REASONS, 0) | s.refused,
        "Connections that were ended.",
    ),
)  # fmt: skip


class ReceiveMetrics(Exposition[ReceiveSnapshot]):
    """Shows what a receiver says of itself.

    Args:
      read: gives the counts as of now; reads no file.
    """

    def __init__(self, read: Callable[[], ReceiveSnapshot]) -> None:
        super().__init__(PREFIX, METRICS, (), read)
