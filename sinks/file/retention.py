"""Which sealed segments of an archive go. Pure.

The oldest go first, for four reasons: all together are too large, the disk has too little room, they are too old, or
a newer one is gone already (they were pinned then). What is pinned never goes and does not count as part of the
archive's size; what somebody has not acknowledged yet does not go either, but counts. The newest stays, however small
the limits, unless it is too old.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collector.batch import StreamKey


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed segment."""

    path: Path
    size_bytes: int
    start_ns: int  # wall time
    end_ns: int  # wall time at which it was sealed
    last_blocks: Mapping[StreamKey, int] | None = None  # {stream: number of its last block}; None: of an earlier run

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may stay."""

    max_bytes: int
    max_age_s: float | None  # since a segment was sealed; None: as long as there is room


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done."""

    remove: list[Sealed] = field(default_factory=list)  # in this order
    pinned_bytes: int = 0
    waiting_bytes: int = 0  # of those that would go, but are not acknowledged
    passed_over: bool = False  # something older than the last of `remove` stays


def choose(
    segments: Sequence[Sealed],
    limits: Limits,
    *,
    open_bytes: int,
    missing_bytes: int,
    now_ns: int,
    removed_up_to: str,
    is_pinned: Callable[[Sealed], bool],
    is_acknowledged: Callable[[Sealed], bool],
) -> Choice:
    """Decide on a look at the archive.

    Args:
      segments: all that are sealed, oldest first.
      open_bytes: of the segment that is being written.
      missing_bytes: how much more must become free on the disk; 0 when there is room.
      now_ns: wall time.
      removed_up_to: name of the newest segment that was removed before older ones; "" for none.
    """
    pinned = [is_pinned(segment) for segment in segments]
    pinned_bytes = sum(segment.size_bytes for segment, stays in zip(segments, pinned, strict=True) if stays)
    total_bytes = sum(segment.size_bytes for segment in segments) - pinned_bytes + open_bytes
    remove: list[Sealed] = []
    waiting_bytes, stays, passed_over = 0, False, False
    for at, segment in enumerate(segments):
        too_old = limits.max_age_s is not None and now_ns - segment.end_ns > limits.max_age_s * 10**9
        too_much = at < len(segments) - 1 and (total_bytes > limits.max_bytes or missing_bytes > 0)
        left_behind = segment.name <= removed_up_to
        if pinned[at] or not (too_old or too_much or left_behind):
            stays = True
        elif not is_acknowledged(segment):
            stays = True
            waiting_bytes += segment.size_bytes
        else:
            remove.append(segment)
            passed_over = stays
            total_bytes -= segment.size_bytes
            missing_bytes -= segment.size_bytes
    return Choice(remove, pinned_bytes, waiting_bytes, passed_over)
