"""What one run has between its rings and its sink: memory, threads, scheduler, and the notes on the ledger."""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import trio

from collector.archive.totals import Totals, build_totals
from collector.batch import Block, Note, NoteKind, SinkState, StreamKey
from collector.capture.budget import ByteBudget, Lease
from collector.capture.capture import Capture
from collector.capture.evidence import Evidence
from collector.capture.filters import EventFilter
from collector.capture.names import HostNames
from collector.capture.provenance import Provenance, clock_note
from collector.capture.source import CaptureSizes, Source
from collector.capture.stream import SKIPPED_SHORT, Stream
from collector.capture.visit import Sample, Visit, Worker
from collector.capture.worker import Workers
from collector.config.models import Config
from collector.decode.columns import Encoder
from collector.decode.ring import REASONS
from collector.errors import TracefsError
from collector.monitor.state import SinkSnapshot, Snapshot, StreamSnapshot
from collector.monitor.status import predict_overrun
from collector.tracefs.files import TracefsDir

logger = logging.getLogger(__name__)

# Samples go into the archive this often, and whenever loss was found; each takes 300 bytes.
SAMPLE_RECORD_INTERVAL_S = 30.0


class Outlet(Protocol):
    """Where blocks and notes go: a sink behind its queue."""

    @property
    def queued_events(self) -> int:
        """In blocks that the archive has not taken."""

    @property
    def discarded_events(self) -> int:
        """In blocks that it refused."""

    @property
    def state(self) -> SinkState: ...

    def sinks(self) -> tuple[SinkSnapshot, ...]:
        """The network sinks, as they are now."""

    def put(self, item: Block | Note, release: Callable[[], None] | None = None) -> None:
        """Queue an item; `release` is called when it is off our hands."""

    async def begin(self) -> None:
        """Leave evidence of the run, and what it tells of earlier ones, before it reads the first entry."""

    async def run(self) -> None:
        """Deliver until finish() was called and all is delivered."""

    def finish(self, deadline_s: float) -> None:
        """No more items will be put; network sinks have until then, by trio's clock. Can be called again, earlier."""

    async def close(self) -> None:
        """Seal what is open."""


class Archive(Protocol):
    """What can be asked of the archive while it is written; done at its next tick."""

    def rotate(self) -> None:
        """Seal the open segment."""

    def resume(self) -> None:
        """Look at once whether there is room again."""


