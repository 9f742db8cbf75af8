"""Event formats by id, read only when they are needed."""

import math
import time
from collections.abc import Callable

from collector.errors import TracefsFormatError, TracefsMissingError
from collector.tracefs.dynamic import FILE as DYNAMIC_FILE
from collector.tracefs.dynamic import parse_dynamic_events
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir
from collector.tracefs.formats import INTERNAL_SYSTEM, EventFormat

# Listing the ids of 2,300 events takes 0.04 to 0.1 s.
RELIST_AGE_S = 1.0


class FormatIndex:
    """Formats by event id, read when an id first turns up.

    Reading all 2,300 formats of a kernel costs 0.5 s, reading their ids 0.04 s; so neither happens
    at the start. Ids of events that come and go are reused: `reread` says whether one still is what it was.
    """

    def __init__(self, tree: TracefsDir, word_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._word_size = word_size  # bytes of the kernel's long
        self._clock = clock
        self._tree = tree.top  # events are the same in all instances, and the kernel has these at hand
        self._names: dict[int, EventName] = {}  # {event id: (system, name)}
        self._listed_s = -math.inf  # when they were listed
        self._formats: dict[int, EventFormat] = {}  # {event id: format}
        self.unreadable: dict[EventName, str] = {}  # {event: why its format can't be used}

    def add(self, system: str, name: str) -> EventFormat:
        """Read the format of an event that will occur, ahead of its first entry."""
        fmt = self._tree.read_event_format(system, name, self._word_size)
        self._formats[fmt.id] = fmt
        return fmt

    def internal(self) -> list[EventFormat]:
        """The formats of the tracers' own records, which can turn up in any instance."""
        found: list[EventFormat] = []
        for system, name in self._tree.list_event_folders(INTERNAL_SYSTEM):
            if fmt := self._try_add(system, name):
                found.append(fmt)
        return found

    def get(self, event_id: int) -> EventFormat | None:
        """The format of an id; None when no event has it.

        An id that was not there when the events were last listed may be a new one, of a module or a probe: they
        are listed again, but not again and again for ids that a damaged page makes up.
        """
        if known := self._formats.get(event_id):
            return known
        fmt = self._read_listed(event_id)
        if fmt is None and self._clock() - self._listed_s >= RELIST_AGE_S:
            self._names = self._list_ids()
            self._listed_s = self._clock()
            fmt = self._read_listed(event_id)
        return fmt

    def reread(self, event_id: int, system: str, name: str) -> EventFormat | None:
        """The format of an event as it is now; None when it is gone or has another id: then `get` looks for the id."""
        self._formats.pop(event_id, None)
        fmt = self._try_add(system, name)
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
        fmt = self._try_add(*pair) if pair else None
        return fmt if fmt is not None and fmt.id == event_id else None

    def _try_add(self, system: str, name: str) -> EventFormat | None:
        try:
            return self.add(system, name)
        except (TracefsMissingError, TracefsFormatError) as error:
            self.unreadable[system, name] = str(error)
            return None

    def _list_ids(self) -> dict[int, EventName]:
        ids: dict[int, EventName] = {}
        for system, name in self._tree.list_event_folders():
            try:
                ids[self._tree.read_event_id(system, name)] = (system, name)
            except (TracefsMissingError, TracefsFormatError) as error:
                self.unreadable[system, name] = str(error)
        return ids
