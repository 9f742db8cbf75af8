"""From settings to sinks: a log, a runner and a route for each of [[sinks]]."""

from collections.abc import Callable, Sequence
from pathlib import Path

from collector.archive.records import MapSource
from collector.errors import CollectorError, raise_all
from sinks import registry
from sinks.contract.base import SegmentContext, SinkContext, Transport
from sinks.contract.options import SinkCommon
from sinks.fanout import Fanout, Route
from sinks.network.backlog import Backlog, MemoryBacklog
from sinks.network.delivery import NetworkRunner
from sinks.network.feeder import InThread
from sinks.runner import SinkRunner
from sinks.spool.policy import SpoolPolicy
from sinks.spool.spool import Spool


def assemble(
    all_options: Sequence[object],
    archive: SinkRunner,
    about: SinkContext,
    make_context: Callable[[], SegmentContext],
    maps: MapSource,
    make_thread: Callable[[str], InThread],
) -> Fanout:
    """Put the sinks beside the archive.

    Args:
      all_options: of [[sinks]], as the models of their types made them.
      make_context: gives what a log says of its run; each log has one of its own.
      maps: names for the blocks, safe to use from several threads.
      make_thread: starts a thread of that name.
    Raises:
      ConfigError: or a group of them; a secret or a certificate cannot be used.
    """
    routes, followers = [], []
    filters = event_filters(all_options)
    built = registry.build_all(all_options, about)
    raise_all([made for made in built if isinstance(made, CollectorError)])
    for options, made in zip(all_options, built, strict=True):
        assert isinstance(options, SinkCommon)
        assert not isinstance(made, CollectorError)
        if not isinstance(made, Transport):
            followers.append(made)
            continue
        context = make_context()
        log: Backlog = MemoryBacklog(context, maps, options.repeat_interval_s)
        if options.spools:
            log = Spool(spool_policy(options, about.archive), context, maps)
        runner = NetworkRunner(made, log, options, make_thread(f"sink-{options.title}"))
        patterns = options.filter.event_patterns
        variant = filters.index(patterns) if patterns is not None else None
        routes.append(Route(runner, options.filter, variant))
    return Fanout(archive, routes, followers)


def event_filters(all_options: Sequence[object]) -> list[tuple[str, ...]]:
    """The distinct filters by event, each a block of its own beside the one with everything."""
    found = [options.filter.event_patterns for options in all_options if isinstance(options, SinkCommon)]
    return list(dict.fromkeys(patterns for patterns in found if patterns is not None))


def spool_policy(options: SinkCommon, archive: Path) -> SpoolPolicy:
    """Where the spool of a sink that has one is, and how large it gets."""
    folder = options.spool_path(archive)
    assert folder is not None
    return SpoolPolicy(
        folder=folder,
        max_bytes=options.spool_bytes,
        when_full=options.when_full,
        segment_age_s=options.repeat_interval_s,
        sync_interval_s=options.sync_interval_s,
    )
