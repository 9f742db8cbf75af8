"""Which segments go."""

from collections.abc import Collection
from pathlib import Path

from sinks.file.retention import Choice, Limits, Sealed, choose

S = 10**9


def segment(number: int, size_bytes: int = 10) -> Sealed:
    """Sealed ten seconds after it was begun, as the next one begins."""
    return Sealed(Path(f"/archive/{number:03}.ftseg"), size_bytes, number * 10 * S, (number + 1) * 10 * S)


def decide(
    count: int = 5,
    *,
    max_bytes: int = 1 << 40,
    max_age_s: float | None = None,
    missing_bytes: int = 0,
    now_s: int = 100,
    removed_up_to: str = "",
    pinned: Collection[int] = (),
    not_acknowledged: Collection[int] = (),
    open_bytes: int = 0,
) -> Choice:
    segments = [segment(number) for number in range(count)]
    return choose(
        segments, Limits(max_bytes, max_age_s), open_bytes=open_bytes, missing_bytes=missing_bytes, now_ns=now_s * S,
        removed_up_to=removed_up_to, is_pinned=lambda s: segments.index(s) in pinned,
        is_acknowledged=lambda s: segments.index(s) not in not_acknowledged,
    )  # fmt: skip


def gone(choice: Choice) -> list[int]:
    return [int(s.path.stem) for s in choice.remove]


def test_everything_stays_below_the_limits() -> None:
    assert decide(max_bytes=50, max_age_s=1000) == Choice()


def test_the_oldest_go_until_the_size_is_right() -> None:
    assert gone(decide(max_bytes=30)) == [0, 1]
    assert gone(decide(max_bytes=30, open_bytes=5)) == [0, 1, 2]


def test_the_newest_stays_however_small_the_limit() -> None:
    assert gone(decide(max_bytes=1)) == [0, 1, 2, 3]
    assert gone(decide(1, missing_bytes=1000)) == []


def test_the_oldest_go_until_the_disk_has_room() -> None:
    assert gone(decide(missing_bytes=11)) == [0, 1]


def test_what_is_too_old_goes_and_the_newest_too() -> None:
    assert gone(decide(max_age_s=70, now_s=100)) == [0, 1]  # sealed at 10 and 20
    assert gone(decide(max_age_s=10, now_s=100)) == [0, 1, 2, 3, 4]


def test_what_is_pinned_never_goes_and_does_not_count() -> None:
    choice = decide(max_bytes=20, pinned=[1, 2])
    assert gone(choice) == [0]  # 3 and 4 fit
    assert (choice.pinned_bytes, choice.passed_over) == (20, False)
    choice = decide(max_bytes=10, max_age_s=1, missing_bytes=1000, pinned=[1, 2])
    assert gone(choice) == [0, 3, 4]
    assert choice.passed_over  # a hole: to be told before it is made


def test_what_is_not_acknowledged_stays_and_is_told() -> None:
    choice = decide(max_bytes=20, not_acknowledged=[0, 1])
    assert gone(choice) == [2, 3]  # the others make what room they can
    assert (choice.waiting_bytes, choice.passed_over) == (20, True)
    choice = decide(max_bytes=20, missing_bytes=1000, not_acknowledged=range(5))
    assert (gone(choice), choice.waiting_bytes) == ([], 40)  # the newest need not go


def test_nobody_is_asked_about_what_need_not_go() -> None:
    def never(_: Sealed) -> bool:
        raise AssertionError

    choose([segment(0)], Limits(1000, None), open_bytes=0, missing_bytes=0, now_ns=0, removed_up_to="",
           is_pinned=lambda _: False, is_acknowledged=never)  # fmt: skip


def test_what_a_pin_held_goes_when_newer_ones_are_gone() -> None:
    """Else the archive would keep a hole."""
    assert gone(decide(removed_up_to="002.ftseg")) == [0, 1, 2]
    assert gone(decide(removed_up_to="002.ftseg", pinned=[1])) == [0, 2]
