"""How the budget is shared out: the parts fit, and the message says what would do."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from collector.capture.sizing import BatchSize, batch_size
from collector.errors import ConfigError

KIB, MIB = 1 << 10, 1 << 20
ENTRIES_64K = (64 * KIB - 16) // 12 + 1  # smallest records in a sub-buffer
ENTRIES_4K = 4080 // 12 + 1


def size_of(
    streams: int = 2,
    *,
    workers: int = 2,
    subbuf_bytes: int = 64 * KIB,
    block_bytes: int = MIB,
    budget_bytes: int = 64 * MIB,
) -> BatchSize:
    entries = (subbuf_bytes - 16) // 12 + 1
    return batch_size(
        streams=streams, workers=workers, subbuf_bytes=subbuf_bytes, entries_per_page=entries,
        block_bytes=block_bytes, budget_bytes=budget_bytes,
    )  # fmt: skip


def in_all(size: BatchSize, streams: int, workers: int) -> int:
    """Batches, the encoders' scratch, and a block for each worker."""
    return streams * size.size_bytes + workers * (size.encoder_bytes + size.block_bytes)


def test_two_streams_get_blocks_as_large_as_was_asked_for() -> None:
    size = size_of(2)
    assert size.pages_bytes == MIB
    assert size.capacity == ENTRIES_64K + 15 * 64 * KIB // 32


def test_sub_buffers_of_other_sizes_fill_the_block_too() -> None:
    assert size_of(2, subbuf_bytes=4 * KIB).pages_bytes == MIB
    assert size_of(2, subbuf_bytes=512 * KIB).pages_bytes == MIB


def test_block_smaller_than_a_sub_buffer_is_one_sub_buffer() -> None:
    assert size_of(2, block_bytes=1).pages_bytes == 64 * KIB


def test_128_streams_share_64_mib() -> None:
    size = size_of(128)
    assert size.pages_bytes >= 64 * KIB
    assert in_all(size, 128, 2) <= 64 * MIB
    assert 128 * size.size_bytes <= 40 * MIB  # 5 of 8 parts: the rest is for blocks


def test_batches_shrink_as_streams_grow() -> None:
    sizes = [size_of(streams, subbuf_bytes=4 * KIB).pages_bytes for streams in (1, 16, 64, 128, 512)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_too_small_a_budget_names_the_least_that_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        size_of(128, budget_bytes=MIB)
    message = str(caught.value)
    needed = re.search(
        r"^capture\.memory_budget_bytes: .*at least (\d+) bytes for 128 streams with sub-buffers of 65536 bytes; "
        r"got 1048576; raise it, or lower trace\.subbuf_size_kb or the number of CPUs$",
        message,
    )
    assert needed, message
    assert size_of(128, budget_bytes=int(needed[1])).pages_bytes == 64 * KIB
    with pytest.raises(ConfigError):
        size_of(128, budget_bytes=int(needed[1]) - 1)


@example(1, 1, 0, 1, 20)
@given(st.integers(1, 1024), st.integers(1, 16), st.integers(0, 7), st.integers(1, 4 * MIB), st.integers(20, 29))
def test_parts_never_exceed_the_budget(
    streams: int, workers: int, order: int, block_bytes: int, budget_bits: int
) -> None:
    subbuf_bytes, budget_bytes = 4 * KIB << order, (1 << budget_bits) - 1
    try:
        size = size_of(
            streams, workers=workers, subbuf_bytes=subbuf_bytes, block_bytes=block_bytes, budget_bytes=budget_bytes
        )
    except ConfigError:
        return  # and says so; how much is needed is tested above
    assert in_all(size, streams, workers) <= budget_bytes
    assert size.pages_bytes % subbuf_bytes == 0
    assert size.pages_bytes <= max(block_bytes, subbuf_bytes)
    assert size.capacity >= (subbuf_bytes - 16) // 12 + 1
