"""The event formats that an instance's entries use, learnt as they appear.

The kernel gives the id of an event that was removed (a probe, a module's) to the next one that is made. Before it does
so it clears the rings of each instance where the old one was ever on. So what an id means holds from one reset of the
ring to the next; an **edition** is what the ids meant in between.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from collector.decode.plan import EventPlan, build_event_plan, build_unknown_plan
from collector.decode.ring import Plan
from collector.errors import TracefsFormatError
from collector.tracefs.formats import EventFormat

logger = logging.getLogger(__name__)

BuildObject = Callable[[dict[str, object]], tuple[bytes, bytes]]


class Edition:
    """What the ids mean for a while; those of a stream's open batch are of one edition."""

    __slots__ = ("_ids", "plan")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan  # the decoder's
        self._ids: dict[int, bytes] = {}  # {event id: object id}

    def add(self, event: EventPlan, object_id: bytes) -> None:
        """The object id first: another thread meets the event as soon as the plan has it."""
        self._ids[event.event_id] = object_id
        self.plan.add(event)

    def object_id(self, event_id: int) -> bytes:
        """Id of the format object of an event that was learnt."""
        return self._ids[event_id]


@dataclass(frozen=True, slots=True)
class Renewal:
    """How formats can change while a run goes on; a recorded tree's can't.

    Args:
      make_plan: a plan of the same pages that knows no event.
      reread: (event id, system, name) -> the format as it is now; None when it is not of that id any more.
      is_dynamic: (system, name) -> whether the event was made at run time, so that it can go at any time.
    """

    make_plan: Callable[[], Plan]
    reread: Callable[[int, str, str], EventFormat | None]
    is_dynamic: Callable[[str, str], bool]


class FormatBook:
    """Gives the decoder a plan for each event id it meets, and the archive its format object.

    Nothing is read before an id occurs: a host has 2,300 events, a trace a few dozen. Any thread may call.

    Args:
      plan: the decoder's, shared by the instance's streams.
      read_format: (event id) -> the format, None when the kernel has none for it.
      build_object: (value) -> (object id, object body) of a format object.
      renewal: None when the formats stay as they are.
    """

    def __init__(
        self,
        plan: Plan,
        read_format: Callable[[int], EventFormat | None],
        build_object: BuildObject,
        renewal: Renewal | None = None,
    ) -> None:
        self.edition = Edition(plan)  # the latest
        self._read_format = read_format
        self._build_object = build_object
        self._renewal = renewal
        self.has_dynamic = False  # an event was met that can go at any time
        self._lock = threading.Lock()
        self._bodies: dict[bytes, bytes] = {}  # {object id: object body}

    @property
    def is_renewable(self) -> bool:
        return self._renewal is not None

    def learn(self, event_id: int, edition: Edition) -> None:
        """Make an id known to an edition."""
        with self._lock:
            if event_id in edition.plan.events:
                return
            event = self._plan_of(event_id)
            if self._renewal is not None and not self.has_dynamic:
                self.has_dynamic = not event.is_known or self._renewal.is_dynamic(event.system, event.name)
            edition.add(event, self._keep(event))

    def _plan_of(self, event_id: int) -> EventPlan:
        found = self._read_format(event_id)
        if found is None:
            return build_unknown_plan(event_id)
        try:
            return build_event_plan(found)
        except TracefsFormatError as error:
            logger.warning(
                "a format can't be used, its entries are kept as bytes",
                extra={"fields": {"event": found.name_full, "error": str(error)}},
            )
            return build_unknown_plan(event_id)

    def renew(self, edition: Edition) -> frozenset[int]:
        """Read the formats again: the ids of this edition that mean something else now.

        Where that is so for the latest edition there is a new one, which learns them again.
        """
        assert self._renewal is not None
        with self._lock:
            latest = self.edition
            stale = self._stale_of(latest, self._renewal)
            if stale:
                self.edition = Edition(self._renewal.make_plan())
                for event_id, event in latest.plan.events.items():
                    if event_id not in stale:
                        self.edition.add(event, latest.object_id(event_id))
            return stale if edition is latest else self._stale_of(edition, self._renewal)

    def unknown_object_id(self, event_id: int) -> bytes:
        """Id of the format object of entries that are kept as bytes, for it is not known what they are."""
        with self._lock:
            return self._keep(build_unknown_plan(event_id))

    def object_body(self, object_id: bytes) -> bytes | None:
        """Body of a format object, None when it is not one of this book."""
        return self._bodies.get(object_id)

    def _keep(self, event: EventPlan) -> bytes:
        object_id, body = self._build_object(event.format_object())
        if event.doubts and object_id not in self._bodies:
            logger.warning(
                "a format contradicts itself; no byte is lost",
                extra={"fields": {"event": f"{event.system}:{event.name}", "doubts": "; ".join(event.doubts)}},
            )
        self._bodies[object_id] = body
        return object_id

    @staticmethod
    def _stale_of(edition: Edition, renewal: Renewal) -> frozenset[int]:
        def means_the_same(event: EventPlan) -> bool:
            found = renewal.reread(event.event_id, event.system, event.name) if event.is_known else None
            return found is not None and found.text == event.text

        return frozenset(event.event_id for event in edition.plan.events.values() if not means_the_same(event))
