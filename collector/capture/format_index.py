"""Event formats by id, read only when they are needed."""

import logging
import math
import time
from collections.abc import Callable, Collection

from collector.decode.plan import CommonHead, common_head
from collector.errors import TracefsError, TracefsFormatError, TracefsMissingError
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import parse_dynamic_events
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir
from collector.tracefs.formats import INTERNAL_SYSTEM, EventFormat

logger = logging.getLogger(__name__)

# Listing the ids of 2,300 events takes 0.04 to 0.1 s.
RELIST_AGE_S = 1.0


class FormatIndex:
    """Formats by event id, read when an id first turns up.

    Reading all 2,300 formats of a kernel costs 0.5 s, reading their ids 0.04 s; so neither happens
    at the start. Ids of events that come and go are reused: `reread` says whether one still is what it was.
    A format that can't be used is passed over by name, and what its event writes is kept as bytes.
    """

    def __init__(self, tree: TracefsDir, word_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._word_size = word_size  # bytes of the kernel's long
        self._clock = clock
        self._tree = tree.top  # events are the same in all instances, and the kernel has these at hand
        self._names: dict[int, EventName] = {}  # {event id: (system, name)}
        self._listed_s = -math.inf  # when they were listed
        self._formats: dict[int, EventFormat] = {}  # {event id: format}
        self._head: CommonHead | None = None  # None: not looked for yet
        self.unreadable: dict[EventName, str] = {}  # {event: why its format can't be used}

    def head(self) -> CommonHead:
        """The head of all records, from any event's format file; the usual one where no file has one."""
        if self._head is None:
            for system, name in self._tree.list_event_folders(INTERNAL_SYSTEM) or self._tree.list_event_folders():
                try:
                    self._head = common_head(self._tree.read_event_format(system, name, self._word_size))
                    break
                except TracefsError as error:
                    self._pass_over(system, name, error)
        return self._head or CommonHead()

    def add(self, system: str, name: str) -> EventFormat | None:
        """Read the format of an event ahead of its first entry; None when it is not there, or can't be used."""
        try:
            fmt = self._tree.read_event_format(system, name, self._word_size)
            if common_head(fmt) != self.head():
                raise TracefsFormatError(
                    "another head than all records have", where=f"events/{system}/{name}/format",
                    expected=str(self.head()), got=str(common_head(fmt)),
                )  # fmt: skip
        except TracefsError as error:
            self._pass_over(system, name, error)
            return None
        self._formats[fmt.id] = fmt
        return fmt

    def internal(self) -> list[EventFormat]:
        """The formats of the tracers' own records, which can turn up in any instance."""
        found: list[EventFormat] = []
        for system, name in self._tree.list_event_folders(INTERNAL_SYSTEM):
            if fmt := self.add(system, name):
                found.append(fmt)
        return found

    def ids(self) -> Collection[int]:
        """Those of all events."""
        self._names = self._list_ids()
        self._listed_s = self._clock()
        return self._names.keys()

    def get(self, event_id: int) -> EventFormat | None:
        """The format of an id; None when no event has it.

        An id that was not there when the events were last listed may be a new one, of a module or a probe: they
        are listed again, but not again and again for ids that a damaged page makes up.
        """
        if known := self._formats.get(event_id):
            return known
        fmt = self._read_listed(event_id)
        if fmt is None and self._clock() - self._listed_s >= RELIST_AGE_S:
            self.ids()
            fmt = self._read_listed(event_id)
        return fmt

    def reread(self, event_id: int, system: str, name: str) -> EventFormat | None:
        """The format of an event as it is now; None when it is gone or has another id: then `get` looks for the id."""
        self._formats.pop(event_id, None)
        fmt = self.add(system, name)
        if fmt is not None and fmt.id == event_id:
            return fmt
        self._names.pop(event_id, None)
        self._listed_s = -math.inf
        return None

    def is_dynamic(self, system: str, name: str) -> bool:
        """Whether the event was made at run time: a probe, a synthetic or a user event."""
        listed = parse_dynamic_events(self._tree.try_read_text(DYNAMIC_FILE) or "")
        return any((event.group, event.name) == (system, name) for event in listed)

    def _read_listed(self, event_id: int) -> EventFormat | None:
        """The format of the event that had the id when they were listed, if it has it still."""
        pair = self._names.get(event_id)
        fmt = self.add(*pair) if pair else None
        return fmt if fmt is not None and fmt.id == event_id else None

    def _pass_over(self, system: str, name: str, error: TracefsError) -> None:
        """Say once why; of an event that went meanwhile, as probes and modules do, there is nothing to say."""
        if (system, name) not in self.unreadable and not isinstance(error, TracefsMissingError):
            logger.warning(
                "a format can't be used, its entries are kept as bytes",
                extra={"fields": {"event": f"{system}:{name}", "error": str(error)}},
            )
        self.unreadable[system, name] = str(error)

    def _list_ids(self) -> dict[int, EventName]:
        ids: dict[int, EventName] = {}
        for system, name in self._tree.list_event_folders():
            try:
                ids[self._tree.read_event_id(system, name)] = (system, name)
            except TracefsError as error:
                self._pass_over(system, name, error)
        return ids
