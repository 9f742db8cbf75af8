"""A visit to a stream: what it is for, what the thread that makes it has, and what it brings."""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from collector.archive.tally import OVERRUN
from collector.batch import Block
from collector.capture.budget import Lease
from collector.capture.filters import EventFilter
from collector.decode.columns import Encoder
from collector.ledger import Balance, KernelCounts, ReaderCounts

Compress = Callable[[Any], bytes]


class Ask(enum.IntFlag):
    """What a visit to a stream is for."""

    READ = 0  # take the full sub-buffers
    FLUSH = 1  # and the one that is being written; close the block if it is old
    SAMPLE = 2  # and check the ledger
    CLOSE = 4  # and close the block whatever its age


@dataclass(slots=True)
class Worker:
    """What a thread needs to turn batches into blocks."""

    encoder: Encoder
    compress: Compress
    codec: str
    filters: tuple[EventFilter, ...] = ()  # each makes a block of its own beside the one with everything


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the ledger."""

    at_ns: int  # wall time
    now_ts: int | None  # the trace clock, as the kernel prints it
    kernel: KernelCounts  # since the run's base
    reader: ReaderCounts  # the open batch included
    balance: Balance
    settled: bool
    kernel_bytes: int
    oldest_ts: int | None
    resets: int

    @property
    def oldest_age_s(self) -> float | None:
        """Age of the oldest unread entry, for clocks in nanoseconds; None when there is none."""
        if self.oldest_ts is None or self.now_ts is None:
            return None
        return max(0.0, (self.now_ts - self.oldest_ts) / 1e9)


class LooseGap(NamedTuple):
    """Entries that are missing, of which no block tells."""

    lost: int | None  # None: unknown
    detail: str
    cause: str = OVERRUN
    from_ts: int | None = None  # of the last entry before it
    after: int = 0  # how many of the visit's blocks come before it


@dataclass(slots=True)
class Visit:
    """What a visit brought."""

    blocks: list[tuple[Block, Lease]] = field(default_factory=list)
    starved_bytes: int = 0  # of budget that the next block needs before reading can go on
    sample: Sample | None = None
    loose_gaps: list[LooseGap] = field(default_factory=list)
    at_end: bool = False  # the ring was empty
    errno: int | None = None  # read() failed
