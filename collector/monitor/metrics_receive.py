"""The metrics of `receive`, in docs/stream.md."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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


# (name, kind, help, value)
METRICS: tuple[tuple[str, str, str, Callable[[ReceiveSnapshot], float]], ...] = (
    ("hosts", "gauge", "Hosts whose archives are open.", lambda s: s.hosts),
    ("connections", "gauge", "Connections that are open.", lambda s: s.connections),
    ("held_bytes", "gauge", "Memory that senders make the receiver hold, about.", lambda s: s.held_bytes),
    ("held_limit_bytes", "gauge", "At most; then nothing is read.", lambda s: s.held_limit_bytes),
    ("accepted_connections", "counter", "Connections that were accepted.", lambda s: s.accepted),
    ("blocks", "counter", "Blocks that were written and synced.", lambda s: s.blocks),
    ("events", "counter", "Entries in these blocks.", lambda s: s.events),
    ("bytes", "counter", "Bytes of these blocks.", lambda s: s.bytes),
    ("duplicate_blocks", "counter", "Blocks that came again and were left out.", lambda s: s.duplicates),
)


class ReceiveMetrics(Collector):
    """Renders what a receiver says of itself, in whatever thread asks.

    Args:
      read: gives the counts as of now; reads no file.
    """

    def __init__(self, read: Callable[[], ReceiveSnapshot]) -> None:
        self._read = read
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> bytes:
        """Prometheus text exposition 0.0.4."""
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry."""
        now = self._read()
        for name, kind, text, value in METRICS:
            family = (CounterMetricFamily if kind == "counter" else GaugeMetricFamily)(PREFIX + name, text)
            family.add_metric((), value(now))
            yield family
        refused = CounterMetricFamily(PREFIX + "refused_connections", "Connections that were ended.", labels=["reason"])
        for reason in dict.fromkeys((*REASONS, *now.refused)):
            refused.add_metric((reason,), now.refused.get(reason, 0))
        yield refused
