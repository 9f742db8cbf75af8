"""The instances of a run: opened, set up, stopped and taken away together."""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from collector.config.models import Config
from collector.control.instance import Instance
from collector.control.journal import Journals
from collector.control.shutter import read_both
from collector.control.toplevel import open_instance
from collector.control.wish import InstanceSpec
from collector.errors import CollectorError, TracefsError, raise_all
from collector.tracefs.files import TracefsDir
from collector.tracefs.stats import CpuStats

logger = logging.getLogger(__name__)

# Removing an instance waits for whoever else has a file of it open.
REMOVE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Held:
    """One instance, and how far it has come."""

    config: Config  # `trace` is this instance's
    instance: Instance
    configured: bool = False
    undone: bool = False  # as far as it could be
    cleared: dict[int, int] = field(default_factory=dict)  # {cpu: entries of an earlier run that set-up threw away}


class InstanceGroup:
    """All instances of a run; the blocking calls are for a thread, or for a moment at the start."""

    def __init__(self, journals: Journals | None = None) -> None:
        self._held: list[Held] = []
        self._journals = journals

    def __iter__(self) -> Iterator[Held]:
        return iter(self._held)

    @property
    def instances(self) -> Sequence[Instance]:
        return [held.instance for held in self._held]

    def open(self, tracefs: TracefsDir, config: Config, spec: InstanceSpec) -> None:
        """Make or adopt an instance, and lock it; one that is not wanted back is removed first.

        Raises:
          TracefsError: it cannot be had.
        """
        instance = open_instance(tracefs, spec, self._journals)
        if instance.existed and config.trace.on_leftover == "remove":
            instance.remove(REMOVE_TIMEOUT_S)
            instance = open_instance(tracefs, spec, self._journals)
        self._held.append(Held(config, instance))

    def configure(self) -> None:
        """Set all of them up and start tracing.

        Raises:
          TracefsError: the kernel refuses a value.
        """
        for held in self._held:
            instance = held.instance
            # The run's threads exist only now; those that come later the kernel adds by itself.
            instance.spec = replace(instance.spec, notrace_pids=own_threads(held.config))
            held.cleared = _unreadable(instance)
            held.configured = True
            instance.configure(discard_unread=True)
            for note in instance.notes:
                logger.warning(note, extra={"fields": {"instance": instance.spec.name}})

    def undo(self, complete: bool) -> None:
        """Take them away in the reverse order; those with entries left are kept for the next start.

        Raises:
          CollectorError, ExceptionGroup of such: what could not be taken away; all else was.
        """
        problems: list[CollectorError] = []
        for held in reversed(self._held):
            held.undone = True
            try:
                held.instance.undo(REMOVE_TIMEOUT_S, keep=held.instance.spec.keep or not complete)
            except CollectorError as error:
                problems.append(error)
            _tell_left(held.instance)
        raise_all(problems)

    def give_up(self, collected: bool) -> None:
        """After an error: take away what is ours alone, leave what the next start can still settle.

        What a fresh instance caught while the start failed is no loss: nobody was told that it collects. After that
        the next start needs its counters, to tell what was read and not archived.
        """
        for held in reversed(self._held):
            instance = held.instance
            try:
                if held.undone or (instance.existed and not held.configured):
                    instance.close()
                else:
                    instance.undo(REMOVE_TIMEOUT_S, keep=instance.existed or collected)
                    _tell_left(instance)
            except Exception as e:  # the error that is on its way matters more
                logger.warning(
                    "cannot remove the instance", extra={"fields": {"instance": instance.spec.name, "error": str(e)}}
                )
                instance.close()


def _tell_left(instance: Instance) -> None:
    for note in instance.left:
        logger.warning("something is left in tracefs", extra={"fields": {"instance": instance.spec.name, "what": note}})


def own_threads(config: Config) -> tuple[int, ...]:
    """Ids of the threads that run now, if they are not to be traced."""
    return tuple(int(tid) for tid in os.listdir("/proc/self/task")) if config.trace.exclude_self else ()


def _unreadable(instance: Instance) -> dict[int, int]:
    """{cpu: entries} that setting the instance up will throw away: what reading the leftover did not bring.

    A change of the sub-buffer size leaves such entries in the kernel's counters, which no read gives. A recorder's
    are in both rings.
    """
    if not instance.needs_drain_before_configure:
        return {}
    both: Mapping[int, Sequence[CpuStats]] | None = None
    if instance.probe().snapshot == "full":
        with contextlib.suppress(TracefsError):  # a tracer's or a histogram's: the live ring alone can be counted
            both = read_both(instance.dir, instance.cpus)
    rings = both or {cpu: (instance.dir.read_stats(cpu),) for cpu in instance.cpus}
    unread = {cpu: sum(stats.entries for stats in of) for cpu, of in rings.items()}
    return {cpu: entries for cpu, entries in unread.items() if entries}
