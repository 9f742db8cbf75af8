"""The ledger's identities: the kernel's numbers and the reader's beside what must follow from them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.ledger import (
    IDENTITY_OVERRUN,
    IDENTITY_READ,
    KernelCounts,
    ReaderCounts,
    Reset,
    Unproven,
    balance,
)
from collector.tracefs.stats import CpuStats


def stats(**counts: int) -> CpuStats:
    values = {"entries": 0, "overrun": 0, "commit_overrun": 0, "dropped_events": 0, "read_events": 0} | counts
    return CpuStats(bytes=0, oldest_event_ts=None, now_ts=None, ts_is_ns=True, **values)


# ---- entries read


@pytest.mark.parametrize(
    ("read", "decoded", "skipped", "residual"),
    [
        (0, 0, {}, 0),
        (100, 100, {}, 0),
        (100, 97, {"short": 3}, 0),
        (100, 99, {}, 1),  # an entry is missing
        (100, 101, {}, 1),  # an entry too many
        (100, 97, {"short": 2}, 1),
        (100, 97, {"short": 4}, 1),
    ],
)
def test_entries_read_are_decoded_or_skipped(read: int, decoded: int, skipped: dict[str, int], residual: int) -> None:
    got = balance(KernelCounts(read=read), ReaderCounts(decoded, skipped), settled=True)
    assert got.residual == {IDENTITY_READ: residual, IDENTITY_OVERRUN: 0}
    assert got.total == residual


def test_what_nobody_has_seen_is_unexplained_and_balances_nothing() -> None:
    got = balance(KernelCounts(read=100), ReaderCounts(80, {"short": 2}), settled=True)
    assert got.unexplained == 18
    assert got.residual[IDENTITY_READ] == 18


def test_entries_too_many_are_no_unexplained_ones() -> None:
    got = balance(KernelCounts(read=100), ReaderCounts(103), settled=True)
    assert (got.unexplained, got.residual[IDENTITY_READ]) == (0, 3)


@pytest.mark.parametrize(
    ("pages", "unexplained", "is_nothing", "words"),
    [
        (0, 0, True, ""),
        (0, None, True, ""),
        (2, 0, True, "2 malformed sub-buffers, no entry unexplained"),
        (2, 9, False, "2 malformed sub-buffers, 9 entries unexplained"),
        (2, None, False, "2 malformed sub-buffers, what they held behind their faults is not known"),
        (0, 9, False, "9 entries unexplained"),
    ],
)
def test_one_story_of_what_cannot_be_proven(pages: int, unexplained: int | None, is_nothing: bool, words: str) -> None:
    found = Unproven(pages, unexplained)
    assert (found.is_nothing, str(found)) == (is_nothing, words)


def test_stories_add_up_to_what_is_known_of_all() -> None:
    assert Unproven(1, 2) + Unproven(3, 4) == Unproven(4, 6)
    assert Unproven(1, 2) + Unproven(0, None) == Unproven(1, None)


# ---- entries overwritten


@pytest.mark.parametrize(
    ("overrun", "known", "unknown_gaps", "residual", "held"),
    [
        (0, 0, 0, 0, 0),
        (50, 50, 0, 0, 0),
        (50, 40, 0, 10, 0),  # nothing explains the ten
        (50, 60, 0, 10, 0),
        (50, 40, 1, 0, 10),  # the gap without a count held ten
        (50, 50, 2, 0, 0),  # ... or nothing
        (50, 60, 2, 10, 0),  # no gap holds less than nothing
    ],
)
def test_overwritten_entries_are_in_gaps(overrun: int, known: int, unknown_gaps: int, residual: int, held: int) -> None:
    reader = ReaderCounts(gap_known=known, gaps=unknown_gaps + 1, unknown_gaps=unknown_gaps)
    got = balance(KernelCounts(overrun=overrun), reader, settled=True)
    assert got.residual == {IDENTITY_READ: 0, IDENTITY_OVERRUN: residual}
    assert got.unknown_held == held


def test_overrun_is_open_until_the_ring_was_read_to_its_end() -> None:
    got = balance(KernelCounts(overrun=50, read=10), ReaderCounts(decoded=10), settled=False)
    assert got.residual == {IDENTITY_READ: 0, IDENTITY_OVERRUN: None}
    assert got.unknown_held is None
    assert got.total is None


def test_dropped_entries_are_lost_but_in_no_identity() -> None:
    kernel = KernelCounts(overrun=5, dropped=7, commit_overrun=9)
    assert kernel.lost == 21
    assert balance(kernel, ReaderCounts(gap_known=5, gaps=1), settled=True).total == 0


def test_reader_counts_begin_at_nothing() -> None:
    assert balance(KernelCounts(), ReaderCounts(), settled=True).total == 0


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 20), st.integers(0, 1 << 40), st.integers(0, 1 << 20))
def test_numbers_that_agree_leave_no_residual(decoded: int, short: int, known: int, held: int) -> None:
    kernel = KernelCounts(overrun=known + held, read=decoded + short)
    reader = ReaderCounts(decoded, {"short": short}, known, 1, int(held > 0))
    got = balance(kernel, reader, settled=True)
    assert got.total == 0
    assert got.unknown_held == held


# ---- resets


def test_counts_are_relative_to_the_base() -> None:
    counts = Reset(KernelCounts(1, 2, 3, 4, 5)).advance(KernelCounts(11, 12, 13, 14, 15))
    assert counts == KernelCounts(10, 10, 10, 10, 15)  # entries in the ring are what they are


def test_counts_of_a_stats_file_are_taken_as_they_are() -> None:
    got = KernelCounts.of(stats(entries=1, overrun=2, commit_overrun=3, dropped_events=4, read_events=5))
    assert got == KernelCounts(overrun=2, dropped=4, commit_overrun=3, read=5, entries=1)


def test_counts_go_on_growing_over_a_reset_by_somebody_else() -> None:
    reset = Reset(KernelCounts(overrun=100, read=1000))
    assert reset.advance(KernelCounts(overrun=110, read=1500)) == KernelCounts(overrun=10, read=500)
    assert reset.advance(KernelCounts(overrun=0, read=20, entries=3)) == KernelCounts(overrun=10, read=520, entries=3)
    assert reset.advance(KernelCounts(overrun=4, read=30)) == KernelCounts(overrun=14, read=530)
    assert reset.resets == 1


def test_what_was_read_between_a_look_and_a_reset_is_not_missed() -> None:
    """The kernel has forgotten it, the reader has not."""
    reset = Reset(KernelCounts(read=1000))
    reset.advance(KernelCounts(read=1500, overrun=10), ReaderCounts(decoded=500, gap_known=10))
    # 200 more read and 7 more overwritten, then the reset, then 40 and 3.
    kernel = reset.advance(
        KernelCounts(read=40, overrun=3), ReaderCounts(decoded=738, skipped={"short": 2}, gap_known=20)
    )
    assert kernel == KernelCounts(read=740, overrun=20)
    kernel = reset.advance(KernelCounts(read=50, overrun=3), ReaderCounts(748, {"short": 2}, gap_known=20))
    assert kernel == KernelCounts(read=750, overrun=20)
    assert reset.resets == 1


def test_a_reset_does_not_hide_an_entry_that_somebody_else_took() -> None:
    reset = Reset(KernelCounts())
    reset.advance(KernelCounts(read=500), ReaderCounts(decoded=500))
    assert reset.advance(KernelCounts(read=40), ReaderCounts(decoded=530)).read == 540


def test_each_reset_is_counted() -> None:
    reset = Reset(KernelCounts(read=10))
    for read, total in ((20, 10), (5, 15), (4, 19), (9, 24)):
        assert reset.advance(KernelCounts(read=read)).read == total
    assert reset.resets == 2


def test_reset_before_the_first_look_is_noticed() -> None:
    reset = Reset(KernelCounts(read=1000))
    assert reset.advance(KernelCounts(read=7)).read == 7
    assert reset.resets == 1


def test_what_was_read_between_the_last_look_and_a_reset_is_told_by_the_reader() -> None:
    """The kernel's own count of it went with the reset."""
    reset = Reset(KernelCounts())
    reset.advance(KernelCounts(read=100, overrun=10), ReaderCounts(100, gap_known=10))
    # 7 more were read, 5 of them before the reset; 3 more overwritten entries were told of, 1 since then
    counts = reset.advance(KernelCounts(read=2, overrun=1), ReaderCounts(106, {"short": 1}, gap_known=13))
    assert (counts.read, counts.overrun) == (107, 13)
    counts = reset.advance(KernelCounts(read=4, overrun=1), ReaderCounts(108, {"short": 1}, gap_known=13))
    assert (counts.read, counts.overrun, reset.resets) == (109, 13, 1)


