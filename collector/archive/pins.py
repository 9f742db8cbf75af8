"""Stretches of an archive that retention leaves alone, and how far retention has come beyond them.

    pins/NAME.json   {"from_ns": int, "to_ns": int, "made_ns": int}, wall time, both included
    .removed         name of the newest segment that retention removed while older ones stayed

A pin holds for segments that are written later too. With `.removed`, `verify` can tell the holes that retention left
behind a pinned segment from a segment that was lost.
"""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from collector.archive import disk
from collector.archive.segment import PART_SUFFIX, SUFFIX, start_ns_of
from collector.errors import ArchiveError, UsageError

PINS_NAME = "pins"
REMOVED_NAME = ".removed"
_PIN_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Pin:
    """A stretch of wall time, in ns since 1970."""

    name: str
    from_ns: int
    to_ns: int  # included
    made_ns: int

    def covers(self, start_ns: int, end_ns: int) -> bool:
        """Whether a segment from start to end has something of it."""
        return start_ns <= self.to_ns and end_ns >= self.from_ns


def read_pins(folder: Path) -> list[Pin]:
    """Gives the pins of an archive by name.

    Raises:
      ArchiveError: one of them does not read; then nobody knows what it holds.
    """
    pins = []
    try:
        paths = sorted(path for path in (folder / PINS_NAME).iterdir() if path.suffix == _PIN_SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise ArchiveError(f"cannot read the pins: {e.strerror}", where=str(folder / PINS_NAME)) from e
    for path in paths:
        try:
            value = json.loads(path.read_bytes())
            pins.append(Pin(path.stem, int(value["from_ns"]), int(value["to_ns"]), int(value["made_ns"])))
        except FileNotFoundError:
            continue  # unpinned just now
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as e:
            raise ArchiveError(
                f"this pin cannot be read: {e}", where=str(path), hint="remove the file, and pin again"
            ) from e
    return pins


def add_pin(folder: Path, pin: Pin) -> None:
    """Pins a stretch, durably.

    Raises:
      UsageError: its name is no file name, is in use, or it ends before it begins.
      ArchiveError: no such archive, or it cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", pin.name):
        raise UsageError(
            "not a name for a pin", got=repr(pin.name), expected="letters, digits and _ . - that start with no point"
        )
    if pin.to_ns < pin.from_ns:
        raise UsageError("the pin ends before it begins", hint="exchange --from and --to")
    if not folder.is_dir():
        raise ArchiveError("no such folder", where=str(folder), expected="an archive's folder")
    path = folder / PINS_NAME / (pin.name + _PIN_SUFFIX)
    if path.exists():
        raise UsageError("there is such a pin already", got=pin.name, hint="take another name, or unpin it first")
    value = {"from_ns": pin.from_ns, "to_ns": pin.to_ns, "made_ns": pin.made_ns}
    try:
        disk.make_folder(path.parent)
        disk.replace_file(path, json.dumps(value).encode() + b"\n")
    except OSError as e:
        raise ArchiveError(f"cannot write the pin: {e.strerror}", where=str(path)) from e


def pin_stretch(folder: Path, name: str, from_ns: int, to_ns: int | None) -> list[Path]:
    """Pins from a wall time to another, now by default; gives the segments that it holds by now.

    Raises:
      UsageError, ArchiveError: as add_pin.
    """
    now_ns = time.time_ns()
    pin = Pin(name, from_ns, now_ns if to_ns is None else to_ns, now_ns)
    add_pin(folder, pin)
    return pinned_segments(folder, pin)


def list_pins(folder: Path) -> list[str]:
    """Says of each pin in a line what it holds.

    Raises:
      ArchiveError: no such archive, or a pin does not read.
    """
    if not folder.is_dir():
        raise ArchiveError("no such folder", where=str(folder), expected="an archive's folder")
    lines = []
    for pin in read_pins(folder):
        held = pinned_segments(folder, pin)
        size_bytes = sum(path.stat().st_size for path in held)
        lines.append(f"{pin.name}: {_utc(pin.from_ns)} to {_utc(pin.to_ns)}, {len(held)} segments, {size_bytes} bytes")
    return lines


def _utc(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns // 10**9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def remove_pin(folder: Path, name: str) -> None:
    """Unpins.

    Raises:
      UsageError: there is no such pin.
      ArchiveError: it cannot be removed.
    """
    path = folder / PINS_NAME / (name + _PIN_SUFFIX)
    if "/" in name or not path.exists():
        names = ", ".join(pin.name for pin in read_pins(folder)) or "none"
        raise UsageError("there is no such pin", where=str(folder), got=repr(name), expected=f"one of: {names}")
    try:
        disk.unlink(path)
    except OSError as e:
        raise ArchiveError(f"cannot remove the pin: {e.strerror}", where=str(path)) from e


def is_pinned(pins: Sequence[Pin], start_ns: int, end_ns: int) -> bool:
    """Whether one of the pins covers something of this stretch."""
    return any(pin.covers(start_ns, end_ns) for pin in pins)


def pinned_segments(folder: Path, pin: Pin) -> list[Path]:
    """Gives the segments that a pin holds now, the open one too."""
    held = []
    for path in sorted(p for p in folder.iterdir() if p.name.endswith((SUFFIX, PART_SUFFIX))):
        end_ns = path.stat().st_mtime_ns
        start_ns = start_ns_of(path)
        if pin.covers(end_ns if start_ns is None else start_ns, end_ns):
            held.append(path)
    return held


def read_removed_up_to(folder: Path) -> str:
    """Gives the name of the newest segment that was removed before older ones; "" for none.

    What is no name that the collector gives is none: it could sort behind all segments, which would all be removed.
    """
    try:
        name = (folder / REMOVED_NAME).read_text(errors="replace").strip()
    except OSError:
        return ""
    return name if start_ns_of(Path(name)) is not None else ""


def write_removed_up_to(folder: Path, name: str) -> None:
    """Says, durably and before it is done, that segments up to this name are removed.

    What was said of a newer one stays: the holes up to there are still there.

    Raises:
      OSError
    """
    disk.replace_file(folder / REMOVED_NAME, max(name, read_removed_up_to(folder)).encode() + b"\n")
