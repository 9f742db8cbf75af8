"""Probes of ours: from a line of the configuration to the line that dynamic_events takes. Pure.

    p:NAME FUNCTION[+OFFSET] [ARGS]      kprobe                 r[N]:NAME FUNCTION [ARGS]    its return, N at a time
    f:NAME FUNCTION[%return] [ARGS]      fprobe (6.4)           t:NAME TRACEPOINT [ARGS]     tracepoint (6.4)
    u:NAME PATH:OFFSET [ARGS]            uprobe                 ur:NAME PATH:OFFSET [ARGS]   its return
    e:NAME SYSTEM.EVENT [ARGS]           event probe (5.15)     s:NAME TYPE FIELD; ...       synthetic event (5.6)
    user:NAME TYPE FIELD; ...            user event (6.4)

All but the last two are made in a group of the instance's own, so that a start after a crash knows
them again. The kernel's group of those two is fixed: their names are taken as they are.

    -:GROUP/NAME                         removes an event          -:user_events/NAME TYPE FIELD; ...   a user event:
                                                                   its fields have to be those that the kernel lists
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from collector.errors import UsageError
from collector.tracefs.events import EventName

FILE = "dynamic_events"
SYNTHETIC_GROUP, USER_GROUP = "synthetic", "user_events"
KERNEL_GROUPS = frozenset({SYNTHETIC_GROUP, USER_GROUP})
PROBES_ALIAS = "probes"  # how filters and triggers name the group of ours
_NAME_MAX = 63  # MAX_EVENT_NAME_LEN less the NUL

_LINE = re.compile(r"(p|r\d*|f\d*|t|u|ur|e|s|user):\s*([A-Za-z_][A-Za-z0-9_]*)\s+(\S.*)", re.DOTALL)
_LISTED = re.compile(r"[a-z]\d*:(?:([^/\s]+)/)?([^\s/]+)(?:\s+(.*))?")
_NUMBER = re.compile(r"\b0x([0-9a-fA-F]+)\b")
_COUNT = re.compile(r"([rf])\d+:")
_ARRAY = re.compile(r"(\w+)\s+(\w+)(\[\d*\])\s*(?=;|$)")  # `TYPE NAME[N]`, which the kernel lists as `TYPE[N] NAME`


@dataclass(frozen=True, slots=True)
class ProbeEvent:
    """An event that we make."""

    group: str
    name: str
    definition: str  # the line that makes it

    @property
    def removal(self) -> str:
        """The line that removes exactly this one."""
        return _removal(self.group, self.name, self.definition)


@dataclass(frozen=True, slots=True)
class ListedEvent:
    """An event of dynamic_events as the kernel prints it."""

    group: str
    name: str
    line: str

    @property
    def removal(self) -> str:
        """The line that removes it."""
        return _removal(self.group, self.name, self.line)


def group_of(instance: str) -> str:
    """The group of an instance's probes: its name, in the letters that the kernel takes."""
    return ("ftc_" + re.sub(r"[^A-Za-z0-9_]", "_", instance))[:_NAME_MAX]


def parse_probe(text: str, instance: str) -> ProbeEvent:
    """Parse one line of the configuration.

    Raises:
      UsageError: it is none of the forms above.
    """
    match = _LINE.fullmatch(text.strip())
    if match is None or "\n" in text or len(match[2]) > _NAME_MAX:
        raise UsageError(
            "not a probe", where="probes", got=repr(text),
            expected="KIND:NAME WHAT...; KIND one of p r f t u ur e s user, NAME of letters, digits and _, no group",
            hint='for example "p:open do_sys_openat2 file=+0($arg2):ustring"',
        )  # fmt: skip
    kind, name, rest = match[1], match[2], match[3].strip()
    if kind in ("u", "ur") and not re.match(r"/.*:(0x[0-9a-fA-F]+|\d+)", rest):
        raise UsageError(
            "not a place for a uprobe", where="probes", expected="PATH:OFFSET with an absolute path", got=repr(text)
        )
    if kind == "s":
        return ProbeEvent(SYNTHETIC_GROUP, name, f"s:{SYNTHETIC_GROUP}/{name} {rest}")
    if kind == "user":
        return ProbeEvent(USER_GROUP, name, f"u:{name} {_fields(rest)}")
    group = group_of(instance)
    word = {"u": "p", "ur": "r"}.get(kind, kind)
    return ProbeEvent(group, name, f"{word}:{group}/{name} {rest}")


def parse_probes(lines: Iterable[str], instance: str) -> tuple[ProbeEvent, ...]:
    """Parse all lines of the configuration.

    Raises:
      UsageError: one is no probe, or two have the same name.
    """
    probes = tuple(parse_probe(line, instance) for line in lines)
    names = [(probe.group, probe.name) for probe in probes]
    for group, name in names:
        if names.count((group, name)) > 1:
            raise UsageError("two probes have the same name", where="probes", expected="a name for each", got=name)
    return probes


def parse_dynamic_events(text: str) -> tuple[ListedEvent, ...]:
    """Parse dynamic_events; lines of kinds not known here are passed over."""
    found = []
    for line in text.splitlines():
        match = _LISTED.fullmatch(line.strip())
        if match is not None:
            found.append(ListedEvent(match[1] or USER_GROUP, match[2], line.strip()))
    return tuple(found)


def parse_removal(removal: str) -> EventName:
    """(group, name) of the event that a line `-:GROUP/NAME ...` removes."""
    group, _, name = removal.split()[0].removeprefix("-:").partition("/")
    return group, name


def removes(removal: str, event: ListedEvent) -> bool:
    """Whether the line is meant for this event; without fields, as earlier versions noted, for user events of any."""
    if parse_removal(removal) != (event.group, event.name):
        return False
    return len(removal.split()) == 1 or same_definition(removal, event.removal)


def same_definition(wished: str, listed: str) -> bool:
    """Whether the kernel prints what was asked for; False where it prints the same in other words."""
    wish, found = _normalised(wished), _normalised(listed)
    if wish and found and not _COUNT.match(wish[0]):
        found[0] = _COUNT.sub(r"\1:", found[0])  # of returns at a time: the kernel's own, where none was asked for
    return wish == found


def _removal(group: str, name: str, line: str) -> str:
    """Of a user event, with its fields: there may be several of a name, and the kernel compares."""
    fields = line.partition(" ")[2] if group == USER_GROUP else ""
    return f"-:{group}/{name} {_fields(fields)}".rstrip()


def _fields(text: str) -> str:
    """Fields as the kernel lists them: `TYPE NAME; TYPE NAME`."""
    return "; ".join(" ".join(field.split()) for field in text.split(";") if field.strip())


def _normalised(line: str) -> list[str]:
    """Its words; numbers are decimal, and the dimension of a field is with its type."""
    text = _NUMBER.sub(lambda m: str(int(m[1], 16)), line.strip())
    if text.startswith("s:"):
        text = _ARRAY.sub(r"\1\3 \2", text)
    return [word for word in re.split(r"[\s;]+", text) if word]