def test_reset_shows_when_the_counters_have_passed_their_old_values_again() -> None:
    reset = Reset(KernelCounts())
    reset.advance(KernelCounts(read=100), ReaderCounts(100))
    # 30 more, a reset, and 250 since then: no counter is smaller than it was
    counts = reset.advance(KernelCounts(read=250), ReaderCounts(380))
    assert (counts.read, reset.resets) == (380, 1)


@pytest.mark.parametrize("field", ["overrun", "dropped", "commit_overrun", "read"])
def test_any_count_that_goes_backwards_is_a_reset(field: str) -> None:
    reset = Reset(KernelCounts(9, 9, 9, 9))
    reset.advance(KernelCounts(**({"overrun": 9, "dropped": 9, "commit_overrun": 9, "read": 9} | {field: 8})))
    assert reset.resets == 1


def test_ring_that_empties_is_no_reset() -> None:
    reset = Reset(KernelCounts(entries=50))
    reset.advance(KernelCounts(entries=0))
    assert reset.resets == 0


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), max_size=20))
def test_no_entry_is_counted_twice_or_missed_over_resets(steps: list[tuple[int, bool]]) -> None:
    """Each step: so many entries are read and seen, then perhaps somebody clears the counters."""
    reset, read, total = Reset(KernelCounts(read=0)), 0, 0
    for entries, clear in steps:
        read += entries
        total += entries
        assert reset.advance(KernelCounts(read=read)).read == total
        if clear:
            read = 0
            assert reset.advance(KernelCounts(read=0)).read == total
