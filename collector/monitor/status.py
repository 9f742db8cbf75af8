"""One line that says how the collection goes, for a terminal and for systemd. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from collector.config.text import format_size
from collector.monitor.state import Snapshot, StreamSnapshot


@dataclass(frozen=True, slots=True)
class Status:
    """What the line says."""

    events_per_s: float
    lost_events: int
    archive_bytes: int
    ring_fill: float | None  # of the fullest ring, 0 to 1; None: unknown
    cpus: int
    suspended: bool


def build_status(now: Snapshot, before: Snapshot, elapsed_s: float) -> Status:
    """Compare two snapshots.

    Args:
      elapsed_s: between them; 0 gives a rate of 0.
    """
    decoded = sum(s.decoded_events for s in now.streams) - sum(s.decoded_events for s in before.streams)
    fills = [
        s.kernel_bytes / s.kernel_size_bytes for s in now.streams if s.kernel_bytes is not None and s.kernel_size_bytes
    ]
    return Status(
        events_per_s=max(0.0, decoded / elapsed_s) if elapsed_s > 0 else 0.0,
        lost_events=sum(s.lost_events or 0 for s in now.streams),
        archive_bytes=now.archive_bytes,
        ring_fill=min(1.0, max(fills)) if fills else None,
        cpus=len({s.cpu for s in now.streams}),
        suspended=now.archive_suspended,
    )


def predict_overrun(
    now: Sequence[StreamSnapshot], before: Sequence[StreamSnapshot], elapsed_s: float
) -> dict[str, float]:
    """{instance: seconds until the first of its rings is full if nobody reads it}, at the rate it fills now.

    An instance whose rings do not fill, or whose sizes are unknown, is left out.
    """
    found: dict[str, float] = {}
    earlier = {(s.instance, s.cpu): s.reader_bytes for s in before}
    for stream in now:
        filled = stream.reader_bytes - earlier.get((stream.instance, stream.cpu), stream.reader_bytes)
        if filled <= 0 or elapsed_s <= 0 or stream.kernel_size_bytes is None:
            continue
        left_s = max(0, stream.kernel_size_bytes - (stream.kernel_bytes or 0)) / (filled / elapsed_s)
        found[stream.instance] = min(left_s, found.get(stream.instance, left_s))
    return found


def render_status(status: Status) -> str:
    """The text, such as `12,345 events/s, lost 0, archive 1.2 MiB, rings 3 % full, 2 CPUs`."""
    parts = [
        f"{status.events_per_s:,.0f} events/s",
        f"lost {status.lost_events:,}",
        f"archive {format_size(status.archive_bytes)}",
    ]
    if status.ring_fill is not None:
        parts.append(f"rings {100 * status.ring_fill:.0f} % full")
    parts.append("1 CPU" if status.cpus == 1 else f"{status.cpus} CPUs")
    if status.suspended:
        parts.append("ARCHIVE SUSPENDED: no room on the disk")
    return ", ".join(parts)


def render_line(text: str, columns: int) -> str:
    """The bytes of a terminal's live line: replaces the line before, never wraps.

    A wrapped line could not be replaced by the next one.

    Args:
      columns: of the terminal; 0, as a terminal of unknown size says, is taken for 80.
    """
    room = (columns or 80) - 1
    return "\r\x1b[K" + (text if len(text) <= room else text[: max(0, room - 1)] + "…"[:room])
