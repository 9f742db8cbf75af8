"""Pieces of rows are joined up to a limit."""

import pytest

from sinks.forward.chunks import Chunks
from sinks.forward.records import Rows


@pytest.mark.parametrize(
    ("pieces", "chunks"),
    [
        ([], []),
        ([3], [3]),
        ([3, 4, 3], [10]),
        ([3, 4, 4, 3], [7, 7]),
        ([30], [30]),
        ([1, 30, 1], [1, 30, 1]),
    ],
)
def test_chunks_are_as_large_as_the_limit_lets_them(pieces: list[int], chunks: list[int]) -> None:
    made = Chunks((Rows(bytes(size), 1) for size in pieces), 10)
    found = []
    while (chunk := made.next()) is not None:
        found.append(chunk)
        assert made.is_at_end == (len(found) == len(chunks))  # it is known with the last one
    assert [sum(map(len, chunk.rows)) for chunk in found] == chunks
    assert sum(chunk.count for chunk in found) == len(pieces)
    assert made.is_at_end
