"""The event formats that an instance's entries use, learnt as they appear."""

import threading
from collections.abc import Callable

from collector.decode.plan import EventPlan, build_event_plan, build_unknown_plan
from collector.decode.ring import Plan
from collector.tracefs.formats import EventFormat

BuildObject = Callable[[dict[str, object]], tuple[bytes, bytes]]


class FormatBook:
    """Gives the decoder a plan for each event id it meets, and the archive its format object.

    Nothing is read before an id occurs: a host has 2,300 events, a trace a few dozen.

    Args:
      plan: the decoder's, shared by the instance's streams.
      read_format: (event id) -> the format, None when the kernel has none for it.
      build_object: (value) -> (object id, object body) of a format object.
    """

    def __init__(self, plan: Plan, read_format: Callable[[int], EventFormat | None], build_object: BuildObject) -> None:
        self.plan = plan
        self._read_format = read_format
        self._build_object = build_object
        self._lock = threading.Lock()
        self._ids: dict[int, bytes] = {}  # {event id: object id}
        self._bodies: dict[bytes, bytes] = {}  # {object id: object body}
        self._plans: dict[bytes, EventPlan] = {}  # {object id: plan}

    def learn(self, event_id: int) -> EventPlan:
        """Make an id known to the decoder; any thread."""
        with self._lock:
            known = self.plan.events.get(event_id)
            if known is not None:
                return known
            found = self._read_format(event_id)
            event = build_unknown_plan(event_id) if found is None else build_event_plan(found)
            object_id, body = self._build_object(event.format_object())
            self._ids[event_id] = object_id
            self._bodies[object_id] = body
            self._plans[object_id] = event
            self.plan.add(event)
            return event

    def object_id(self, event_id: int) -> bytes:
        """Id of the format object of an event that was learnt."""
        return self._ids[event_id]

    def object_body(self, object_id: bytes) -> bytes | None:
        """Body of a format object, None when it is not one of this book."""
        return self._bodies.get(object_id)
