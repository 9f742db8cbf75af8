"""Several sinks at once: the archive, and those on a network, each behind a queue of its own.

    put ──┬──> archive's runner
          ├──> filter ──> log ──> receiver       a block's memory is given back when all have let go of it
          └──> filter ──> log ──> receiver

None waits for another. The one thing that they share is the memory budget: a sink with `when_full = "block"` keeps its
part of it, and so in the end makes the daemon stop reading.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import trio

from collector.archive.tally import OVERRUN
from collector.batch import Block, Note, NoteKind, SinkState
from collector.monitor.state import SinkSnapshot
from sinks.contract.base import Acknowledgements, Follower, Item, Release, SealedSegment
from sinks.contract.options import FilterOptions
from sinks.network.delivery import NetworkRunner
from sinks.runner import SinkRunner

WHOLE = (NoteKind.CLOCK, NoteKind.REPORT)  # notes about an instance, not about one of its CPUs


@dataclass(frozen=True, slots=True)
class Route:
    """A network sink, and what of everything it is given."""

    runner: NetworkRunner
    filter: FilterOptions
    variant: int | None = None  # position of its filter by events in Block.variants; None: all events

    def takes(self, instance: str, cpu: int | None) -> bool:
        """Whether it is given anything of a stream; of an instance where cpu is None."""
        if cpu is not None and self.filter.cpus is not None and cpu not in self.filter.cpus:
            return False
        return any(fnmatchcase(instance, pattern) for pattern in self.filter.instances)

    def pick(self, block: Block) -> Block | None:
        """What it is given of a block: the block itself, one with fewer entries, or nothing."""
        if not self.takes(block.stream.instance, block.stream.cpu):
            return None
        return block if self.variant is None else block.variants[self.variant]

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        """Whether nothing of a segment of the archive is still to be sent here."""
        blocks = segment.last_blocks
        if blocks is not None:
            blocks = {key: number for key, number in blocks.items() if self.takes(key.instance, key.cpu)}
        return self.runner.has_settled(blocks)

    def wants(self, note: Note) -> bool:
        """Whether it is given a note."""
        return self.takes(note.stream.instance, None if note.kind in WHOLE else note.stream.cpu)


class Fanout:
    """Where blocks and notes go.

    Args:
      archive: the runner of the file sink.
      routes: to the other sinks.
      followers: which bring the archive's segments somewhere.
    """

    def __init__(self, archive: SinkRunner, routes: Sequence[Route] = (), followers: Sequence[Follower] = ()) -> None:
        self._archive = archive
        self._routes = tuple(routes)
        self._followers = tuple(followers)
        self._following = trio.CancelScope()  # what the followers do at the end; its deadline may come nearer meanwhile

    @property
    def queued_events(self) -> int:
        """Entries that the archive has not taken."""
        return self._archive.queued_events

    @property
    def discarded_events(self) -> int:
        """Entries that the archive did not take."""
        return self._archive.discarded_events

    @property
    def state(self) -> SinkState:
        """What the archive keeps."""
        return self._archive.state

    def sinks(self) -> tuple[SinkSnapshot, ...]:
        """The other sinks, as they are now."""
        return (*(route.runner.snapshot() for route in self._routes), *(f.snapshot() for f in self._followers))

    def acknowledgements(self) -> tuple[Acknowledgements, ...]:
        """The other sinks, as retention asks them."""
        return (*self._routes, *self._followers)

    def put(self, item: Item, release: Release | None = None) -> None:
        """Queue an item for all that are given it; `release` is called when the last has let go."""
        if isinstance(item, Note):
            self._archive.put(item, release)
            for route in self._routes:
                if route.wants(item):
                    route.runner.put(item)
            return
        picked = [(route, route.pick(item)) for route in self._routes]
        if item.gaps:
            self._tell_gaps(item, [route for route, block in picked if block is None])
        takers = sum(block is not None for _, block in picked)
        share = _Share(release, 1 + takers) if release is not None and takers else release
        self._archive.put(item, share)
        for route, block in picked:
            route.runner.leave_out(item.events - (block.events if block is not None else 0))
            if block is not None:
                route.runner.put(block, share)

    @staticmethod
    def _tell_gaps(block: Block, routes: Sequence[Route]) -> None:
        """Give the gaps of a block to those who are given nothing else of it."""
        for route in routes:
            if route.takes(block.stream.instance, block.stream.cpu):
                for at, gap in enumerate(block.gaps):
                    route.runner.put(Note(NoteKind.GAP, block.stream, {
                        "cause": OVERRUN, "count": gap.lost, "from_ts": block.first_ts, "to_ts": block.last_ts,
                        # With the number nothing else says the same: what comes again is known by that.
                        "detail": f"gap {at} in block {block.number}, of which nothing passes the filter",
                    }))  # fmt: skip

    @property
    def followers(self) -> tuple[Follower, ...]:
        """Those that bring the archive's segments somewhere, and are told what retention removes."""
        return self._followers

    async def open(self) -> None:
        """Open the logs of the network sinks; an error here ends the daemon's start."""
        for route in self._routes:
            await route.runner.open()

    async def begin(self) -> None:
        """Have the archive say that the run is there, and what it was given so far; before run()."""
        await self._archive.begin()

    async def run(self) -> None:
        """Deliver until finish() was called and all is delivered, or the deadline of the network sinks is over."""
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as runners:
                runners.start_soon(self._archive.run)
                for route in self._routes:
                    runners.start_soon(route.runner.run)
                for follower in self._followers:
                    nursery.start_soon(follower.run)
            nursery.cancel_scope.cancel()

    def finish(self, deadline_s: float) -> None:
        """No more items will be put.

        Args:
          deadline_s: by trio's clock; the archive takes what it has whatever the time, the others leave it to the
            next run. Can be called again with an earlier one.
        """
        self._following.deadline = min(self._following.deadline, deadline_s)
        self._archive.finish()
        for route in self._routes:
            route.runner.finish(deadline_s)

    async def close(self) -> None:
        """Seal what is open, and let the followers have it."""
        await self._archive.close()
        for route in self._routes:
            await route.runner.close()
        with self._following:
            async with trio.open_nursery() as nursery:
                for follower in self._followers:
                    nursery.start_soon(follower.drain)

    def unlock(self) -> None:
        """Let go of the logs without waiting, whatever happened."""
        for route in self._routes:
            route.runner.unlock()


class _Share:
    """Releases a lease when all that hold a part of it have."""

    __slots__ = ("_left", "_release")

    def __init__(self, release: Release, holders: int) -> None:
        self._release = release
        self._left = holders

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._release()
