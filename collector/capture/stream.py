"""One CPU of one instance: from its ring to blocks, and the counts of its ledger.

All methods but the counters run in a worker thread, one at a time per stream.
"""

import enum
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgpack

from collector.archive.totals import Totals
from collector.batch import MODE_RAW, MODE_TYPED, Block, KindCount, Missed, StreamKey
from collector.capture.budget import ByteBudget, Lease
from collector.capture.filters import EventFilter
from collector.capture.formats import FormatBook
from collector.decode import ring
from collector.decode.columns import Encoder
from collector.ledger import Balance, KernelCounts, ReaderCounts, Reset, balance
from collector.tracefs.stats import CpuStats

GAP_SOURCE = "page"  # the flag of a sub-buffer told of the loss
SKIPPED_SHORT = "short"  # an entry without room for the common head
IMPOSSIBLE_LOSS = 1 << 48  # entries; a page that claims more is damaged, and sums of such leave 64 bits
ENTRY_BYTES = 20  # of a batch's index per entry
BLOCK_HEAD_BYTES = 4096  # what a block's body needs beside its columns, generously

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
    """Overwritten entries that no block can tell of, for no entry of this run follows them."""

    lost: int | None  # None: unknown
    detail: str


@dataclass(slots=True)
class Visit:
    """What a visit brought."""

    blocks: list[tuple[Block, Lease]] = field(default_factory=list)
    starved_bytes: int = 0  # of budget that the next block needs before reading can go on
    sample: Sample | None = None
    loose_gaps: list[LooseGap] = field(default_factory=list)
    at_end: bool = False  # the ring was empty
    errno: int | None = None  # read() failed


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
        self.last_sample: Sample | None = None
        self.decode_errors: dict[str, int] = {}  # {reason: pages}
        self._batch = batch
        self._book = book
        self._edition = book.edition  # of the open batch
        self._ambiguous: set[int] = set()  # ids that are kept as bytes in the open batch, for they may be two events
        self._was_checked = False  # a ring that nothing was read of can't show a reset: the first entries are checked
        self._read_stats = read_stats
        self._reset = Reset(base)
        self._budget = budget
        self._keep_page = keep_page
        self._block_age_s = block_age_s
        self._opened_s = 0.0  # when the batch got its first page
        self._blocks = 0
        self._raw_bytes = 0  # of closed blocks
        self._ordinal = 0
        self._gaps = self._gap_known = self._unknown_gaps = 0  # of closed blocks, and loose ones
        self._untold: str | None = None  # why no gap tells of all overwritten entries; settled once

    def continue_after_crash(self) -> None:
        """The base is an earlier run's, which may have been told of losses that it did not archive.

        How many, shows when the ring is drained: what the gaps that this run was told of do not explain.
        """
        self._untold = "told to an earlier run that did not archive it"

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
    def closed_gaps(self) -> tuple[int, int, int]:
        """(gaps, sum of their counts, those without a count) of the blocks so far; at any time, unlike counts()."""
        return self._gaps, self._gap_known, self._unknown_gaps

    @property
    def skipped(self) -> Mapping[str, int]:
        """{reason: entries} that were passed over one by one."""
        return {SKIPPED_SHORT: self._batch.total_skipped} if self._batch.total_skipped else {}

    @property
    def malformed_pages(self) -> int:
        """Those whose entries only the kernel has counted."""
        return sum(self.decode_errors.values())

    def counts(self) -> ReaderCounts:
        """What the ledger compares with the kernel; not while a visit is under way, as for totals().

        Others take what the last sample has: the open batch changes without the GIL.
        """
        lost = [gap.lost for gap in self._open_gaps()]
        return ReaderCounts(
            decoded=self.decoded,
            skipped=self.skipped,
            malformed_pages=self.malformed_pages,
            gap_known=self._gap_known + sum(count for count in lost if count is not None),
            gaps=self._gaps + len(lost),
            unknown_gaps=self._unknown_gaps + lost.count(None),
        )

    def totals(self) -> Totals:
        """The stream's running totals: what its blocks hold, and what the last sample said.

        Settled only when every entry of the sample is in a block.
        """
        sample = self.last_sample
        reader = self.counts()
        held = sample is not None and sample.reader.decoded == self._ordinal and reader.gaps == self._gaps
        kernel = sample.kernel if sample is not None else KernelCounts()
        return Totals(
            blocks=self._blocks,
            events=self._ordinal,
            raw_bytes=self._raw_bytes,
            gaps=self._gaps,
            gap_known_events=self._gap_known,
            unknown_gaps=self._unknown_gaps,
            pages=self.reader_pages,
            skipped=dict(sample.balance.skipped) if sample is not None else dict(self.skipped),
            decode_errors=dict(self.decode_errors),
            overrun=kernel.overrun,
            dropped=kernel.dropped,
            commit_overrun=kernel.commit_overrun,
            read=kernel.read,
            entries=kernel.entries,
            residual=sample.balance.total if sample is not None and held else None,
            settled=sample is not None and sample.settled and held,
            left_in_kernel=0,
        )

    def visit(self, worker: Worker, ask: Ask, max_bytes: int) -> Visit:
        """Read, decode and encode what there is, up to max_bytes of sub-buffers."""
        visit = Visit()
        batch = self._batch
        left = max_bytes
        again = bool(ask & (Ask.FLUSH | Ask.SAMPLE))
        if self.lease is not None:
            self._close(worker, visit)  # before the block outgrows the lease that it waited for
        if self._watches_formats(ask) and not self._renew_formats(worker, visit):
            return visit
        first, known = len(batch), len(self._edition.plan.events)
        while True:
            if len(batch) == 0 and batch.raw_bytes == 0:
                self._opened_s = time.monotonic()
            before = batch.total_bytes
            status, detail = batch.fill(self.fd, left)
            left = max(0, left - (batch.total_bytes - before))  # the last page goes over the limit
            if status == ring.UNKNOWN:
                assert detail is not None
                self._book.learn(detail, self._edition)
            elif status in ring.REASONS:
                self._note_malformed(ring.REASONS[status], detail)
            elif status == ring.FULL:
                self._check_formats(ask, first, known)
                if not self._close(worker, visit):
                    return visit
                self._adopt_formats()
                first, known = 0, len(self._edition.plan.events)
            elif status == ring.PARTIAL and (again or not self.is_live):
                # A quiet ring is empty now and can be told so; a busy one gives a crumb more, once.
                again = False
            else:
                visit.at_end = status == ring.EMPTY
                visit.errno = detail if status == ring.FAILED else None
                break
        self._check_formats(ask, first, known)
        if ask & Ask.SAMPLE and visit.errno is None:
            visit.sample = self._sample(visit, visit.at_end)
        if ask & Ask.CLOSE or (ask & Ask.FLUSH and time.monotonic() - self._opened_s >= self._block_age_s):
            self._close(worker, visit)
            if ask & Ask.CLOSE and len(batch) == 0:
                for gap in self._open_gaps():
                    self._add_loose_gap(visit, gap.lost, "no entry follows")
                batch.reset()
        return visit

    def _close(self, worker: Worker, visit: Visit) -> bool:
        """Encode the batch into a block; False when the budget has no room for it now."""
        batch = self._batch
        if len(batch) == 0:
            # Gaps without an entry after them wait for one: a block has at least one entry.
            batch.reset(keep_gaps=True)
            return True
        needed = (batch.raw_bytes + ENTRY_BYTES * len(batch) + BLOCK_HEAD_BYTES) * (1 + len(worker.filters))
        lease, self.lease = self.lease, None
        if lease is None:
            lease = self._budget.try_take(needed)
        if lease is None:
            visit.starved_bytes = needed
            return False
        block = self._build_block(worker)
        bodies = {id(of.body): len(of.body) for of in (block, *block.variants) if of is not None}
        lease.shrink(sum(bodies.values()))
        visit.blocks.append((block, lease))
        self._blocks += 1
        self._ordinal += block.events
        self._raw_bytes += block.raw_bytes
        self._gaps += len(block.gaps)
        self._gap_known += sum(gap.lost for gap in block.gaps if gap.lost is not None)
        self._unknown_gaps += sum(gap.lost is None for gap in block.gaps)
        batch.reset()
        self._ambiguous.clear()
        return True

    def _watches_formats(self, ask: Ask) -> bool:
        """Whether this visit looks for ids that have changed their meaning.

        Two looks at `stats` cost as much as reading 100 KiB. Events that the kernel was built with stay; a module's
        go too seldom for a look at each visit.
        """
        return self._book.is_renewable and (self._book.has_dynamic or bool(ask & Ask.SAMPLE))

    def _renew_formats(self, worker: Worker, visit: Visit) -> bool:
        """Before anything is read: what is in the batch already means what it meant.

        Returns: False when the batch has to be closed first, and the budget has no room for it now.
        """
        if self._was_reset():
            self._book.renew(self._edition)
        if self._edition is not self._book.edition:
            if not self._close(worker, visit):
                return False
            self._adopt_formats()
        return True

    def _adopt_formats(self) -> None:
        """Go on with the latest formats; the batch has no entry."""
        if self._edition is not self._book.edition:
            self._edition = self._book.edition
            self._batch.adopt(self._edition.plan)

    def _check_formats(self, ask: Ask, first: int, known: int) -> None:
        """After reading: entries of events that have changed meanwhile are kept as bytes.

        Args:
          first: index of the first entry that was read since the last check.
          known: events that were known at the last check; what was learnt since may be newer than the entry.
        """
        if not self._watches_formats(ask) or len(self._batch) == first:
            return
        was_reset = self._was_reset()
        if self._was_checked and not was_reset and self.is_live:  # a recorder is read seldom, and its resets don't show
            return
        self._was_checked = True
        stale = self._book.renew(self._edition)
        if was_reset:
            stale |= frozenset(list(self._edition.plan.events)[known:])
        if stale:
            self._batch.keep_raw(first, stale)
            self._ambiguous |= stale

    def _was_reset(self) -> bool:
        """Whether the ring was cleared since the last look: ids may mean something else from there on."""
        if self._read_stats is None:
            return False
        stats = self._read_stats()
        if stats is None:
            return False
        counts = KernelCounts.of(stats)
        if not self._reset.shows_in(counts, self.decoded + sum(self.skipped.values())):
            return False
        self._reset.advance(counts, self.counts())
        return True

    def _object_id(self, event_id: int, *, is_raw: bool) -> bytes:
        if is_raw and event_id in self._ambiguous:
            return self._book.unknown_object_id(event_id)
        return self._edition.object_id(event_id)

    def _build_block(self, worker: Worker) -> Block:
        """Encode everything, and what each filter leaves of it."""
        block = self._encode(worker, None)
        if not worker.filters:
            return block
        events = self._edition.plan.events
        ids = [event_id for event_id, _, _ in worker.encoder.kinds]
        names = {event_id: f"{events[event_id].system}:{events[event_id].name}" for event_id in ids}
        variants: list[Block | None] = []
        for of in worker.filters:
            wanted = {event_id for event_id, name in names.items() if of.takes(name)}
            if len(wanted) == len(names):
                variants.append(block)
            else:
                variants.append(self._encode(worker, wanted) if wanted else None)
        return replace(block, variants=tuple(variants))

    def _encode(self, worker: Worker, wanted: Collection[int] | None) -> Block:
        """Encode the batch, or its entries of some events."""
        batch, encoder = self._batch, worker.encoder
        encoder.encode(batch, wanted)
        kinds = tuple(
            KindCount(self._object_id(event_id, is_raw=raw), MODE_RAW if raw else MODE_TYPED, entries)
            for event_id, raw, entries in encoder.kinds
        )
        gaps = tuple(self._open_gaps())
        if wanted is not None:
            gaps = tuple(gap._replace(at=encoder.count_before(batch, gap.at)) for gap in gaps)
        key = self.key
        body = msgpack.packb(
            {
                "run": key.run,
                "inst": key.instance,
                "cpu": key.cpu,
                "no": self._blocks,
                "ord": self._ordinal,
                "n": encoder.entries,
                "t0": encoder.first_ts,
                "t1": encoder.last_ts,
                "raw": batch.raw_bytes,
                "gaps": gaps,
                "kinds": kinds,
                "codec": worker.codec,
                "size": encoder.size_bytes,
                "cols": encoder.compress(worker.compress),
            }
        )
        return Block(
            key, self._blocks, self._ordinal, encoder.entries, encoder.first_ts, encoder.last_ts, batch.raw_bytes, gaps,
            kinds, encoder.pids, encoder.addresses, body,
        )  # fmt: skip

    def _sample(self, visit: Visit, settled: bool) -> Sample | None:
        if self._read_stats is None:
            return None
        stats = self._read_stats()
        if stats is None:
            return None
        settled = settled and stats.entries == 0
        reader = self.counts()
        kernel = self._reset.advance(KernelCounts.of(stats), reader)
        if self._untold is not None and settled:
            detail, self._untold = self._untold, None
            untold = kernel.overrun - reader.gap_known
            if untold > 0 and reader.unknown_gaps == 0:
                self._add_loose_gap(visit, untold, detail)
                reader = self.counts()
        reader = self._explained(kernel, reader)
        result = balance(kernel, reader, settled)
        self.last_sample = Sample(
            time.time_ns(), stats.now_ts, kernel, reader, result, settled, stats.bytes,
            stats.oldest_event_ts if stats.entries else None, self._reset.resets,
        )  # fmt: skip
        return self.last_sample

    def _explained(self, kernel: KernelCounts, reader: ReaderCounts) -> ReaderCounts:
        """The reader's counts with what only the kernel's tell; a ring's sub-buffers tell all."""
        return reader

    def _open_gaps(self) -> list[Missed]:
        """The gaps of the open batch."""
        return [
            Missed(at, lost if lost is None or lost < IMPOSSIBLE_LOSS else None, self.gap_source)
            for at, lost in self._batch.gap_list
        ]

    def _add_loose_gap(self, visit: Visit, lost: int | None, detail: str) -> None:
        visit.loose_gaps.append(LooseGap(lost, detail))
        self._gaps += 1
        self._gap_known += lost or 0
        self._unknown_gaps += lost is None

    def _note_malformed(self, reason: str, size_bytes: int | None) -> None:
        self.decode_errors[reason] = self.decode_errors.get(reason, 0) + 1
        self._keep_page(self.key, reason, self._batch.bad_page()[:size_bytes])
