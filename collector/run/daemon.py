"""The composition root: builds everything, runs it, and takes it down in order.

    start   archive locked and repaired -> instance set up -> streams -> readers -> READY
    stop    tracing off -> rings drained -> blocks closed -> queue delivered -> segment sealed -> instance removed

The only importer of the sinks.
"""

import logging
import math
import os
import platform
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from collector.archive.history import LeftOff, find_left_off
from collector.archive.records import SharedMaps
from collector.archive.tally import CRASH
from collector.batch import StreamKey
from collector.capture.flight import SnapshotSource
from collector.capture.pipe import PipeSource
from collector.capture.provenance import Provenance, boot_id
from collector.capture.source import LiveInstance, LiveSource, RecordedSource, Source, new_run_id
from collector.capture.worker import Workers
from collector.config.models import ArchiveConfig, Config
from collector.control.desired import build_spec
from collector.control.instance import Instance
from collector.control.journal import Journals
from collector.control.planner import leaves_snapshots
from collector.control.wish import MANY_RINGS, InstanceSpec, default_subbuf_size_kb
from collector.errors import EXIT_INCOMPLETE_DRAIN, EXIT_OK, CollectorError, UsageError
from collector.monitor.logs import LogOutput, start_logging
from collector.run.instances import InstanceGroup, own_threads
from collector.run.interference import Interference
from collector.run.pipeline import Pipeline
from collector.run.service import Service
from collector.tracefs.files import TracefsDir, find_tracefs
from collector.version import PROGRAM, __version__
from sinks import registry
from sinks.assemble import assemble, event_filters
from sinks.contract.base import SinkContext
from sinks.fanout import Fanout
from sinks.file.policy import FilePolicy
from sinks.file.retention import Limits
from sinks.file.rotation import Rotation
from sinks.file.shelf import Room
from sinks.file.sink import FileSink
from sinks.network.feeder import InThread
from sinks.runner import SinkRunner

logger = logging.getLogger(__name__)

SINK_MODELS = registry.models()  # for [[sinks]] of the configuration
CLEAR_LINE = "\r\x1b[K"  # the live status line makes room for the last message


def run(config: Config, *, replay: Path | None = None, duration_s: float | None = None) -> int:
    """Collect until a signal, or for duration_s, or to the end of a recorded case; gives the exit code.

    Raises:
      CollectorError: or a group of them; what is wrong and what to do.
    """
    if sys.byteorder != "little":
        raise UsageError(
            "this program does not read the rings of big-endian machines", where=platform.machine(),
            expected="a little-endian one", got="big-endian", hint="archives of other machines can be read here",
        )  # fmt: skip
    output = start_logging(config.log.format, config.log.level)
    try:
        if replay is not None:
            return trio.run(_replay, config, replay)
        return trio.run(_collect_until_signal, config, duration_s, output)
    finally:
        output.stop()


def check_sinks(config: Config) -> dict[int, CollectorError]:
    """Build the sinks as run() does, without connecting; gives {position in [[sinks]]: why it could not start}."""
    built = registry.build_all(config.sinks, _about(config))
    return {position: made for position, made in enumerate(built) if isinstance(made, CollectorError)}


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
    with trio.open_signal_receiver(
        signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2
    ) as signals:
        return await _collect(config, duration_s, output, signals)


async def _collect(config: Config, duration_s: float | None, output: LogOutput, signals: AsyncIterator[int]) -> int:
    tracefs = TracefsDir(find_tracefs())
    group = InstanceGroup(Journals.of_system())
    service: Service | None = None
    try:
        for own in _instance_configs(config, tracefs):
            group.open(tracefs, own, _spec(own, tracefs))
        for held in group:
            if held.instance.needs_drain_before_configure:
                await _drain_leftover(held.config, held.instance)
        run_id = new_run_id()
        async with open_pipeline(config, run_id, tracefs) as pipeline:
            group.configure()
            pipeline.attach([_open_source(held.config, held.instance, run_id) for held in group])
            for source, held in zip(pipeline.sources, group, strict=True):
                _settle_crash(pipeline, source)
                for cpu, entries in held.cleared.items():
                    key = StreamKey(run_id, source.name, cpu)
                    pipeline.emit_gap(key, "cleared", entries, None, "left by an earlier run, not read in time")
            await pipeline.outlet.begin()
            repair = [held.config.trace.on_interference == "repair" for held in group]
            interference = Interference(pipeline, group.instances, repair)
            service = Service(config, pipeline, group.instances, output, signals, interference)
            complete = await service.run(duration_s)
        await trio.to_thread.run_sync(group.undo, complete)
        _say_where(config, pipeline)
        return EXIT_OK if complete else EXIT_INCOMPLETE_DRAIN
    except BaseException:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(group.give_up, service is not None and service.collected)
        raise


def _instance_configs(config: Config, tracefs: TracefsDir) -> list[Config]:
    """The configuration once per instance, each with that instance as `trace`.

    The default size of a sub-buffer is that for the rings of all instances together.
    """
    traces = config.instances()
    online = len(tracefs.online_cpus())
    rings = sum(online if trace.cpus is None else len(trace.cpus) for trace in traces)
    if rings > MANY_RINGS:
        size_kb = default_subbuf_size_kb(rings)
        traces = tuple(
            trace.model_copy(update={"subbuf_size_kb": size_kb}) if trace.subbuf_size_kb is None else trace
            for trace in traces
        )
    return [config.model_copy(update={"trace": trace}) for trace in traces]


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
        await pipeline.outlet.begin()
        await _drain_and_seal(pipeline, config.shutdown_timeout_s)
    if isinstance(source, SnapshotSource) and source.is_drained and config.trace.read != "snapshot":
        source.free()
    logger.warning(
        "archived what an earlier run had left in the instance",
        extra={"fields": {"events": sum(s.decoded for s in pipeline.streams), "archive": config.archive.folder}},
    )