class Pipeline:
    """What one run has between its sources and the disk."""

    def __init__(
        self, config: Config, run: bytes, tree: TracefsDir, event_filters: Sequence[Sequence[str]] = ()
    ) -> None:
        """Args:
        event_filters: patterns of SYSTEM:EVENT; each block has a variant for each of them.
        """
        self.config = config
        self.run = run
        self._filters = tuple(EventFilter(patterns) for patterns in event_filters)
        self.budget = ByteBudget(config.capture.memory_budget_bytes)
        self.sources: list[Source] = []
        make_worker = partial(_make_worker, config, self._filters)
        self.workers: Workers[Worker] = Workers(_worker_count(config), make_worker, "decode")
        self.names = HostNames(tree, [])
        self.provenance = Provenance(run, config.hash(), self.sources)
        self._outlet: Outlet | None = None
        self._evidence = Evidence(Path(config.archive.folder))
        self._encoders: Lease | None = None  # of the workers, for as long as the pipeline lives
        self.archive: Archive | None = None
        self.capture: Capture | None = None
        self._recorded_s: dict[Stream, float] = {}  # when a sample of it went into the archive
        self._seen: dict[Stream, Sample] = {}
        self._gaps: Counter[StreamKey] = Counter()  # gap records of each stream so far

    @property
    def streams(self) -> list[Stream]:
        return [stream for source in self.sources for stream in source.streams]

    @property
    def outlet(self) -> Outlet:
        """Where everything goes; set once, before attach()."""
        assert self._outlet is not None
        return self._outlet

    @outlet.setter
    def outlet(self, outlet: Outlet) -> None:
        self._outlet = outlet

    def attach(self, sources: Sequence[Source]) -> None:
        """Open the sources' rings.

        Raises:
          CollectorError: the kernel refuses, or the memory budget is too small.
        """
        capture = self.config.capture
        sizes = CaptureSizes(capture.block_bytes, capture.block_age_s, self.workers.count, 1 + len(self._filters))
        in_all = sum(len(source.cpus) for source in sources)
        encoder_bytes = 0
        for source in sources:
            self.sources.append(source)
            size = source.open_streams(self.budget, sizes, self._evidence.keep, streams_in_all=in_all)
            encoder_bytes = max(encoder_bytes, size.encoder_bytes)
        self._encoders = self.budget.try_take(self.workers.count * encoder_bytes)
        self.names.books.extend(source.book for source in sources)
        self.capture = Capture(
            self.streams, self.workers, self.budget, self.emit, capture.flush_interval_s, capture.stats_interval_s
        )

    def close(self) -> None:
        """Close the rings and end the threads; also after a failure half-way."""
        for source in self.sources:
            source.close()
        self.workers.close()

    def emit(self, stream: Stream, visit: Visit) -> None:
        """Queue what a visit brought."""
        for number, (block, lease) in enumerate(visit.blocks):
            self._emit_gaps(stream, visit, number)
            self.outlet.put(block, lease.release)
        self._emit_gaps(stream, visit, len(visit.blocks))
        if visit.sample is not None:
            self._emit_sample(stream, visit.sample, stream.totals())

    def _emit_gaps(self, stream: Stream, visit: Visit, after: int) -> None:
        """Queue the gaps that stand behind so many of the visit's blocks."""
        for gap in visit.loose_gaps:
            if gap.after == after:
                self.emit_gap(stream.key, gap.cause, gap.lost, gap.from_ts, gap.detail)

    def emit_gap(
        self, key: StreamKey, cause: str, lost: int | None, from_ts: int | None, detail: str, to_ts: int | None = None
    ) -> None:
        """Queue a gap that no block tells of."""
        self._put(NoteKind.GAP, key, {
            # With the number nothing else says the same: who is told of a gap twice knows that it is one.
            "no": self._gaps[key], "cause": cause, "count": lost, "from_ts": from_ts, "to_ts": to_ts, "detail": detail,
        })  # fmt: skip
        self._gaps[key] += 1

    async def drain(self, source: Source, drained: dict[Stream, bool], *, at_once: int = 1) -> None:
        """Read a source's streams to their ends.

        Args:
          drained: gets the streams as they end, and whether nothing of them is left in the kernel.
          at_once: so many streams.
        """
        await self._drain_streams(source, drained, at_once)
        for step in source.drain_steps():
            await self.workers.run(partial(_do, step))
            await self._drain_streams(source, drained, at_once)

    async def _drain_streams(self, source: Source, drained: dict[Stream, bool], at_once: int) -> None:
        capture = self.capture
        assert capture is not None
        limit = trio.Semaphore(at_once)

        async def drain(stream: Stream) -> None:
            try:
                drained[stream] = await capture.drain(stream)
            finally:
                limit.release()

        async with trio.open_nursery() as nursery:
            for stream in source.streams:
                await limit.acquire()
                nursery.start_soon(drain, stream)

    async def leave(self, source: Source, streams: Sequence[Stream]) -> None:
        """Close what is decoded of streams whose rest stays in the kernel, and say how much that is."""
        assert self.capture is not None
        try:
            await self.workers.run(partial(_do, source.give_up))
        except TracefsError as e:  # what is decoded has to be closed all the same
            logger.error("it is not known what stays in the kernel", extra={"fields": {
                "instance": source.name, "error": str(e),
            }})  # fmt: skip
        for stream in streams:
            await self.capture.close_block(stream)
            totals = stream.totals()
            self._put(NoteKind.SAMPLE, stream.key, {
                "at_ns": time.time_ns(), "totals": build_totals(replace(totals, left_in_kernel=totals.entries)),
            })  # fmt: skip

    def emit_clock_pairs(self) -> None:
        """Queue a pair of clock readings per instance."""
        for source in self.sources:
            note = clock_note(source)
            if note is not None:
                self.outlet.put(note)

    def snapshot(
        self,
        ready: bool,
        before: Snapshot | None = None,
        elapsed_s: float = 0.0,
        interference: Mapping[str, int] | None = None,
    ) -> Snapshot:
        """What metrics and status lines say; reads no file.

        Args:
          before: the snapshot of elapsed_s ago, for rates.
          interference: {file: changes by somebody else}.
        """
        capture, archive = self.capture, self.outlet.state
        samples = [stream.account.last_sample for stream in self.streams]
        streams = tuple(_stream_snapshot(stream, source) for source in self.sources for stream in source.streams)
        return Snapshot(
            streams=streams,
            queue_events=self.outlet.queued_events,
            queue_bytes=self.budget.used_bytes,
            queue_limit_bytes=self.budget.limit_bytes,
            queue_blocked_s=capture.blocked_s if capture is not None else 0.0,
            archive_bytes=archive.bytes,
            archive_segments=archive.segments,
            archive_oldest_ts_s=archive.oldest_s,
            archive_raw_bytes=archive.raw_bytes,
            archive_suspended=archive.suspended is not None,
            archive_written_events=archive.written_events,
            archive_durable_events=archive.durable_events,
            archive_pinned_bytes=archive.pinned_bytes,
            archive_waiting_bytes=archive.waiting_bytes,
            archive_free_bytes=archive.free_bytes,
            archive_removed_segments=archive.removed_segments,
            interference=dict(interference or {}),
            discarded={"suspended": self.outlet.discarded_events},
            ready=ready,
            seconds_to_overrun=predict_overrun(streams, before.streams, elapsed_s) if before is not None else {},
            sinks=self.outlet.sinks(),
            stats_resets=sum(sample.resets for sample in samples if sample is not None),
        )

    def _emit_sample(self, stream: Stream, sample: Sample, totals: Totals) -> None:
        before = self._seen.get(stream)
        self._seen[stream] = sample
        earlier = before.kernel if before is not None else None
        for cause, now, then in (
            ("dropped", sample.kernel.dropped, earlier.dropped if earlier else 0),
            ("commit_overrun", sample.kernel.commit_overrun, earlier.commit_overrun if earlier else 0),
        ):
            if now > then:
                from_ts = before.now_ts if before else None
                self.emit_gap(stream.key, cause, now - then, from_ts, "between two looks at stats", sample.now_ts)
        if sample.balance.unexplained > (before.balance.unexplained if before else 0):
            logger.error(
                "the kernel handed out entries that nobody has seen",
                extra={"fields": {
                    "instance": stream.key.instance, "cpu": stream.key.cpu, "unproven": str(totals.unproven(
                        sum(stream.decode_errors.get(reason, 0) for reason in REASONS.values()))),
                }},
            )  # fmt: skip
        if sample.resets > (before.resets if before else 0):
            from_ts = before.now_ts if before else None
            self.emit_gap(stream.key, "cleared", None, from_ts, "somebody else reset the ring", sample.now_ts)
            logger.error(
                "somebody else has reset a ring of ours; what was unread in it is lost and not counted",
                extra={"fields": {"instance": stream.key.instance, "cpu": stream.key.cpu}},
            )
        now_s = time.monotonic()
        lost = sample.kernel.lost > (earlier.lost if earlier else 0)
        keep = lost or now_s - self._recorded_s.get(stream, float("-inf")) >= SAMPLE_RECORD_INTERVAL_S
        if keep:
            self._recorded_s[stream] = now_s
        self._put(NoteKind.SAMPLE, stream.key, {"at_ns": sample.at_ns, "totals": build_totals(totals)}, keep=keep)

    def _put(self, kind: NoteKind, key: StreamKey, body: dict[str, Any], *, keep: bool = True) -> None:
        self.outlet.put(Note(kind, key, body, keep))


