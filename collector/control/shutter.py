"""Takes snapshots of an instance: swaps its rings, counts both of them, and ends what would swap them again."""

from collections.abc import Sequence

from collector.control.executor import Executor
from collector.control.lock import find_holder
from collector.control.neighbours import list_instances
from collector.control.planner import plan_untrigger
from collector.control.probing import read_snapshot_state, read_triggers
from collector.control.wish import TRACER_FILE
from collector.errors import TracefsMissingError, UsageError
from collector.tracefs.files import TracefsDir
from collector.tracefs.snapshots import SNAPSHOT_FILE, SWAPPING_TRACERS, takes_snapshot
from collector.tracefs.stats import CpuStats

_TRIES = 5  # each one means that somebody else took a snapshot within a millisecond


def take_snapshot(tree: TracefsDir) -> None:
    """What the live ring holds becomes the snapshot; the other ring goes on.

    Raises:
      TracefsError: ENOMEM, there was no second ring yet; EBUSY, it belongs to a tracer or a histogram.
    """
    tree.write(SNAPSHOT_FILE, "1")


def free_snapshot(tree: TracefsDir) -> None:
    """Give the second ring back, with what is in it."""
    tree.write(SNAPSHOT_FILE, "0")


def read_both(tree: TracefsDir, cpus: Sequence[int]) -> dict[int, tuple[CpuStats, CpuStats]] | None:
    """{cpu: counters of both rings}; None: others swap them all the time, so that one can't be told from the other.

    Swaps twice, so the ring that is live stays so.
    """
    for _ in range(_TRIES):
        first = {cpu: tree.read_stats(cpu) for cpu in cpus}
        take_snapshot(tree)
        second = {cpu: tree.read_stats(cpu) for cpu in cpus}
        take_snapshot(tree)
        again = {cpu: tree.read_stats(cpu) for cpu in cpus}
        # The number that only a reader changes, and nobody reads the live ring.
        if all(first[cpu].read_events == again[cpu].read_events for cpu in cpus):
            return {cpu: (second[cpu], again[cpu]) for cpu in cpus}
    return None


def disarm_triggers(tree: TracefsDir) -> None:
    """Remove the triggers that take snapshots: they do so even while tracing is off.

    Raises:
      TracefsError: one of them stays.
    """
    taking = {
        event: tuple(line for line in lines if takes_snapshot(line)) for event, lines in read_triggers(tree).items()
    }
    executor = Executor(tree)
    executor.own(plan_untrigger(taking))
    problems = executor.undo()
    for error in problems.values():
        raise error


def take_of_running(tracefs: TracefsDir, names: Sequence[str]) -> list[str]:
    """Take a snapshot of instances that a collector reads so; gives their names.

    Args:
      names: none: all of them.

    Raises:
      UsageError: there is no such instance, or nobody archives what would be taken.
      TracefsError: the kernel refuses.
    """
    if names:
        for name in names:
            _check_running(tracefs, name)
    else:
        names = [name for name in list_instances(tracefs) if _why_not(tracefs, name) is None]
        if not names:
            raise UsageError(
                "no collector reads snapshots here", where=f"{tracefs.path}/instances",
                expected='an instance with read = "snapshot"', got="none",
                hint="start one; `ftrace-collector list instances` shows who holds which",
            )  # fmt: skip
    for name in names:
        take_snapshot(tracefs.instance(name))
    return list(names)


def _check_running(tracefs: TracefsDir, name: str) -> None:
    why = _why_not(tracefs, name)
    if why is not None:
        raise UsageError(
            "no snapshot can be taken", where=str(tracefs.instance(name).path), got=why[0],
            expected='an instance that a collector reads with read = "snapshot"', hint=why[1],
        )  # fmt: skip


def _why_not(tracefs: TracefsDir, name: str) -> tuple[str, str | None] | None:
    """(what is in the way of a snapshot, what to do); None: nothing."""
    tree = tracefs.instance(name)
    if not tree.path.is_dir():
        return "no such instance", f"there are: {' '.join(list_instances(tracefs)) or 'none'}"
    try:
        state = read_snapshot_state(tree)
        if state == "none":
            return "this kernel has no snapshots", "CONFIG_TRACER_SNAPSHOT makes them"
        if find_holder(tree.path) is None:
            return "no collector runs on it, as far as /proc/locks shows", None
        if state == "freed" or (tree.try_read_text(TRACER_FILE) or "").strip() in SWAPPING_TRACERS:
            return "its collector reads the live ring, which a snapshot would take away", None
    except TracefsMissingError:
        return "it is being removed", None
    return None
