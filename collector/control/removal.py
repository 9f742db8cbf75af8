"""Removing an event that we made: it is gone when the kernel lists it no more, whatever the write gave."""

import errno

from collector.control.holders import find_users
from collector.errors import TracefsError, TracefsMissingError
from collector.tracefs.dynamic import FILE, ListedEvent, parse_dynamic_events, parse_removal, removes
from collector.tracefs.files import TracefsDir, errno_of


def remove_event(top: TracefsDir, removal: str) -> None:
    """Remove the events that the line is meant for; none is listed: nothing is written.

    The line that is written is made of what the kernel lists: of a user event it has to name the fields.

    Raises:
      TracefsError: one is listed still; with EBUSY, who uses it.
    """
    refusal: TracefsError | None = None
    for line in dict.fromkeys(event.removal for event in _find(top, removal)):
        try:
            top.append(FILE, line)
        except TracefsError as error:
            refusal = error
    left = _find(top, removal)
    if not left:
        return
    # Not that a file is missing, as ENOENT is read elsewhere: then the event would count as gone.
    kind = TracefsError if refusal is None or isinstance(refusal, TracefsMissingError) else type(refusal)
    hint = None if refusal is None else refusal.hint
    if refusal is not None and errno_of(refusal) == errno.EBUSY:
        users = find_users(top, parse_removal(removal))
        hint = f"it is used by {', '.join(users) or 'perf, bpf, or whom nothing here shows'}"
    raise kind(
        "an event can't be removed", where=f"{top.path}/{FILE}", expected="that it is listed no more",
        got=f"{left[0].line!r}" + ("" if refusal is None else f", {refusal.got}"), hint=hint,
    ) from (None if refusal is None else refusal.__cause__)  # fmt: skip


def _find(top: TracefsDir, removal: str) -> list[ListedEvent]:
    return [event for event in parse_dynamic_events(top.try_read_text(FILE) or "") if removes(removal, event)]
