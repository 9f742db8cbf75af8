"""The composition root: builds everything, runs it, and takes it down in order.

    start   archive locked and repaired -> instance set up -> streams -> readers -> READY
    stop    tracing off -> rings drained -> blocks closed -> queue delivered -> segment sealed -> instance removed

The only importer of the sinks.
"""

import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from collector import __version__
from collector.archive.history import LeftOff, find_left_off
from collector.archive.segment import build_header
from collector.archive.tally import CRASH, OVERRUN
from collector.archive.totals import StreamId, Totals, build_totals
from collector.batch import Note, NoteKind, StreamKey
from collector.capture.budget import ByteBudget
from collector.capture.capture import Capture
from collector.capture.evidence import Evidence
from collector.capture.names import HostNames
from collector.capture.source import CaptureSizes, LiveSource, RecordedSource, Source, new_run_id
from collector.capture.stream import SKIPPED_SHORT, Sample, Stream, Visit, Worker
from collector.capture.worker import Workers
from collector.config import ArchiveConfig, Config
from collector.decode.columns import Encoder
from collector.decode.ring import REASONS
from collector.errors import EXIT_INCOMPLETE_DRAIN, EXIT_OK
from collector.ledger import MALFORMED
from collector.logs import LogOutput, start_logging
from collector.sdnotify import Notifier, watchdog_interval_s
from collector.snapshot import Snapshot, StreamSnapshot
from collector.status import build_status, predict_overrun, render_line, render_status
from collector.tracefs.files import TracefsDir, find_tracefs
from collector.tracefs.instance import Instance
from collector.tracefs.wish import InstanceSpec
from sinks.file.sink import FilePolicy, FileSink
from sinks.runner import SinkRunner

logger = logging.getLogger(__name__)

TICK_S = 1.0  # snapshots for metrics, the status line and systemd

# Samples go into the archive this often, and whenever loss was found; each takes 300 bytes.
SAMPLE_RECORD_INTERVAL_S = 30.0

# The wall clock steps and slews against the trace clock.
CLOCK_PAIR_INTERVAL_S = 60.0

CLEAR_LINE = "\r\x1b[K"  # the live status line makes room for the last message

# Removing an instance waits for whoever else has a file of it open.
REMOVE_TIMEOUT_S = 5.0

# A reader that has not been visited for so many flush intervals, without a reason, is stuck.
STALL_INTERVALS = 10
STALL_MIN_S = 10.0


def run(config: Config, *, replay: Path | None = None, duration_s: float | None = None) -> int:
    """Collect until a signal, or for duration_s, or to the end of a recorded case; gives the exit code.

    Raises:
      CollectorError: or a group of them; what is wrong and what to do.
    """
    output = start_logging(config.log.format, config.log.level)
    try:
        if replay is not None:
            return trio.run(_replay, config, replay)
        return trio.run(_collect, config, duration_s, output)
    finally:
        output.stop()


async def _replay(config: Config, case: Path) -> int:
    run_id = new_run_id()
    source = RecordedSource(case, run_id, config.trace.cpus)
    pipeline = Pipeline(config, run_id, source.tree)
    await pipeline.open_archive()
    try:
        pipeline.attach([source])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.runner.run)
            for stream in source.streams:
                await pipeline.drain(stream)
            pipeline.runner.finish()
        await pipeline.sink.close()
    finally:
        pipeline.close()
    _say_where(config, pipeline)
    return EXIT_OK


