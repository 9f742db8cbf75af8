"""Which sinks pass the contract suite, and what of the contract each of them has.

A new type of sink adds its harness to HARNESSES and passes the suite. A clause that it cannot have it names in LACKS,
and says why.
"""

import enum
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.contract import places
from tests.contract.places import SharedServer
from tests.contract.world import Served

F = TypeVar("F", bound=Callable[..., Any])


class Clause(enum.Enum):
    """What a sink promises. Each test of the suite is of one."""

    ORDER = "all that is put arrives, once and in order, gaps between the blocks too"
    GOES_ON = "a later run goes on behind an earlier one"
    OUTAGE = "a receiver that is away, or connections that are cut, cost nothing"
    SILENCE = "a receiver that takes and never answers is given up in time, and nothing is lost"
    LATER_RUN = "what a run does not deliver is there for the next one, however it ended"
    REJECTED = "what the receiver will never take is discarded alone, counted and kept"
    LIMITS = "each policy keeps its limit, and what it gives up is counted and told"
    FILTER = "what the filter leaves out is counted, and not sent"
    NO_LEAK = "connections leave no descriptor and no task"
    TOLD = "what comes while the receiver is away is lost, counted, and never waited for"


@dataclass(frozen=True, slots=True)
class Harness:
    """A sink to be tested.

    Attributes:
      type: as the configuration calls it; "file" is the archive's.
      serve: given a folder of its own, gives a receiver and the way there.
    """

    type: str
    serve: Callable[[Path, SharedServer], AbstractAsyncContextManager[Served]]


HARNESSES: Mapping[str, Harness] = {
    "file": Harness("file", places.file),
    "forward-blocks": Harness("forward", places.forward),
    "forward-records": Harness("forward", places.forward_records),
    "kafka": Harness("kafka", places.kafka),
    "objectstore": Harness("objectstore", places.objectstore),
    "stream": Harness("stream", places.stream),
    "tap": Harness("tap", places.tap),
}

_KEEPS = "it keeps what comes meanwhile: see OUTAGE"
_AT_MOST_ONCE = "a tap is at most once: what nobody takes in time is in the archive; see TOLD"
_IS_THE_ARCHIVE = "a full disk is no place to keep what finds no room on it: that is discarded, and told; see TOLD"

# {sink: {clause that it does not have: why}}
LACKS: Mapping[str, Mapping[Clause, str]] = {
    "file": {
        Clause.OUTAGE: _IS_THE_ARCHIVE,
        Clause.SILENCE: "a disk has no deadline: what waits for it keeps its memory, so that reading stops; "
        "see test_own.py",
        Clause.LATER_RUN: "it takes all before the run ends, whatever the time; a kill costs the unsynced tail, which "
        "tests/crash is about",
        Clause.REJECTED: "a disk looks into no block",
        Clause.LIMITS: "it has retention instead of when_full: tests/sinks/file/test_removal.py, test_retention.py",
        Clause.FILTER: "the archive has everything",
    },
    "forward-blocks": {
        Clause.REJECTED: "Fluent Forward has no message that says no, and any block is a record",
        Clause.TOLD: _KEEPS,
    },
    "forward-records": {Clause.TOLD: _KEEPS},
    "kafka": {Clause.TOLD: _KEEPS},
    "objectstore": {
        Clause.REJECTED: "a store looks into no segment: what it refuses today it is asked to take again, and the "
        "archive has it",
        Clause.LIMITS: "the archive is its spool: what retention takes from it is counted, see test_own.py",
        Clause.FILTER: "it brings whole segments",
        Clause.TOLD: _KEEPS,
    },
    "stream": {Clause.TOLD: _KEEPS},
    "tap": {
        Clause.OUTAGE: _AT_MOST_ONCE,
        Clause.SILENCE: "a subscriber does not answer; one that is too slow is ended, see test_own.py",
        Clause.LATER_RUN: _AT_MOST_ONCE,
        Clause.REJECTED: "a subscriber cannot say no",
        Clause.LIMITS: "nothing waits for a subscriber: what is bounded is the queue of each, see test_own.py",
    },
}


def having(clause: Clause) -> list[str]:
    """The sinks that have a clause."""
    return [name for name in HARNESSES if clause not in LACKS[name]]


def clause(of: Clause) -> Callable[[F], F]:
    """A test of this clause: run with each sink that has it, as `served`."""

    def mark(test: F) -> F:
        test.clause = of  # type: ignore[attr-defined]
        return pytest.mark.parametrize("served", having(of), indirect=True)(test)

    return mark
