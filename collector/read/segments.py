"""The segments that `show` reads from, each with the names and clocks in it."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from collector.archive.block import PickedFields, decode_fields
from collector.archive.bodies import Clock
from collector.archive.frame import Damage, Kind, Record
from collector.archive.objects import ClockPair, FormatObject, StoredObject, parse_clock, parse_format, parse_names
from collector.archive.reader import Place, Segment, open_segment
from collector.errors import SegmentError
from collector.read.comms import CHANGES, WANTED, Mentions, Saved, Threads
from collector.read.symbols import Symbols
from collector.read.walltime import WallClock

# Segments that are open at a time. The streams of a run move through its segments together.
_OPEN_SEGMENTS = 8


@dataclass(slots=True)
class Shown:
    """What came of printing an archive."""

    events: int = 0
    damaged: list[str] = field(default_factory=list)  # what could not be read
    closed: bool = False  # the reader of the output went away


@dataclass(slots=True)
class Names:
    """What objects say: of a segment, or of a stream since its last header."""

    formats: dict[bytes, FormatObject] = field(default_factory=dict)
    saved: Saved = field(default_factory=Saved)
    symbols: Symbols = field(default_factory=Symbols)
    pairs: list[ClockPair] = field(default_factory=list)

    def add(self, offset: int, stored: StoredObject) -> None:
        """Takes one object; raises SegmentError when it is not what its type says."""
        match stored.type:
            case "format":
                self.formats[stored.id] = parse_format(stored)
            case "clock":
                self.pairs.append(parse_clock(stored))
            case "symbols":
                self.symbols.add_code(parse_names(stored))
            case "printk":
                self.symbols.add_strings(parse_names(stored))
            case "comms" | "comms_proc":
                of = self.saved.comms if stored.type == "comms" else self.saved.proc_comms
                for pid, comm in parse_names(stored).items():
                    of[pid].append((offset, comm))
            case "tgids":
                for pid, tgid in parse_names(stored).items():
                    self.saved.tgids[pid].append((offset, tgid))


class View:
    """A segment and the names in it.

    Args:
      on_damage: is told what can't be read of the names.
    """

    def __init__(self, segment: Segment, on_damage: Callable[[str], None]) -> None:
        self.segment = segment
        self._on_damage = on_damage
        self._mentions: dict[str, Mentions | None] = {}  # {name of the clock, or instance: names}
        self._walls: dict[str, WallClock | None] = {}

    @cached_property
    def _objects(self) -> Names:
        found = Names()
        for offset, stored in self.segment.objects(self._note_damage):
            try:
                found.add(offset, stored)
            except SegmentError as e:
                self._note_damage(Damage(offset, 0, str(e)))
        return found

    def _note_damage(self, damage: Damage) -> None:
        self._on_damage(f"{self.segment.path} at {damage.offset}: {damage.reason}")

    @property
    def formats(self) -> dict[bytes, FormatObject]:
        return self._objects.formats

    @property
    def symbols(self) -> Symbols:
        return self._objects.symbols

    def clock_and_pairs(self, instance: str) -> tuple[Clock | None, list[ClockPair]]:
        """The instance's clock, None when the header is damaged, and its readings beside the wall clock."""
        clock = self.segment.header.clocks.get(instance) if self.segment.header is not None else None
        return clock, [pair for pair in self._objects.pairs if pair.instance == instance]

    def clock(self, instance: str) -> str | None:
        """The name of the instance's clock where it isn't nanoseconds."""
        found = self.clock_and_pairs(instance)[0]
        return None if found is None or found.is_ns else found.name

    def wall(self, instance: str) -> WallClock | None:
        """Wall time of the instance's clock; None where the segment does not tell it."""
        if instance not in self._walls:
            clock, pairs = self.clock_and_pairs(instance)
            self._walls[instance] = WallClock(clock, pairs) if clock is not None and clock.is_ns and pairs else None
        return self._walls[instance]

    def threads(self, instance: str, offset: int) -> Threads:
        """The threads of the block at this offset."""
        clock = self.clock_and_pairs(instance)[0]
        key = instance if clock is None else clock.name
        if key not in self._mentions:
            clocks = {} if self.segment.header is None else self.segment.header.clocks
            instances = {name for name, of in clocks.items() if of.name == key}
            self._mentions[key] = self._read_mentions(instances | {instance})
        return Threads(self._mentions[key], self._objects.saved, offset)

    def _read_mentions(self, instances: Iterable[str]) -> Mentions | None:
        """Goes through the blocks of instances whose clocks compare; None where no event can mention a thread."""
        if not any(of.full_name in WANTED for of in self.formats.values()):
            return None
        mentions = Mentions()
        places = [
            p for p in self.segment.places if p.kind == Kind.BLOCK and p.stream is not None and p.stream[0] in instances
        ]
        timed: list[Place] = []
        by_offset = {place.offset: place for place in places}
        untimed: list[tuple[int, set[int]]] = []
        for offset, fields in self._decode(self.segment.good(places), CHANGES):
            pids: set[int] = set()
            for of in fields:
                if of.ts is None:
                    pids |= mentions.add_names(of)
                else:
                    mentions.add(of)
            if pids:
                untimed.append((offset, pids))
            elif fields:
                timed.append(by_offset[offset])
        changing = mentions.find_changing()
        again = [offset for offset, pids in untimed if not changing.isdisjoint(pids)]
        self._add_again(mentions, again, changing)
        if returning := mentions.find_returning():
            spans = returning.values()
            again = [p.offset for p in timed if any(p.first_ts <= end and p.last_ts >= start for start, end in spans)]
            self._add_again(mentions, again, returning.keys())
        tgids = self._objects.saved.tgids
        mentions.finish(lambda pid: tgids[pid][0][1] if pid in tgids else None)
        return mentions

    def _add_again(self, mentions: Mentions, offsets: Iterable[int], pids: Collection[int]) -> None:
        records = (self.segment.record_at(offset) for offset in offsets)
        for _, fields in self._decode((record for record in records if isinstance(record, Record)), None):
            for of in fields:
                mentions.add(of, pids)

    def _decode(
        self, records: Iterable[Record], timed: Collection[str] | None
    ) -> Iterator[tuple[int, list[PickedFields]]]:
        for record in records:
            try:
                yield record.offset, decode_fields(record.body, self.formats, WANTED, timed)
            except SegmentError:
                continue  # whoever prints the block tells it


class Pool:
    """The segments in use, a bounded number of them open."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self._open: OrderedDict[Path, View] = OrderedDict()

    def view(self, path: Path) -> View:
        found = self._open.get(path)
        if found is None:
            while len(self._open) >= _OPEN_SEGMENTS:
                self._open.popitem(last=False)[1].segment.close()
            found = self._open[path] = View(open_segment(path), self._note_damage)
        self._open.move_to_end(path)
        return found

    def _note_damage(self, what: str) -> None:
        if what not in self.shown.damaged:  # a segment may be opened more than once
            self.shown.damaged.append(what)

    def close(self) -> None:
        for view in self._open.values():
            view.segment.close()
        self._open.clear()
