"""How the memory budget is shared out between the streams, the workers and the queue. Pure."""

from dataclasses import dataclass

from collector.errors import ConfigError

ENTRY_BYTES = 20  # of a batch's index per entry
BLOCK_HEAD_BYTES = 4096  # what a block's body needs beside its columns, generously

# Of the budget: batches take at most this, so that blocks always find room beside them.
BATCH_SHARE = (5, 8)

# A batch ends at its pages or at its entries, whichever comes first. A sched or syscall entry has 36 to 72 bytes:
# at 32 the pages end first, and the index costs less than the pages.
ENTRY_RAW_BYTES = 32

# Scratch of an encoder per entry beside the encoded columns themselves, see Encoder.grow_to.
ENCODER_ENTRY_BYTES = 23

# And of one that encodes a part of the entries, see Encoder.choose.
CHOSEN_ENTRY_BYTES = 20


@dataclass(frozen=True, slots=True)
class BatchSize:
    """The memory of one stream's batch."""

    pages_bytes: int  # for sub-buffers; a multiple of their size
    capacity: int  # entries
    copies: int = 1  # blocks that are made of it: one, and one for each filter by event

    @property
    def size_bytes(self) -> int:
        """All that it takes."""
        return self.pages_bytes + ENTRY_BYTES * self.capacity

    @property
    def block_bytes(self) -> int:
        """The most that the blocks of it can need of the budget."""
        return block_need_bytes(self.pages_bytes, self.capacity, self.copies)

    @property
    def encoder_bytes(self) -> int:
        """The scratch memory of a worker that encodes it."""
        entry_bytes = ENCODER_ENTRY_BYTES + (CHOSEN_ENTRY_BYTES if self.copies > 1 else 0)
        return entry_bytes * self.capacity + (self.size_bytes * 3) // 2


def block_need_bytes(raw_bytes: int, entries: int, copies: int) -> int:
    """Of the budget, to make blocks of a batch: before they are made nobody knows how small they become.

    Args:
      raw_bytes: of sub-buffers in it.
      copies: blocks that are made of it.
    """
    return (raw_bytes + ENTRY_BYTES * entries + BLOCK_HEAD_BYTES) * copies


def batch_size(
    *,
    streams: int,
    workers: int,
    subbuf_bytes: int,
    entries_per_page: int,
    block_bytes: int,
    budget_bytes: int,
    copies: int = 1,
) -> BatchSize:
    """The largest batch, up to block_bytes of sub-buffers, that lets everything fit the budget.

    Raises:
      ConfigError: not even batches of one sub-buffer fit.
    """
    pages = max(1, block_bytes // subbuf_bytes)
    while True:
        capacity = entries_per_page + (pages - 1) * subbuf_bytes // ENTRY_RAW_BYTES
        size = BatchSize(pages * subbuf_bytes, capacity, copies)
        fixed = streams * size.size_bytes + workers * size.encoder_bytes
        if (
            streams * size.size_bytes * BATCH_SHARE[1] <= budget_bytes * BATCH_SHARE[0]
            and fixed + workers * size.block_bytes <= budget_bytes
        ):
            return size
        if pages == 1:
            raise ConfigError(
                "the memory budget is too small for the streams",
                where="capture.memory_budget_bytes",
                expected=f"at least {_needed(streams, workers, size)} bytes for {streams} streams with sub-buffers "
                f"of {subbuf_bytes} bytes",
                got=str(budget_bytes),
                hint="raise it, or lower trace.subbuf_size_kb or the number of CPUs",
            )
        pages -= 1


def _needed(streams: int, workers: int, size: BatchSize) -> int:
    batches = streams * size.size_bytes
    return max(
        batches * BATCH_SHARE[1] // BATCH_SHARE[0] + 1, batches + workers * (size.encoder_bytes + size.block_bytes)
    )