def _do(step: Callable[[], None], _: Worker) -> None:
    step()


def _worker_count(config: Config) -> int:
    """Decoding threads: one core decodes 30 million entries a second, far more than a few CPUs produce."""
    return config.capture.workers or min(4, max(2, (os.cpu_count() or 1) // 16))


def _make_worker(config: Config, filters: tuple[EventFilter, ...]) -> Worker:
    """Runs in each decoding thread: compressors are not safe to share."""
    archive = config.archive
    if archive.compression == "zstd":
        import zstandard

        return Worker(Encoder(), zstandard.ZstdCompressor(level=archive.compression_level).compress, "zstd", filters)
    if archive.compression == "lz4":
        import lz4.block

        return Worker(Encoder(), partial(lz4.block.compress, store_size=False), "lz4", filters)
    return Worker(Encoder(), bytes, "none", filters)


def _stream_snapshot(stream: Stream, source: Source) -> StreamSnapshot:
    sample = stream.account.last_sample
    if sample is None:
        closed = stream.account
        return StreamSnapshot(
            stream.key.instance, stream.key.cpu, reader_bytes=stream.reader_bytes, reader_pages=stream.reader_pages,
            decoded_events=stream.decoded, gap_known_events=closed.gap_known, gaps=closed.gaps,
            unknown_gaps=closed.unknown_gaps, decode_errors=dict.fromkeys(REASONS.values(), 0) | stream.decode_errors,
        )  # fmt: skip
    kernel = sample.kernel
    return StreamSnapshot(
        instance=stream.key.instance,
        cpu=stream.key.cpu,
        kernel_overrun=kernel.overrun,
        kernel_dropped=kernel.dropped,
        kernel_commit_overrun=kernel.commit_overrun,
        kernel_read=kernel.read,
        kernel_entries=kernel.entries,
        kernel_bytes=sample.kernel_bytes,
        kernel_size_bytes=source.ring_bytes(stream.key.cpu),
        oldest_age_s=sample.oldest_age_s if source.clock.unit == "ns" else None,
        reader_bytes=stream.reader_bytes,
        reader_pages=stream.reader_pages,
        decoded_events=stream.decoded,
        gap_known_events=sample.reader.gap_known,
        gaps=sample.reader.gaps,
        unknown_gaps=sample.reader.unknown_gaps,
        decode_errors=dict.fromkeys(REASONS.values(), 0) | stream.decode_errors,
        skipped={SKIPPED_SHORT: 0} | dict(sample.reader.skipped),
        unexplained=sample.balance.unexplained,
        residual=sample.balance.residual,
    )
