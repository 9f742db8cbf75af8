"""Which events a pattern like `sched:*` means. Pure."""

import difflib
import fnmatch
from collections.abc import Iterable, Sequence

from collector.errors import UsageError
from collector.tracefs.formats import INTERNAL_SYSTEM

EventName = tuple[str, str]  # (system, event)

# Events of pKVM's hypervisor: its buffer is another, with a head of two bytes, and their ids are its own.
HYPERVISOR_SYSTEMS = frozenset({"hyp", "hypervisor"})

# What stands in available_events, or has a folder, and can't be enabled in a ring of the kernel.
_NOT_OURS = HYPERVISOR_SYSTEMS | {INTERNAL_SYSTEM}


def parse_available_events(text: str) -> list[EventName]:
    """Parse available_events: (system, event) of each line, sorted; those alone that can be enabled in a ring."""
    pairs = (line.strip().split(":", 1) for line in text.splitlines() if ":" in line)
    return enabling_events((system, name) for system, name in pairs)


def enabling_events(events: Iterable[EventName]) -> list[EventName]:
    """Those that can be enabled in a ring, sorted, each once: no records of tracers, none of a hypervisor."""
    return sorted({(system, name) for system, name in events if system not in _NOT_OURS})


def select_events(patterns: Iterable[str], available: Sequence[EventName]) -> list[EventName]:
    """The events that the patterns name, each once, sorted.

    A pattern is `SYSTEM:EVENT` with globs on both sides; without a colon it is the glob of a
    system or of an event, as set_event takes it.

    Raises:
      UsageError: a pattern names nothing; it says what comes near.
    """
    chosen: set[EventName] = set()
    for pattern in patterns:
        found = matching_events(pattern, available)
        if not found:
            raise _no_such_event(pattern, available)
        chosen.update(found)
    return sorted(chosen)


def matching_events(pattern: str, available: Sequence[EventName]) -> list[EventName]:
    """The events that one pattern names, in the order of `available`; none is []."""
    system, colon, name = pattern.strip().partition(":")
    match = fnmatch.fnmatchcase
    if colon:
        return [pair for pair in available if match(pair[0], system or "*") and match(pair[1], name or "*")]
    return [pair for pair in available if match(pair[0], system) or match(pair[1], system)] if system else []


def near_matches(pattern: str, available: Sequence[EventName], limit: int = 5) -> list[str]:
    """Names that look like `pattern`, the nearest first: for messages only."""
    bare = pattern.strip("*?[]")
    system, colon, name = bare.partition(":")
    near: list[str] = []
    if colon:
        full = [f"{s}:{n}" for s, n in available]
        near += difflib.get_close_matches(bare, full, limit, 0.6)
        # The event may be right and the system wrong.
        wanted = name.strip("*?[]")
        near += [f"{s}:{n}" for s, n in available if n == wanted]
        near += difflib.get_close_matches(system, sorted({s for s, _ in available}), 2, 0.7) if not near else []
    else:
        near += difflib.get_close_matches(bare, sorted({s for s, _ in available}), 2, 0.6)
        names = {n: f"{s}:{n}" for s, n in available}
        near += [names[n] for n in difflib.get_close_matches(bare, list(names), limit, 0.6)]
    return list(dict.fromkeys(near))[:limit]


def _no_such_event(pattern: str, available: Sequence[EventName]) -> UsageError:
    if pattern.partition(":")[0] == INTERNAL_SYSTEM:
        return UsageError(
            "records of the tracers themselves cannot be enabled", where=f"event {pattern!r}",
            expected="an event of another system than ftrace", got=pattern,
            hint="they appear on their own when a tracer or a marker writes them",
        )  # fmt: skip
    if pattern.partition(":")[0] in HYPERVISOR_SYSTEMS:
        return UsageError(
            "events of pKVM's hypervisor are not in the kernel's rings", where=f"event {pattern!r}",
            expected="an event of the kernel", got=pattern, hint="their buffer is another, which is not read",
        )  # fmt: skip
    near = near_matches(pattern, available)
    return UsageError(
        "this kernel has no such event", where=f"event {pattern!r}", expected="SYSTEM:EVENT, globs on both sides",
        got=repr(pattern),
        hint=f"did you mean {', '.join(near)}?" if near else "available_events in tracefs lists all of them",
    )  # fmt: skip
