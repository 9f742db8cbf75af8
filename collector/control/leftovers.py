"""What killed runs have left in tracefs: found by their journals, and taken away."""

from collector.control.journal import TOP_LEVEL, Journals, Record
from collector.control.lock import find_holder
from collector.control.probing import count_unread
from collector.control.toplevel import open_instance
from collector.control.wish import InstanceSpec
from collector.errors import InstanceBusyError, UsageError
from collector.tracefs.facts import Cleaned, Leftover
from collector.tracefs.files import TracefsDir


def find_leftovers(tracefs: TracefsDir, journals: Journals) -> tuple[Leftover, ...]:
    """What runs have left that live no more; a run that lives holds its instance's lock."""
    found = []
    for record in journals.read_all():
        tree = _tree_of(tracefs, record)
        if find_holder(tree.path) is None:
            exists = tree.path.is_dir() and (record.key != TOP_LEVEL or record.is_set_up)
            changes = tuple(map(str, record.undos.values()))
            found.append(Leftover(record.instance, record.pid, changes, count_unread(tree) if exists else None))
    return tuple(found)


def clean_up(
    tracefs: TracefsDir, journals: Journals, name: str, *, keep_entries: bool = False, timeout_s: float = 5.0
) -> Cleaned:
    """Restore what a killed run of this instance has changed, and remove the instance, its probes and triggers.

    Args:
      keep_entries: an instance that has unread entries stays, switched off, for the next start to archive them.
      timeout_s: to wait for whoever has a file of the instance open.

    Raises:
      InstanceBusyError: a live process holds the instance, or uses what was made; all else was done.
      UsageError: there is nothing of that name.
      TracefsError: something can't be taken back; all else was.
    """
    record = next((record for record in journals.read_all() if record.instance == name), None)
    top_level = record is not None and record.key == TOP_LEVEL
    if record is None and not tracefs.instance(name).path.is_dir():
        raise UsageError(
            "nothing of such an instance is left", where=str(tracefs.instance(name).path),
            expected="an instance, or a journal of one", got="neither",
        )  # fmt: skip
    # A clock that every kernel has: nothing is set up.
    spec = InstanceSpec(name, (), clock=tracefs.read_clock()[1][0], top_level=top_level)
    instance = open_instance(tracefs, spec, journals)
    existed, unread = instance.existed, instance.unread_at_open
    keep = keep_entries and unread > 0
    instance.undo(timeout_s, keep=keep)
    if instance.left:
        raise InstanceBusyError(
            "not all that was made can be removed yet", where=name, expected="that nobody uses it",
            got="; ".join(instance.left),
        )  # fmt: skip
    changes = tuple(map(str, record.undos.values())) if record is not None else ()
    return Cleaned(name, changes, unread if existed else None, keep, top_level)


def _tree_of(tracefs: TracefsDir, record: Record) -> TracefsDir:
    return tracefs.top if record.key == TOP_LEVEL else tracefs.instance(record.key)
