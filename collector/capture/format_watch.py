"""What the ids in a stream's open batch mean, where an id can come to mean something else.

The kernel clears the ring before it gives an id away (see formats.py), and that shows in `stats`. So there are two
looks, before anything is read and after it:

    reset before the visit   what is in the batch means what it meant: its block is closed, the next has new formats
    reset while it was read  what was read is from before or after: entries of what has changed are kept as bytes
"""

from collections.abc import Callable

from collector.capture.formats import FormatBook
from collector.capture.visit import Ask
from collector.decode.ring import Batch


class FormatWatch:
    """The formats of one stream's open batch.

    Args:
      book: formats of the instance.
      batch: the stream's, read with them.
      was_reset: whether the ring was cleared since the last look.
      is_live: the ring is written while it is read.
    """

    def __init__(self, book: FormatBook, batch: Batch, was_reset: Callable[[], bool], *, is_live: bool) -> None:
        self._book = book
        self._batch = batch
        self._was_reset = was_reset
        self._is_live = is_live
        self._is_renewable = book.is_renewable  # asked for at each visit
        self._edition = book.edition  # of the open batch
        self._ambiguous: set[int] = set()  # ids that are kept as bytes in the open batch, for they may be two events
        self._was_checked = False  # a ring that nothing was read of can't show a reset: the first entries are checked

    @property
    def known(self) -> int:
        """Events that the open batch is read with."""
        return len(self._edition.plan.events)

    def learn(self, event_id: int) -> None:
        """Make an id known that the batch stopped at."""
        self._book.learn(event_id, self._edition)

    def name(self, event_id: int) -> str:
        """`system:event` of an id in the open batch."""
        event = self._edition.plan.events[event_id]
        return f"{event.system}:{event.name}"

    def object_id(self, event_id: int, *, is_raw: bool) -> bytes:
        """Id of the format object of an id's entries in the open batch."""
        if is_raw and event_id in self._ambiguous:
            return self._book.unknown_object_id(event_id)
        return self._edition.object_id(event_id)

    def note_closed(self) -> None:
        """The batch's entries are in a block."""
        self._ambiguous.clear()

    def is_on(self, ask: Ask) -> bool:
        """Whether this visit looks for ids that have changed their meaning.

        Two looks at `stats` cost as much as reading 100 KiB. Events that the kernel was built with stay; a module's
        go too seldom for a look at each visit.
        """
        return self._is_renewable and (self._book.has_dynamic or bool(ask & Ask.SAMPLE))

    def renew(self) -> bool:
        """Before anything is read: whether there are later formats; to adopt them the batch has to be closed."""
        if self._was_reset():
            self._book.renew(self._edition)
        return self._edition is not self._book.edition

    def adopt(self) -> None:
        """Go on with the latest formats; the batch has no entry."""
        if self._edition is not self._book.edition:
            self._edition = self._book.edition
            self._batch.adopt(self._edition.plan)

    def check(self, ask: Ask, first: int, known: int) -> None:
        """After reading: entries of events that have changed meanwhile are kept as bytes.

        Args:
          first: index of the first entry that was read since the last check.
          known: events that were known at the last check; what was learnt since may be newer than the entry.
        """
        if not self.is_on(ask) or len(self._batch) == first:
            return
        was_reset = self._was_reset()
        if self._was_checked and not was_reset and self._is_live:  # a recorder is read seldom, its resets don't show
            return
        self._was_checked = True
        stale = self._book.renew(self._edition)
        if was_reset:
            stale |= frozenset(list(self._edition.plan.events)[known:])
        if stale:
            self._batch.keep_raw(first, stale)
            self._ambiguous |= stale
