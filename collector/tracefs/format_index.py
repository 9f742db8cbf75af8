"""Event formats by id, read only when they are needed."""

from collector.errors import TracefsFormatError, TracefsMissingError
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir
from collector.tracefs.formats import INTERNAL_SYSTEM, EventFormat


class FormatIndex:
    """Formats by event id, read when an id first turns up.

    Reading all 2,300 formats of a kernel costs 0.5 s, reading their ids 0.04 s; so neither happens
    at the start. Ids of dynamic events are reused: call `refresh` after a module was
    loaded or unloaded, or when records no longer fit their format.
    """

    def __init__(self, tree: TracefsDir) -> None:
        self._tree = tree.top  # events are the same in all instances, and the kernel has these at hand
        self._names: dict[int, EventName] | None = None  # {event id: (system, name)}; None: not listed yet
        self._formats: dict[int, EventFormat] = {}  # {event id: format}
        self._missing: set[int] = set()  # ids that had no format at the last listing
        self.unreadable: dict[EventName, str] = {}  # {event: why its format can't be used}

    def add(self, system: str, name: str) -> EventFormat:
        """Read the format of an event that will occur, ahead of its first entry."""
        fmt = self._tree.read_event_format(system, name)
        self._formats[fmt.id] = fmt
        self._missing.discard(fmt.id)
        return fmt

    def internal(self) -> list[EventFormat]:
        """The formats of the tracers' own records, which can turn up in any instance."""
        found: list[EventFormat] = []
        for system, name in self._tree.list_event_folders(INTERNAL_SYSTEM):
            if fmt := self._try_add(system, name):
                found.append(fmt)
        return found

    def get(self, event_id: int) -> EventFormat | None:
        """The format of an id; None when no event has it, which is looked up once until the next `refresh`."""
        if (known := self._formats.get(event_id)) or event_id in self._missing:
            return known
        if self._names is None:
            self._names = self._list_ids()
        pair = self._names.get(event_id)
        fmt = self._try_add(*pair) if pair else None
        if fmt is None or fmt.id != event_id:
            self._missing.add(event_id)
            return None
        return fmt

    def refresh(self) -> None:
        """Forget what was read: the kernel's events have changed."""
        self._names = None
        self._formats.clear()
        self._missing.clear()
        self.unreadable.clear()

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
