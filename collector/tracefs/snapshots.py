"""Snapshots: the second ring that the kernel keeps for an instance, and what fills it. Pure.

A snapshot swaps the two rings. Nothing is copied and nothing is reset: what was unread in the other one is live again,
and comes back with the next swap. The kernel's counters (`stats`) are always those of the ring that is live.
"""

from typing import Literal

SNAPSHOT_FILE = "snapshot"

# none    this kernel has no snapshots
# freed   there is no second ring; the first snapshot allocates it
# empty   there is one, and all of it was read
# full    there is one with unread entries
SnapshotState = Literal["none", "freed", "empty", "full"]

# These keep the longest trace in the second ring, by swapping; the kernel refuses other snapshots with EBUSY.
SWAPPING_TRACERS = frozenset({"irqsoff", "preemptoff", "preemptirqsoff", "wakeup", "wakeup_rt", "wakeup_dl"})

# Of these, what traces sections that every reader of text makes.
FEEDING_TRACERS = frozenset({"irqsoff", "preemptoff", "preemptirqsoff"})

# All that keep a largest latency, in microseconds; the others leave their entries in the live ring.
LATENCY_TRACERS = SWAPPING_TRACERS | {"hwlat", "osnoise", "timerlat"}
LATENCY_FILE = "tracing_max_latency"
PAUSE_OPTION = "pause-on-trace"  # since 5.8; before, reading `trace` always stops recording


def parse_snapshot_state(head: str) -> SnapshotState:
    """The state of the second ring, from how the file begins: a word on it stands there only while it is empty."""
    if "* Snapshot is freed *" in head:
        return "freed"
    return "empty" if "* Snapshot is allocated *" in head else "full"


def takes_snapshot(trigger: str) -> bool:
    """Whether a trigger of an event swaps the rings: `snapshot`, or a histogram's action."""
    return trigger.strip().removeprefix("!").startswith("snapshot") or takes_on_condition(trigger)


def takes_on_condition(trigger: str) -> bool:
    """Whether it is a histogram's action: as long as there is one, the kernel takes no other snapshot."""
    return trigger.strip().startswith("hist:") and ".snapshot(" in trigger