async def _collect(config: Config, duration_s: float | None, output: LogOutput) -> int:
    tracefs = TracefsDir(find_tracefs())
    spec = _spec(config, tracefs)
    instance = Instance.open(tracefs, spec)
    try:
        if instance.existed and config.trace.on_leftover == "remove":
            await trio.to_thread.run_sync(instance.remove, REMOVE_TIMEOUT_S)
            instance = Instance.open(tracefs, spec)
        if instance.needs_drain_before_configure:
            await _drain_leftover(config, instance)
        run_id = new_run_id()
        pipeline = Pipeline(config, run_id, tracefs)
        await pipeline.open_archive()
        try:
            # The pipeline's threads exist only now; those that come later the kernel adds by itself.
            instance.spec = replace(instance.spec, notrace_pids=_own_threads(config))
            cleared = _unreadable(instance)
            instance.configure(discard_unread=True)
            for note in instance.notes:
                logger.warning(note)
            source = _open_source(config, instance, run_id)
            pipeline.attach([source])
            _settle_crash(pipeline, source)
            for cpu, entries in cleared.items():
                key = StreamKey(run_id, spec.name, cpu)
                pipeline.emit_gap(key, "cleared", entries, None, "left by an earlier run, not read in time")
            complete = await Service(config, pipeline, instance, output).run(duration_s)
        finally:
            pipeline.close()
        await trio.to_thread.run_sync(partial(instance.undo, REMOVE_TIMEOUT_S, keep=spec.keep or not complete))
        _say_where(config, pipeline)
        return EXIT_OK if complete else EXIT_INCOMPLETE_DRAIN
    except BaseException:
        # Nobody reads it any more: what is in its rings stays for the next start only if we were collecting.
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(partial(_give_up, instance))
        raise


async def _drain_leftover(config: Config, instance: Instance) -> None:
    """Archive what an earlier run left in an instance that has another clock or other sub-buffers, as a run of its own.

    Setting the instance up would throw it away.
    """
    run_id = new_run_id()
    instance.stop_tracing()
    pipeline = Pipeline(config, run_id, instance.dir.top)
    await pipeline.open_archive()
    try:
        source = _open_source(config, instance, run_id)
        pipeline.attach([source])
        _settle_crash(pipeline, source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pipeline.runner.run)
            with trio.move_on_after(config.shutdown_timeout_s):
                for stream in source.streams:
                    await pipeline.drain(stream)
            pipeline.runner.finish()
        await pipeline.sink.close()
    finally:
        pipeline.close()
    logger.warning(
        "archived what an earlier run had left in the instance",
        extra={"fields": {"events": sum(s.decoded for s in pipeline.streams), "archive": config.archive.folder}},
    )


def _open_source(config: Config, instance: Instance, run_id: bytes) -> LiveSource:
    """The streams' source; of an instance that was there before, with where the earlier run left off."""
    left_off: Mapping[int, LeftOff] = {}
    if instance.existed:
        left_off = find_left_off(Path(config.archive.folder), instance.spec.name, _boot_id())
    return LiveSource(
        instance.dir,
        instance.spec.name,
        instance.cpus,
        run_id,
        instance.spec.events,
        instance.read_clock_pair,
        left_off,
    )


def _unreadable(instance: Instance) -> dict[int, int]:
    """{cpu: entries} that setting the instance up will throw away: what reading the leftover did not bring.

    A change of the sub-buffer size leaves such entries in the kernel's counters, which no read gives.
    """
    if not instance.needs_drain_before_configure:
        return {}
    unread = {cpu: instance.dir.read_stats(cpu).entries for cpu in instance.cpus}
    return {cpu: entries for cpu, entries in unread.items() if entries}


def _settle_crash(pipeline: "Pipeline", source: LiveSource) -> None:
    """Record what an earlier run had read from the rings and took with it when it died."""
    for stream in source.streams:
        left = source.left_off.get(stream.key.cpu)
        if left is None:
            continue
        stream.continue_after_crash()
        lost = source.crash_lost[stream.key.cpu]
        if lost != 0 or not left.complete:  # a record of nothing lost closes the crashed run's ledger
            pipeline.emit_gap(stream.key, CRASH, lost, left.last_ts, "read by an earlier run that did not archive it")
        if lost != 0:
            logger.error(
                "an earlier run has lost entries that it had read",
                extra={"fields": {"cpu": stream.key.cpu, "events": "unknown" if lost is None else lost}},
            )


def _give_up(instance: Instance) -> None:
    try:
        instance.undo(REMOVE_TIMEOUT_S)
    except Exception as e:  # the error that is on its way matters more
        logger.warning("cannot remove the instance", extra={"fields": {"error": str(e)}})
        instance.close()


def _spec(config: Config, tracefs: TracefsDir) -> InstanceSpec:
    trace = config.trace
    return InstanceSpec(
        name=trace.instance,
        events=tuple(tracefs.match_events(trace.events)),
        clock=trace.clock,
        buffer_size_kb=trace.buffer_size_kb,
        subbuf_size_kb=trace.subbuf_size_kb,
        cpus=trace.cpus,
        buffer_percent=trace.buffer_percent,
        overwrite=trace.overwrite,
        notrace_pids=_own_threads(config),
        keep=trace.keep_instance,
    )


