"""What others do to our instances: noticed, counted, recorded in the archive, written back where that is wished."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from collector.capture.stream import Stream
from collector.control.guard import FILTER, RING_FILE, TRIGGER, WATCHED_FILES, Finding, Guard
from collector.control.instance import Instance
from collector.ledger import IDENTITY_READ
from collector.run.pipeline import Pipeline
from collector.tracefs.snapshots import SNAPSHOT_FILE

logger = logging.getLogger(__name__)

CAUSE = "interference"  # of the gap records: entries may be missing or mean something else from here on


@dataclass(frozen=True, slots=True)
class Watched:
    """An instance and what is done when somebody changes it."""

    instance: Instance
    guard: Guard
    repair: bool


class Interference:
    """Watches the instances of a run.

    Args:
      instances: set up.
      repair: for each of them, whether changes are written back.
    """

    def __init__(self, pipeline: Pipeline, instances: Sequence[Instance], repair: Sequence[bool]) -> None:
        self._pipeline = pipeline
        self._watched = [
            Watched(instance, Guard(instance.dir, instance.spec), wish)
            for instance, wish in zip(instances, repair, strict=True)
        ]
        known = (*WATCHED_FILES, FILTER, TRIGGER, SNAPSHOT_FILE, RING_FILE)
        self.counts: Counter[str] = Counter(dict.fromkeys(known, 0))  # {file, or kind of an event's: changes}
        self._taken: dict[Stream, int] = {}  # {stream: entries of its ring that nobody here has seen}

    async def look(self) -> None:
        """Look at all instances, in a worker."""
        self._look_for_readers()
        for watched in self._watched:
            for finding in await self._pipeline.workers.run(partial(_look, watched)):
                change = finding.change
                self.counts[change.what] += 1
                detail = f"{change}, {'written back' if finding.repaired else 'left as it is'}"
                for stream in self._pipeline.streams:
                    if stream.key.instance == watched.instance.spec.name:
                        self._pipeline.emit_gap(stream.key, CAUSE, None, None, detail)
                logger.error(
                    "somebody else has changed our instance",
                    extra={"fields": {
                        "instance": watched.instance.spec.name, "file": change.file, "expected": change.expected[:80],
                        "found": change.found[:80], "repaired": finding.repaired,
                    }},
                )  # fmt: skip
                if finding.error is not None:
                    logger.error("cannot undo what somebody changed", extra={"fields": {"error": str(finding.error)}})

    def _look_for_readers(self) -> None:
        """More entries left a ring than its reader has: they stay in the residual, for it may be our fault too."""
        for stream in self._pipeline.streams:
            sample = stream.account.last_sample
            taken = (sample.balance.residual.get(IDENTITY_READ) or 0) if sample is not None else 0
            if taken > self._taken.get(stream, 0):
                self.counts[RING_FILE] += 1
                logger.error(
                    "entries of a ring are not accounted for: somebody else reads it",
                    extra={"fields": {"instance": stream.key.instance, "cpu": stream.key.cpu, "events": taken}},
                )
            self._taken[stream] = taken


def _look(watched: Watched, _: object) -> list[Finding]:
    return watched.guard.look(watched.repair)
