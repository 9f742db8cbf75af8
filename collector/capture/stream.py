"""One CPU of one instance: from its ring to blocks.

    fill ─> batch, a sub-buffer at a time     format_watch.py: what the ids mean
    full ─> block                             blocks.py
    sample ─> account.py                      do the kernel's counts and ours agree

All methods but the counters run in a worker thread, one at a time per stream.
"""

import time
from collections.abc import Callable, Mapping

from collector.archive.totals import Totals
from collector.batch import Missed, StreamKey
from collector.capture.account import Account, RecordedAccount
from collector.capture.blocks import Place, build_block
from collector.capture.budget import ByteBudget, Lease
from collector.capture.format_watch import FormatWatch
from collector.capture.formats import FormatBook
from collector.capture.sizing import block_need_bytes
from collector.capture.visit import Ask, LooseGap, Visit, Worker
from collector.decode import ring
from collector.ledger import MALFORMED, KernelCounts, ReaderCounts
from collector.tracefs.stats import CpuStats

GAP_SOURCE = "page"  # the flag of a sub-buffer told of the loss
SKIPPED_SHORT = "short"  # an entry without room for the common head
IMPOSSIBLE_LOSS = 1 << 48  # entries; a page that claims more is damaged, and sums of such leave 64 bits


class Stream:
    """The reader of one CPU's ring, a sub-buffer at a time; capture/pipe.py has that of text pipes.

    Args:
      key: names the stream everywhere.
      fd: its trace_pipe_raw, non-blocking; or a regular file with recorded sub-buffers.
      batch: leased by the caller for the stream's life.
      book: formats of the instance.
      read_stats: reads per_cpu/cpuN/stats; None where there is none, and gives None where there is none now.
      base: the kernel's counts when the run began.
      budget: for the blocks.
      keep_page: (key, reason, page) keeps a malformed page as evidence.
      block_age_s: closes a block at a flush.
    """

    account_type = Account
    gap_source = GAP_SOURCE
    is_live = True  # written while it is read: poll tells of it, and the writer may be on the page just taken

    def __init__(
        self,
        key: StreamKey,
        fd: int,
        batch: ring.Batch,
        book: FormatBook,
        read_stats: Callable[[], CpuStats | None] | None,
        base: KernelCounts,
        budget: ByteBudget,
        keep_page: Callable[[StreamKey, str, bytes], None],
        block_age_s: float,
    ) -> None:
        self.key = key
        self.fd = fd
        self.lease: Lease | None = None  # for the next block, when it had to be waited for
        self.decode_errors: dict[str, int] = {}  # {reason: pages}
        self.problem: str | None = None  # why what is read is not what it should be, for /readyz
        self.account = self.account_type(read_stats, base)
        self._batch = batch
        self._formats = FormatWatch(book, batch, self._was_reset, is_live=self.is_live)
        self._budget = budget
        self._keep_page = keep_page
        self._block_age_s = block_age_s
        self._opened_s = 0.0  # when the batch got its first page
        self._malformed: list[LooseGap] = []  # told when the entries before them are in a block
        self._last_ts: int | None = None  # of the last entry that is in a block

    @property
    def reader_bytes(self) -> int:
        return self._batch.total_bytes

    @property
    def reader_pages(self) -> int:
        return self._batch.total_pages

    @property
    def decoded(self) -> int:
        return self._batch.total_entries

    @property
    def skipped(self) -> Mapping[str, int]:
        """{reason: entries} that were passed over one by one."""
        return {SKIPPED_SHORT: self._batch.total_skipped} if self._batch.total_skipped else {}

    def counts(self) -> ReaderCounts:
        """What the ledger compares with the kernel; not while a visit is under way, as for totals().

        Others take what the last sample has: the open batch changes without the GIL.
        """
        lost = [gap.lost for gap in self._open_gaps()]
        return self.account.counts(self.decoded, self.skipped, lost)

    def totals(self) -> Totals:
        """The stream's running totals: what its blocks hold, and what the last sample said."""
        return self.account.totals(self.counts(), self.reader_pages, self.decode_errors)

    def visit(self, worker: Worker, ask: Ask, max_bytes: int) -> Visit:
        """Read, decode and encode what there is, up to max_bytes of sub-buffers."""
        visit = Visit()
        batch, formats = self._batch, self._formats
        left = max_bytes
        again = bool(ask & (Ask.FLUSH | Ask.SAMPLE))
        if self.lease is not None:
            self._close(worker, visit)  # before the block outgrows the lease that it waited for
        if formats.is_on(ask) and formats.renew():
            if not self._close(worker, visit):
                return visit
            formats.adopt()
        first, known = len(batch), formats.known
        while True:
            if len(batch) == 0 and batch.raw_bytes == 0:
                self._opened_s = time.monotonic()
            before = batch.total_bytes
            status, detail = batch.fill(self.fd, left)
            left = max(0, left - (batch.total_bytes - before))  # the last page goes over the limit
            if status == ring.UNKNOWN:
                assert detail is not None
                formats.learn(detail)
            elif status in ring.REASONS:
                self._note_malformed(ring.REASONS[status], detail)
                # The gap stands behind the entries before it, so these are a block of their own.
                formats.check(ask, first, known)
                if not self._close(worker, visit):
                    return visit
                formats.adopt()
                first, known = len(batch), formats.known
            elif status == ring.FULL:
                formats.check(ask, first, known)
                if not self._close(worker, visit):
                    return visit
                formats.adopt()
                first, known = 0, formats.known
            elif status == ring.PARTIAL and (again or not self.is_live):
                # A quiet ring is empty now and can be told so; a busy one gives a crumb more, once.
                again = False
            else:
                visit.at_end = status == ring.EMPTY
                visit.errno = detail if status == ring.FAILED else None
                break
        formats.check(ask, first, known)
        if ask & Ask.SAMPLE and visit.errno is None:
            self._sample(visit)
        if ask & Ask.CLOSE or (ask & Ask.FLUSH and time.monotonic() - self._opened_s >= self._block_age_s):
            self._close(worker, visit)
            if ask & Ask.CLOSE and len(batch) == 0:
                for gap in self._open_gaps():
                    self.account.add_loose_gap(visit, gap.lost, "no entry follows")
                batch.reset()
        return visit

    def _close(self, worker: Worker, visit: Visit) -> bool:
        """Encode the batch into a block; False when the budget has no room for it now."""
        batch = self._batch
        if len(batch) == 0:
            # Gaps without an entry after them wait for one: a block has at least one entry.
            batch.reset(keep_gaps=True)
            self._tell_malformed(visit)
            return True
        needed = block_need_bytes(batch.raw_bytes, len(batch), 1 + len(worker.filters))
        lease, self.lease = self.lease, None
        if lease is None:
            lease = self._budget.try_take(needed)
        if lease is None:
            visit.starved_bytes = needed
            return False
        place = Place(self.key, self.account.blocks, self.account.events)
        block = build_block(worker, batch, tuple(self._open_gaps()), self._formats, place)
        bodies = {id(of.body): len(of.body) for of in (block, *block.variants) if of is not None}
        lease.shrink(sum(bodies.values()))
        visit.blocks.append((block, lease))
        self.account.add_block(block)
        self._last_ts = block.last_ts
        batch.reset()
        self._formats.note_closed()
        self._tell_malformed(visit)
        return True

    def _was_reset(self) -> bool:
        """Whether the ring was cleared since the last look: ids may mean something else from there on."""
        return self.account.was_reset(self.decoded + sum(self.skipped.values()), self.counts)

    def _sample(self, visit: Visit) -> None:
        self.account.sample(visit, self.counts(), visit.at_end)

    def _open_gaps(self) -> list[Missed]:
        """The gaps of the open batch."""
        return [
            Missed(at, lost if lost is None or lost < IMPOSSIBLE_LOSS else None, self.gap_source)
            for at, lost in self._batch.gap_list
        ]

    def _note_malformed(self, reason: str, size_bytes: int | None) -> None:
        """Keep a malformed page, and a gap for what stood behind its fault."""
        batch = self._batch
        self.decode_errors[reason] = self.decode_errors.get(reason, 0) + 1
        self._keep_page(self.key, reason, batch.bad_page()[:size_bytes])
        detail = f"{reason} at byte {batch.fault_offset} of a sub-buffer"
        from_ts = batch.last_ts if len(batch) else self._last_ts
        self._malformed.append(LooseGap(None, detail, MALFORMED, from_ts))

    def _tell_malformed(self, visit: Visit) -> None:
        visit.loose_gaps += [gap._replace(after=len(visit.blocks)) for gap in self._malformed]
        self._malformed.clear()


class RecordedStream(Stream):
    """The reader of one CPU's sub-buffers in a regular file."""

    account_type = RecordedAccount
