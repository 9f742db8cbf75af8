"""The composition root: builds everything, runs it, and takes it down in order.

    start   archive locked and repaired -> instance set up -> streams -> readers -> READY
    stop    tracing off -> rings drained -> blocks closed -> queue delivered -> segment sealed -> instance removed

The only importer of the sinks.
"""

import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from collector.archive.history import LeftOff, find_left_off
from collector.archive.tally import CRASH
from collector.batch import StreamKey
from collector.capture.provenance import boot_id
from collector.capture.source import LiveSource, RecordedSource, new_run_id
from collector.capture.worker import Workers
from collector.config import ArchiveConfig, Config
from collector.errors import EXIT_INCOMPLETE_DRAIN, EXIT_OK
from collector.logs import LogOutput, start_logging
from collector.pipeline import Pipeline
from collector.service import Service
from collector.tracefs.files import TracefsDir, find_tracefs
from collector.tracefs.instance import Instance
from collector.tracefs.wish import InstanceSpec
from sinks.file.sink import FilePolicy, FileSink
from sinks.runner import SinkRunner

logger = logging.getLogger(__name__)

CLEAR_LINE = "\r\x1b[K"  # the live status line makes room for the last message

# Removing an instance waits for whoever else has a file of it open.
REMOVE_TIMEOUT_S = 5.0


def run(config: Config, *, replay: Path | None = None, duration_s: float | None = None) -> int:
    """Collect until a signal, or for duration_s, or to the end of a recorded case; gives the exit code.

    Raises:
      CollectorError: or a group of them; what is wrong and what to do.
    """
    output = start_logging(config.log.format, config.log.level)
    try:
        if replay is not None:
            return trio.run(_replay, config, replay)
        return trio.run(_collect_until_signal, config, duration_s, output)
    finally:
        output.stop()


async def _replay(config: Config, case: Path) -> int:
    run_id = new_run_id()
    source = RecordedSource(case, run_id, config.trace.cpus)
    async with open_pipeline(config, run_id, source.tree) as pipeline:
        pipeline.attach([source])
        await _drain_and_seal(pipeline, math.inf)
    _say_where(config, pipeline)
    return EXIT_OK


async def _collect_until_signal(config: Config, duration_s: float | None, output: LogOutput) -> int:
    # From the start, so that no signal can leave an instance behind. A terminal that goes away ends the
    # collection like Ctrl-C does.
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        return await _collect(config, duration_s, output, signals)


async def _collect(config: Config, duration_s: float | None, output: LogOutput, signals: AsyncIterator[int]) -> int:
    tracefs = TracefsDir(find_tracefs())
    spec = _spec(config, tracefs)
    instance = Instance.open(tracefs, spec)
    configured = False
    service: Service | None = None
    try:
        if instance.existed and config.trace.on_leftover == "remove":
            await trio.to_thread.run_sync(instance.remove, REMOVE_TIMEOUT_S)
            instance = Instance.open(tracefs, spec)
        if instance.needs_drain_before_configure:
            await _drain_leftover(config, instance)
        run_id = new_run_id()
        async with open_pipeline(config, run_id, tracefs) as pipeline:
            # The pipeline's threads exist only now; those that come later the kernel adds by itself.
            instance.spec = replace(instance.spec, notrace_pids=_own_threads(config))
            cleared = _unreadable(instance)
            configured = True
            instance.configure(discard_unread=True)
            for note in instance.notes:
                logger.warning(note)
            source = _open_source(config, instance, run_id)
            pipeline.attach([source])
            _settle_crash(pipeline, source)
            for cpu, entries in cleared.items():
                key = StreamKey(run_id, spec.name, cpu)
                pipeline.emit_gap(key, "cleared", entries, None, "left by an earlier run, not read in time")
            service = Service(config, pipeline, instance, output, signals)
            complete = await service.run(duration_s)
        await trio.to_thread.run_sync(partial(instance.undo, REMOVE_TIMEOUT_S, keep=spec.keep or not complete))
        _say_where(config, pipeline)
        return EXIT_OK if complete else EXIT_INCOMPLETE_DRAIN
    except BaseException:
        with trio.CancelScope(shield=True):
            collected = service is not None and service.collected
            await trio.to_thread.run_sync(_give_up, instance, configured, collected)
        raise


async def _drain_leftover(config: Config, instance: Instance) -> None:
    """Archive what an earlier run left in an instance that has another clock or other sub-buffers, as a run of its own.

    Setting the instance up would throw it away.
    """
    run_id = new_run_id()
    instance.stop_tracing()
    async with open_pipeline(config, run_id, instance.dir.top) as pipeline:
        source = _open_source(config, instance, run_id)
        pipeline.attach([source])
        _settle_crash(pipeline, source)
        await _drain_and_seal(pipeline, config.shutdown_timeout_s)
    logger.warning(
        "archived what an earlier run had left in the instance",
        extra={"fields": {"events": sum(s.decoded for s in pipeline.streams), "archive": config.archive.folder}},
    )


async def _drain_and_seal(pipeline: Pipeline, timeout_s: float) -> None:
    """Read rings that nobody writes any more to their end, and seal the archive."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.outlet.run)
        with trio.move_on_after(timeout_s):
            for stream in pipeline.streams:
                await pipeline.drain(stream)
        pipeline.outlet.finish()
    await pipeline.outlet.close()


@asynccontextmanager
async def open_pipeline(config: Config, run: bytes, tree: TracefsDir) -> AsyncIterator[Pipeline]:
    """A pipeline and its archive, locked and repaired; all of it is closed at the end, whatever happens.

    Raises:
      ArchiveError: the archive cannot be used.
    """
    pipeline = Pipeline(config, run, tree)
    thread: Workers[None] = Workers(1, lambda: None, "archive")
    policy = _policy(config.archive, Path(config.archive.folder))
    sink = FileSink(policy, pipeline.provenance, pipeline.names, lambda job: thread.run(lambda _: job()))
    try:
        await sink.open()
        pipeline.outlet = SinkRunner(sink)
        yield pipeline
    finally:
        pipeline.close()
        sink.unlock()
        thread.close()


def _open_source(config: Config, instance: Instance, run_id: bytes) -> LiveSource:
    """The streams' source; of an instance that was there before, with where the earlier run left off."""
    left_off: Mapping[int, LeftOff] = {}
    if instance.existed:
        left_off = find_left_off(Path(config.archive.folder), instance.spec.name, boot_id())
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


def _settle_crash(pipeline: Pipeline, source: LiveSource) -> None:
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


def _give_up(instance: Instance, configured: bool, collected: bool) -> None:
    """After an error: take away what is ours alone, leave what the next start can still read.

    What a fresh instance caught while the start failed is no loss: nobody was told that it collects.
    """
    try:
        if instance.existed and not configured:
            instance.close()
            return
        unread = collected and any(instance.dir.read_stats(cpu).entries for cpu in instance.cpus)
        instance.undo(REMOVE_TIMEOUT_S, keep=instance.existed or unread)
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


def _say_where(config: Config, pipeline: Pipeline) -> None:
    events = sum(stream.decoded for stream in pipeline.streams)
    folder = config.archive.folder
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    print(f"{clear}{events} events in {folder}; `ftrace-collector show {folder}` prints them", file=sys.stderr)


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