def _own_threads(config: Config) -> tuple[int, ...]:
    """Ids of the threads that run now, if they are not to be traced."""
    return tuple(int(tid) for tid in os.listdir("/proc/self/task")) if config.trace.exclude_self else ()


def _say_where(config: Config, pipeline: "Pipeline") -> None:
    events = sum(stream.decoded for stream in pipeline.streams)
    folder = config.archive.folder
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{clear}{events} events in {folder}; `ftrace-collector show {folder}` prints them", file=sys.stderr)


class Pipeline:
    """What one run has between its sources and the disk."""

    def __init__(self, config: Config, run_id: bytes, tree: TracefsDir) -> None:
        self.config = config
        self.run_id = run_id
        self.budget = ByteBudget(config.capture.memory_budget_bytes)
        self.sources: list[Source] = []
        self.workers: Workers[Worker] = Workers(_worker_count(config), partial(_make_worker, config), "decode")
        self._archive_thread: Workers[None] = Workers(1, lambda: None, "archive")
        folder = Path(config.archive.folder)
        self._tree = tree
        self._evidence = Evidence(folder)
        self._context = _Context(self)
        self.names = HostNames(tree, [])
        self.sink = FileSink(
            _policy(config.archive, folder), self._context, self.names,
            lambda job: self._archive_thread.run(lambda _: job()),
        )  # fmt: skip
        self.runner = SinkRunner(self.sink)
        self.capture: Capture | None = None
        self._recorded_s: dict[Stream, float] = {}  # when a sample of it went into the archive
        self._seen: dict[Stream, Sample] = {}

    @property
    def streams(self) -> list[Stream]:
        return [stream for source in self.sources for stream in source.streams]

    async def open_archive(self) -> None:
        """Lock the archive and repair it.

        Raises:
          ArchiveError: it cannot be used.
        """
        try:
            await self.sink.open()
        except BaseException:
            self.close()
            raise

    def attach(self, sources: Sequence[Source]) -> None:
        """Open the sources' rings.

        Raises:
          CollectorError: the kernel refuses, or the memory budget is too small.
        """
        capture = self.config.capture
        sizes = CaptureSizes(capture.block_bytes, capture.block_age_s, self.workers.count)
        in_all = sum(len(source.cpus) for source in sources)
        for source in sources:
            self.sources.append(source)
            source.open_streams(self.budget, sizes, self._evidence.keep, streams_in_all=in_all)
        self.names.books.extend(source.book for source in sources)
        self.capture = Capture(
            self.streams, self.workers, self.budget, self.emit, capture.flush_interval_s, capture.stats_interval_s
        )

    def close(self) -> None:
        """Close the rings, the archive's lock and the threads; also after a failure half-way."""
        for source in self.sources:
            source.close()
        self.sink.unlock()
        self.workers.close()
        self._archive_thread.close()

    def emit(self, stream: Stream, visit: Visit) -> None:
        """Queue what a visit brought."""
        for block, lease in visit.blocks:
            self.runner.put(block, lease.release)
        for gap in visit.loose_gaps:
            self.emit_gap(stream.key, OVERRUN, gap.lost, None, gap.detail)
        if visit.sample is not None:
            self._emit_sample(stream, visit.sample, stream.totals())

    def emit_gap(
        self, key: StreamKey, cause: str, lost: int | None, from_ts: int | None, detail: str, to_ts: int | None = None
    ) -> None:
        """Queue a gap that no block tells of."""
        self._put(
            NoteKind.GAP, key, {"cause": cause, "count": lost, "from_ts": from_ts, "to_ts": to_ts, "detail": detail}
        )

    async def drain(self, stream: Stream) -> bool:
        """Read a stream to its end; True when nothing is left in the kernel."""
        assert self.capture is not None
        return await self.capture.drain(stream)

    async def leave(self, stream: Stream) -> None:
        """Close what is decoded of a stream whose rest stays in the kernel, and say how much that is."""
        assert self.capture is not None
        await self.capture.close_block(stream)
        totals = stream.totals()
        self._put(NoteKind.SAMPLE, stream.key, {
            "at_ns": time.time_ns(), "totals": build_totals(replace(totals, left_in_kernel=totals.entries)),
        })  # fmt: skip

    def emit_clock_pairs(self) -> None:
        """Queue a pair of clock readings per instance."""
        for source in self.sources:
            note = _clock_note(source)
            if note is not None:
                self.runner.put(note)

    def snapshot(self, ready: bool, before: Snapshot | None = None, elapsed_s: float = 0.0) -> Snapshot:
        """What metrics and status lines say; reads no file.

        Args:
          before: the snapshot of elapsed_s ago, for rates.
        """
        capture, archive = self.capture, self.sink.state
        samples = [stream.last_sample for stream in self.streams]
        streams = tuple(_stream_snapshot(stream, source) for source in self.sources for stream in source.streams)
        return Snapshot(
            streams=streams,
            queue_events=self.runner.queued_events,
            queue_bytes=self.budget.used_bytes,
            queue_limit_bytes=self.budget.limit_bytes,
            queue_blocked_s=capture.blocked_s if capture is not None else 0.0,
            archive_bytes=archive.bytes,
            archive_segments=archive.segments,
            archive_oldest_ts_s=archive.oldest_s,
            archive_raw_bytes=archive.raw_bytes,
            archive_suspended=archive.suspended is not None,
            archive_removed_segments=archive.removed_segments,
            discarded={"suspended": self.runner.discarded_events},
            ready=ready,
            seconds_to_overrun=predict_overrun(streams, before.streams, elapsed_s) if before is not None else {},
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
        now_s = time.monotonic()
        lost = sample.kernel.lost > (earlier.lost if earlier else 0)
        keep = lost or now_s - self._recorded_s.get(stream, float("-inf")) >= SAMPLE_RECORD_INTERVAL_S
        if keep:
            self._recorded_s[stream] = now_s
        self._put(NoteKind.SAMPLE, stream.key, {"at_ns": sample.at_ns, "totals": build_totals(totals)}, keep=keep)

    def _put(self, kind: NoteKind, key: StreamKey, body: dict[str, Any], *, keep: bool = True) -> None:
        self.runner.put(Note(kind, key, body, keep))


class _Context:
    """What the archive asks when a segment begins or ends; called in the archive's thread."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._since: dict[StreamId, int] = {}  # {stream: trace clock at the open segment's start}

    def header(self, number: int, opening: Mapping[StreamId, Any] | None) -> dict[str, Any]:
        pipeline = self._pipeline
        ids = [(stream.key.instance, stream.key.cpu) for stream in pipeline.streams]
        return build_header(
            run=pipeline.run_id,
            segment=number,
            host=socket.gethostname(),
            boot_id=_boot_id(),
            kernel=pipeline.sources[0].tree.read_uname() or " ".join(os.uname()[i] for i in (0, 2, 3, 4)),
            created_ns=time.time_ns(),
            tool=f"ftrace-collector {__version__}",
            config_hash=pipeline.config.hash(),
            instances={source.name: source.header() for source in pipeline.sources},
            opening={key: (opening or {}).get(key, Totals()) for key in ids},
        )

    def opening_notes(self) -> Sequence[Note]:
        notes = []
        for source in self._pipeline.sources:
            pair = _clock_note(source)
            if pair is None:
                continue
            notes.append(pair)
            for stream in source.streams:
                self._since[(stream.key.instance, stream.key.cpu)] = pair.body["trace"]
                notes.append(_coverage(stream.key, pair.body["trace"], None, pair.body["realtime_ns"]))
        return notes

    def closing_notes(self) -> Sequence[Note]:
        notes = []
        for source in self._pipeline.sources:
            pair = _clock_note(source)
            if pair is None:
                continue
            notes.append(pair)
            for stream in source.streams:
                since = self._since.get((stream.key.instance, stream.key.cpu), pair.body["trace"])
                notes.append(_coverage(stream.key, since, pair.body["trace"], pair.body["realtime_ns"]))
        return notes


class Service:
    """The live run: readers, metrics, signals, systemd."""

    def __init__(self, config: Config, pipeline: Pipeline, instance: Instance, output: LogOutput) -> None:
        self.config = config
        self.pipeline = pipeline
        self.instance = instance
        self._output = output
        self._notifier = Notifier()
        self._ready = False
        self._stop = trio.Event()
        self._forced = trio.CancelScope()
        self._http: Any = None  # http.AppState, where metrics are served
        self._terminal = sys.stderr.isatty()
        self._stall_limit_s = max(STALL_MIN_S, STALL_INTERVALS * config.capture.flush_interval_s)

    async def run(self, duration_s: float | None) -> bool:
        """Collect until told to stop, then drain; True when nothing was left in the kernel."""
        pipeline = self.pipeline
        assert pipeline.capture is not None
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._take_signals)
                await self._serve_http(nursery)
                async with trio.open_nursery() as sinks:
                    sinks.start_soon(pipeline.runner.run)
                    async with trio.open_nursery() as readers:
                        await readers.start(pipeline.capture.run)
                        nursery.start_soon(self._tick)
                        nursery.start_soon(self._feed_watchdog)
                        self._set_ready()
                        with trio.move_on_after(duration_s if duration_s is not None else float("inf")):
                            await self._stop.wait()
                        self._set_stopping()
                        readers.cancel_scope.cancel()
                    complete = await self._drain()
                    pipeline.runner.finish()
                await pipeline.sink.close()
                nursery.cancel_scope.cancel()
            return complete
        finally:
            self._notifier.close()

    async def _drain(self) -> bool:
        """Stop tracing and read every ring to its end, within the deadline."""
        pipeline = self.pipeline
        self.instance.stop_tracing()
        drained: dict[Stream, bool] = {}

        async def drain(stream: Stream) -> None:
            drained[stream] = await pipeline.drain(stream)

        with self._forced, trio.move_on_after(self.config.shutdown_timeout_s):
            async with trio.open_nursery() as nursery:
                for stream in pipeline.streams:
                    nursery.start_soon(drain, stream)
        left = [stream for stream in pipeline.streams if not drained.get(stream)]
        for stream in left:
            await pipeline.leave(stream)
        if left:
            logger.error(
                "entries were left in the kernel; the instance is kept and the next start reads them",
                extra={"fields": {
                    "events": sum(s.last_sample.kernel.entries for s in left if s.last_sample is not None),
                    "cpus": ",".join(str(stream.key.cpu) for stream in left),
                }},
            )  # fmt: skip
        return not left

    async def _take_signals(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        # A terminal that goes away ends the collection like Ctrl-C does.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as received:
            task_status.started()
            async for _ in received:
                if self._stop.is_set():
                    logger.warning("stopping at once, what is not drained stays in the kernel")
                    self._forced.cancel()
                self._stop.set()

    async def _serve_http(self, nursery: trio.Nursery) -> None:
        if not self.config.http.listen:
            return
        from collector.http import AppState, serve
        from collector.metrics import Metrics

        self._http = AppState(Metrics(platform.release(), self._output.counts))
        urls = await nursery.start(serve, self.config.http.listen, self._http)
        logger.info("serving metrics", extra={"fields": {"at": " ".join(urls)}})

    def _set_ready(self) -> None:
        self._ready = True
        if self._http is not None:
            self._http.not_ready_reason = None
        self._notifier.ready("collecting")
        logger.info(
            "collecting",
            extra={"fields": {
                "instance": self.instance.spec.name, "events": len(self.instance.spec.events),
                "cpus": len(self.pipeline.streams), "clock": self.instance.clock,
                "subbuf_bytes": self.instance.subbuf_size, "archive": self.config.archive.folder,
            }},
        )  # fmt: skip

    def _set_stopping(self) -> None:
        self._ready = False
        if self._http is not None:
            self._http.not_ready_reason = "stopping"
        self._notifier.stopping("draining")
        if self._terminal:
            self._output.write_transient(render_line("draining", 80))

    def _why_not_ready(self) -> str | None:
        assert self.pipeline.capture is not None
        if not self._ready:
            return "stopping"
        if self.pipeline.sink.state.suspended is not None:
            return f"archiving is suspended: {self.pipeline.sink.state.suspended}"
        if self.pipeline.capture.stalled_s() >= self._stall_limit_s:
            return "a reader makes no progress"
        return None

    async def _tick(self) -> None:
        """Snapshots, once a second."""
        before, before_s = self.pipeline.snapshot(self._ready), time.monotonic()
        next_pair_s = before_s + CLOCK_PAIR_INTERVAL_S
        due_s = before_s + TICK_S
        while True:
            await trio.sleep(max(0.0, due_s - time.monotonic()))
            now_s = time.monotonic()
            snapshot = self.pipeline.snapshot(self._ready, before, now_s - before_s)
            text = render_status(build_status(snapshot, before, now_s - before_s))
            if self._http is not None:
                self._http.metrics.observe_event_loop_lag(max(0.0, now_s - due_s))
                self._http.metrics.update(snapshot)
                self._http.not_ready_reason = self._why_not_ready()
            if self._ready:
                if self._terminal:
                    self._output.write_transient(render_line(text, os.get_terminal_size(2).columns))
                self._notifier.status(text)
            if now_s >= next_pair_s:
                next_pair_s += CLOCK_PAIR_INTERVAL_S
                self.pipeline.emit_clock_pairs()
            before, before_s = snapshot, now_s
            due_s = max(due_s + TICK_S, now_s)

    async def _feed_watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        if interval_s is None:
            return
        assert self.pipeline.capture is not None
        while True:
            # A stream that waits for the budget is explained by a slow or full disk, and is not counted.
            stalled_s = self.pipeline.capture.stalled_s()
            if stalled_s < self._stall_limit_s or not self._ready:  # the drain has a deadline of its own
                self._notifier.watchdog()
            else:
                logger.error("a reader makes no progress", extra={"fields": {"seconds": round(stalled_s)}})
            await trio.sleep(interval_s / 3)


def _worker_count(config: Config) -> int:
    """Decoding threads: one core decodes 30 million entries a second, far more than a few CPUs produce."""
    return config.capture.workers or min(4, max(2, (os.cpu_count() or 1) // 16))


def _make_worker(config: Config) -> Worker:
    """Runs in each decoding thread: compressors are not safe to share."""
    archive = config.archive
    if archive.compression == "zstd":
        import zstandard

        return Worker(Encoder(), zstandard.ZstdCompressor(level=archive.compression_level).compress, "zstd")
    if archive.compression == "lz4":
        import lz4.block

        return Worker(Encoder(), partial(lz4.block.compress, store_size=False), "lz4")
    return Worker(Encoder(), bytes, "none")


def _policy(archive: ArchiveConfig, folder: Path) -> FilePolicy:
    return FilePolicy(
        folder=folder,
        segment_bytes=archive.segment_bytes,
        segment_age_s=archive.segment_age_s,
        max_bytes=archive.max_bytes,
        min_free_bytes=archive.min_free_of(_filesystem_bytes(folder)),
        sync_interval_s=archive.sync_interval_s,
    )


def _filesystem_bytes(folder: Path) -> int:
    """Size of the filesystem that the folder is, or will be, on."""
    for place in (folder, *folder.absolute().parents):
        try:
            stat = os.statvfs(place)
            return stat.f_blocks * stat.f_frsize
        except OSError:
            continue
    return 0


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _clock_note(source: Source) -> Note | None:
    pair = source.clock_pair()
    if pair is None or not source.streams:
        return None
    body = {
        "trace": pair.trace, "realtime_ns": pair.realtime_ns, "boottime_ns": pair.boottime_ns,
        "monotonic_ns": pair.monotonic_ns, "error_ns": pair.error_ns,
    }  # fmt: skip
    return Note(NoteKind.CLOCK, source.streams[0].key, body)


def _coverage(key: StreamKey, from_ts: int, to_ts: int | None, at_ns: int) -> Note:
    return Note(NoteKind.COVERAGE, key, {"from_ts": from_ts, "to_ts": to_ts, "state": "observed", "at_ns": at_ns})


def _stream_snapshot(stream: Stream, source: Source) -> StreamSnapshot:
    sample, counts = stream.last_sample, stream.counts()
    if sample is None:
        return StreamSnapshot(stream.key.instance, stream.key.cpu, reader_bytes=stream.reader_bytes,
                              reader_pages=stream.reader_pages, decoded_events=stream.decoded)  # fmt: skip
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
        gap_known_events=counts.gap_known,
        gaps=counts.gaps,
        unknown_gaps=counts.unknown_gaps,
        decode_errors=dict.fromkeys(REASONS.values(), 0) | stream.decode_errors,
        skipped={SKIPPED_SHORT: 0, MALFORMED: 0} | dict(sample.balance.skipped),
        residual=sample.balance.residual,
    )
