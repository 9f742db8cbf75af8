"""What of a log is in memory: entries to be sent, and batches on their way, in the order of the log. Pure.

    hold ──> waiting ──next_batch──> on their way ──answer──> settled
                <─────────send_again─────┘

An entry stays until it is settled: acknowledged, or rejected for good. Batches may be answered in any order and are
settled in theirs. A batch that comes back holds up all others, until each is back; then all from the first that was not
acknowledged on are sent again. Of a batch that is rejected the entries are sent one by one, to find those at fault.
"""

from collections import deque
from dataclasses import dataclass

from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.contract.untold import Untold
from sinks.network.backlog import QUEUE_FULL, START, Entry, Lost, gap_of_parcel

# Notes that are kept of what was dropped, the newest: a receiver that is away for days must not fill the memory.
MOST_NOTES = 1024


@dataclass(slots=True, eq=False)
class Batch:
    """Entries on their way."""

    entries: list[Entry]
    answer: Delivery | None = None  # None: none yet


class Window:
    """See the module.

    Args:
      limit_bytes: of bodies together; what is larger goes alone.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_events = self.held_bytes = 0  # waiting and on their way
        self.waiting_bytes = 0
        self.waiting_since_s = 0.0  # the first of those that wait, unless it was sent before
        self.in_flight = 0  # batches without an answer
        self.handed = START  # the log up to here is, or was, in the window
        self.settled = START  # and up to here it is off our hands
        self.oldest = -1  # Position.segment of what the log has still: entries before are here alone
        self.has_failed = False  # a batch came back: nothing is sent until all are
        self._waiting: deque[Entry] = deque()
        self._batches: deque[Batch] = deque()
        self._one_by_one = 0  # entries that are sent in batches of one

    def __bool__(self) -> bool:
        return bool(self._waiting or self._batches)

    @property
    def has_waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def room_bytes(self) -> int:
        return self.limit_bytes - self.held_bytes

    def has_room(self, entry: Entry) -> bool:
        """Whether an entry may be held beside the others."""
        return not self.held_bytes or len(entry.parcel.body) <= self.room_bytes

    def hold(self, entry: Entry, now_s: float) -> None:
        """Take the next entry of the log."""
        if not self._waiting:
            self.waiting_since_s = now_s
        self._waiting.append(entry)
        size_bytes = len(entry.parcel.body)
        self.held_events += entry.parcel.events
        self.held_bytes += size_bytes
        self.waiting_bytes += size_bytes
        self.handed = entry.position

    def next_batch(self, most_bytes: int, most_events: float) -> Batch | None:
        """The next entries, as many as go together, at least one; None when none waits."""
        if not self._waiting:
            return None
        entries = [self._waiting.popleft()]
        size_bytes, events = len(entries[0].parcel.body), entries[0].parcel.events
        while self._waiting and not self._one_by_one:
            more = self._waiting[0].parcel
            if size_bytes + len(more.body) > most_bytes or events + more.events > most_events:
                break
            size_bytes += len(more.body)
            events += more.events
            entries.append(self._waiting.popleft())
        self.waiting_bytes -= size_bytes
        batch = Batch(entries)
        self._batches.append(batch)
        self.in_flight += 1
        return batch

    def answer(self, batch: Batch, answer: Delivery) -> None:
        """A batch is not on its way any more."""
        batch.answer = answer
        self.in_flight -= 1
        if answer is Delivery.ERRORED or (answer is Delivery.REJECTED and len(batch.entries) > 1):
            self.has_failed = True

    def settle(self) -> list[tuple[Entry, Delivery]]:
        """Let go of the entries whose answer is final, up to the first of which it is missing or bad; gives them."""
        done: list[tuple[Entry, Delivery]] = []
        while self._batches:
            batch = self._batches[0]
            answer = batch.answer
            if answer is not Delivery.DELIVERED and (answer is not Delivery.REJECTED or len(batch.entries) > 1):
                return done
            for entry in batch.entries:
                self._let_go(entry)
                done.append((entry, answer))
            self._batches.popleft()
            self._one_by_one = max(0, self._one_by_one - len(batch.entries))
            self.settled = batch.entries[-1].position
        self.pass_over()
        return done

    def pass_over(self) -> None:
        """What could not be read behind the last entry is off our hands too, once that is."""
        if not self:
            self.settled = self.handed

    def send_again(self) -> list[Batch]:
        """All batches are back, one of them not delivered: its entries and those behind it wait again; gives them."""
        batches = list(self._batches)
        for batch in reversed(batches):
            self._waiting.extendleft(reversed(batch.entries))
            self.waiting_bytes += sum(len(entry.parcel.body) for entry in batch.entries)
        self._batches.clear()
        if batches[0].answer is Delivery.REJECTED:
            self._one_by_one = len(batches[0].entries)
        return batches

    def drop_oldest(self, untold: Untold) -> Lost:
        """Make room: the oldest blocks that are not on their way go.

        Header and objects stay for the blocks behind them, unless the next header makes them useless; the last notes
        stay in any case.

        Args:
          untold: gets the blocks.
        """
        lost = Lost()
        names: list[Entry] = []  # the front epoch's header and objects
        notes: deque[Entry] = deque()
        while self._waiting and self.held_bytes > self.limit_bytes:
            entry = self._waiting.popleft()
            self.waiting_bytes -= len(entry.parcel.body)
            kind = entry.parcel.kind
            if kind == Kind.BLOCK:
                self._give_up(entry, QUEUE_FULL, lost, untold)
                continue
            if kind == Kind.HEADER:
                for useless in names:
                    self._let_go(useless)
                names = []
            (names if kind in (Kind.HEADER, Kind.OBJECT) else notes).append(entry)
            if len(notes) > MOST_NOTES:
                self._let_go(notes.popleft())
        kept = [*names, *notes]
        self._waiting.extendleft(reversed(kept))
        self.waiting_bytes += sum(len(entry.parcel.body) for entry in kept)
        return lost

    def drop_gone(self, reason: str, untold: Untold) -> Lost:
        """Give up what waits and is not in the log any more.

        Args:
          untold: gets the blocks.
        """
        lost = Lost()
        while self._waiting and self._waiting[0].position.segment < self.oldest:
            entry = self._waiting.popleft()
            self.waiting_bytes -= len(entry.parcel.body)
            self._give_up(entry, reason, lost, untold)
            if entry.parcel.kind == Kind.GAP:
                untold.keep(gap_of_parcel(entry.parcel))
        return lost

    def clear(self, reason: str, *, gone_only: bool) -> Lost:
        """The end: give up everything, or what is not in the log any more."""
        lost = Lost()
        for entry in (*(entry for batch in self._batches for entry in batch.entries), *self._waiting):
            if not gone_only or entry.position.segment < self.oldest:
                self._give_up(entry, reason, lost)
            else:
                self._let_go(entry)
        self._waiting.clear()
        self._batches.clear()
        self.waiting_bytes = 0
        return lost

    def _give_up(self, entry: Entry, reason: str, lost: Lost, untold: Untold | None = None) -> None:
        parcel = entry.parcel
        self._let_go(entry)
        if parcel.kind == Kind.BLOCK and parcel.stream is not None:
            lost.add(reason, parcel.events, len(parcel.body))
            if untold is not None:
                untold.miss(parcel.stream, parcel.events, parcel.first_ts, parcel.last_ts)

    def _let_go(self, entry: Entry) -> None:
        self.held_events -= entry.parcel.events
        self.held_bytes -= len(entry.parcel.body)