async def _drain_and_seal(pipeline: Pipeline, timeout_s: float) -> None:
    """Read rings that nobody writes any more to their end, and seal the archive."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.outlet.run)
        with trio.move_on_after(timeout_s):
            for source in pipeline.sources:
                await pipeline.drain(source, {})
        pipeline.outlet.finish(trio.current_time() + pipeline.config.shutdown_timeout_s)
    await pipeline.outlet.close()


@asynccontextmanager
async def open_pipeline(config: Config, run: bytes, tree: TracefsDir) -> AsyncIterator[Pipeline]:
    """A pipeline and its archive, locked and repaired; all of it is closed at the end, whatever happens.

    Raises:
      ArchiveError: the archive cannot be used.
    """
    pipeline = Pipeline(config, run, tree, event_filters(config.sinks))
    names = SharedMaps(pipeline.names)
    threads: list[Workers[None]] = []

    def start_thread(name: str) -> InThread:
        thread: Workers[None] = Workers(1, lambda: None, name)
        threads.append(thread)
        return lambda job: thread.run(lambda _: job())

    policy = _policy(config.archive, Path(config.archive.folder))
    sink = FileSink(policy, pipeline.provenance, names, start_thread("archive"))
    fanout: Fanout | None = None
    try:
        fanout = assemble(
            config.sinks,
            SinkRunner(sink),
            _about(config),
            lambda: Provenance(run, config.hash(), pipeline.sources),
            names,
            start_thread,
        )
        if config.archive.keep_until_acknowledged:
            sink.acknowledgements.extend(fanout.acknowledgements())
        sink.followers.extend(fanout.followers)
        await sink.open()
        pipeline.archive = sink
        await fanout.open()
        pipeline.outlet = fanout
        yield pipeline
    finally:
        pipeline.close()
        sink.unlock()
        if fanout is not None:
            fanout.unlock()
        for thread in threads:
            thread.close()


def _about(config: Config) -> SinkContext:
    return SinkContext(socket.gethostname(), __version__, Path(config.archive.folder))


def _open_source(config: Config, instance: Instance, run_id: bytes) -> LiveSource:
    """The streams' source; of an instance that was there before, with where the earlier run left off."""
    left_off: Mapping[int, LeftOff] = {}
    if instance.existed:
        left_off = find_left_off(Path(config.archive.folder), instance.spec.name, boot_id())
    found = LiveInstance(
        instance.dir, instance.spec.name, instance.cpus, instance.spec.events, instance.read_clock_pair, left_off,
        instance.was_killed,
    )  # fmt: skip
    # Of a run that read snapshots also when this one doesn't: what it left is in both rings.
    if config.trace.read == "snapshot" or (instance.existed and leaves_snapshots(instance.spec, instance.probe())):
        interval_s = config.trace.snapshot_interval_s
        return SnapshotSource(found, run_id, interval_s=interval_s, is_new=not instance.existed)
    if config.trace.read != "raw":
        return PipeSource(found, run_id, whole=config.trace.read == "text-merged")
    return LiveSource(found, run_id)


def _settle_crash(pipeline: Pipeline, source: Source) -> None:
    """Record what an earlier run had read from the rings and took with it when it died."""
    for stream in source.streams:
        left = source.left_off.get(stream.key.cpu)
        if left is None:
            continue
        stream.account.continue_after_crash()
        lost = source.crash_lost[stream.key.cpu]
        if lost is None and left.complete:  # counters were reset since, but it had archived all that it read
            lost = 0
        if lost != 0 or not left.complete:  # a record of nothing lost closes the crashed run's ledger
            pipeline.emit_gap(stream.key, CRASH, lost, left.last_ts, "read by an earlier run that did not archive it")
        if lost != 0:
            logger.error(
                "an earlier run has lost entries that it had read",
                extra={"fields": {"cpu": stream.key.cpu, "events": "unknown" if lost is None else lost}},
            )


def _spec(config: Config, tracefs: TracefsDir) -> InstanceSpec:
    return build_spec(config.trace, tracefs, own_threads(config))


def _say_where(config: Config, pipeline: Pipeline) -> None:
    events = sum(stream.decoded for stream in pipeline.streams)
    folder = config.archive.folder
    clear = CLEAR_LINE if sys.stderr.isatty() else ""
    # As it was called: from `make run` the command is on no PATH.
    command = sys.argv[0] if sys.argv[0].endswith(PROGRAM) else PROGRAM
    print(f"{clear}{events} events in {folder}; `{command} show {folder}` prints them", file=sys.stderr)


def _policy(archive: ArchiveConfig, folder: Path) -> FilePolicy:
    return FilePolicy(
        folder=folder,
        rotation=Rotation(archive.segment_bytes, archive.segment_age_s, archive.rotate_at),
        limits=Limits(archive.max_bytes, archive.max_age_s or None),
        room=Room(archive.min_free_of(_filesystem_bytes(folder)), archive.reserve_bytes),
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
