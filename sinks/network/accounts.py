"""What became of each entry that a network sink was offered."""

import logging
import time
from collections.abc import Mapping, Sequence

from collector.archive.frame import Kind
from collector.batch import Block, Delivery, StreamKey
from collector.monitor.state import SinkSnapshot
from sinks.contract.base import Transport
from sinks.contract.options import SinkCommon
from sinks.network.backlog import REJECTED, Backlog, Entry, Lost, Position
from sinks.network.intake import Intake
from sinks.network.stats import Stats
from sinks.network.window import Window

logger = logging.getLogger(__name__)


class Accounts:
    """Counts, and says of what was given up that it was.

    Args:
      log, transport, options: of the sink; for what the metrics and messages say.
    """

    def __init__(self, log: Backlog, transport: Transport, options: SinkCommon) -> None:
        self.stats = Stats()
        self.spooled_events = 0
        self._log, self._transport, self._options = log, transport, options
        self._rejected: list[Position] = []  # that the log was not told
        self._last_put: dict[StreamKey, int] = {}  # {stream: number of its last block that was put}
        self._settled: dict[StreamKey, int] = {}  # {stream: number of the last block that was acknowledged or rejected}

    def offer(self, block: Block) -> None:
        """Count a block that was put."""
        self._last_put[block.stream] = block.number
        self.stats.offered_events += block.events

    def leave_out(self, events: int) -> None:
        """Count entries that the sink's filter has left out of what it is offered."""
        self.stats.offered_events += events
        self.stats.filtered_events += events

    def replay(self, events: int) -> None:
        """Count what earlier runs have left in the spool."""
        self.stats.replayed_events = self.spooled_events = events

    def give_up(self, lost: Lost) -> None:
        """Count what is not sent, and say it; of the spool, what was there is taken off by the caller."""
        self.stats.discard(lost)
        if lost.total_events:
            logger.error("entries are lost to a sink", extra={"fields": {
                "sink": self._options.title, **lost.events,
                "why": self._log.state.suspended or self._transport.state.last_error,
            }})  # fmt: skip

    def settle(self, settled: Sequence[tuple[Entry, Delivery]]) -> None:
        """Count entries that are acknowledged, or rejected for good."""
        stats, now_s = self.stats, time.monotonic()
        for entry, answer in settled:
            parcel = entry.parcel
            if parcel.stream is not None and parcel.kind == Kind.BLOCK:
                self._settled[parcel.stream] = parcel.number
            if self._log.durable:
                self.spooled_events -= parcel.events
            if answer is not Delivery.DELIVERED:
                self._reject(entry)
                continue
            stats.last_ack_s = time.time()
            stats.acked_events += parcel.events
            stats.acked_bytes += len(parcel.body)
            if parcel.kind == Kind.BLOCK and entry.put_s is not None:
                stats.latency.observe(max(0.0, now_s - entry.put_s))

    def _reject(self, entry: Entry) -> None:
        parcel = entry.parcel
        lost = Lost()
        lost.add(REJECTED, parcel.events, len(parcel.body))
        self.stats.discard(lost)
        self._rejected.append(entry.position)
        logger.error("a receiver will not take a record", extra={"fields": {
            "sink": self._options.title, "kind": parcel.kind.name, "bytes": len(parcel.body), "events": parcel.events,
            "stream": f"{parcel.stream.instance}/{parcel.stream.cpu}" if parcel.stream is not None else None,
            "number": parcel.number, "why": self._transport.state.last_error,
        }})  # fmt: skip

    def take_rejected(self) -> list[Position]:
        """Gives where the entries are that were rejected since the last call."""
        rejected, self._rejected = self._rejected, []
        return rejected

    def has_settled(self, last_blocks: Mapping[StreamKey, int] | None) -> bool:
        """Whether blocks up to these are acknowledged, rejected, or were never put; from any thread.

        Args:
          last_blocks: {stream: block number}; None: those of earlier runs.
        """
        if last_blocks is None:  # once a block of this run is: those of earlier runs went before it
            return any(stream in self._settled for stream in list(self._last_put))
        return all(
            self._settled.get(stream, -1) >= min(number, self._last_put.get(stream, -1))
            for stream, number in last_blocks.items()
        )

    def snapshot(self, intake: Intake, window: Window, stalled_s: float) -> SinkSnapshot:
        """What the metrics say.

        Args:
          stalled_s: seconds without an acknowledgement while something waits.
        """
        stats, options, state, log = self.stats, self._options, self._transport.state, self._log.state
        durable = self._log.durable
        return SinkSnapshot(
            name=options.title,
            offered_events=stats.offered_events,
            replayed_events=stats.replayed_events,
            filtered_events=stats.filtered_events,
            discarded_events=dict(stats.discarded_events),
            discarded_bytes=dict(stats.discarded_bytes),
            acked_events=stats.acked_events,
            acked_bytes=stats.acked_bytes,
            queued_events=intake.events + (0 if durable else window.held_events),
            queued_bytes=intake.size_bytes + (0 if durable else window.held_bytes),
            spooled_events=self.spooled_events,
            held_bytes=window.held_bytes,
            held_limit_bytes=options.queue_bytes,
            resent_events=stats.resent_events,
            requests=stats.requests,
            retries=stats.retries,
            request_failures=dict(stats.failures),
            in_flight=window.in_flight,
            connected=state.connected,
            last_error=state.last_error,
            last_ack_s=stats.last_ack_s,
            certificate_not_after_s=state.certificate_not_after_s,
            slow_subscribers=state.slow_subscribers,
            request_duration=stats.request_duration.snapshot(),
            delivery_latency=stats.latency.snapshot(),
            stalled_s=stalled_s,
            stall_limit_s=options.stall_limit_s,
            durable=durable,
            spool_bytes=log.bytes,
            spool_limit_bytes=options.spool_bytes,
            spool_segments=log.segments,
            spool_quarantined_segments=log.quarantined_segments,
            spool_corrupt_records=log.corrupt_records,
            spool_corrupt_bytes=log.corrupt_bytes,
            spool_suspended=log.suspended is not None,
            spool_fsync_duration=stats.fsync_duration.snapshot(),
        )
