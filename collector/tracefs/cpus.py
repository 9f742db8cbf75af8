"""CPU lists ("0-3,8") and CPU masks ("ff,ffffffff"), both ways. Pure."""

import re
from collections.abc import Iterable

from collector.errors import UsageError

_MAX_CPU = 8191  # CONFIG_NR_CPUS of the largest builds: what is above is a slip, and would cost memory
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_MASK_WORD = re.compile(r"[0-9a-fA-F]{1,8}")


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse a list as --cpu and /sys/devices/system/cpu/online have it: sorted, each once; "" is none.

    Raises:
      UsageError: a part is neither a number nor a range that ascends.
    """
    cpus: set[int] = set()
    parts = text.strip().split(",") if text.strip() else []
    for part in parts:
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if len(parts) > _MAX_CPU + 1 or not first <= last <= _MAX_CPU:
            raise UsageError(
                "not a list of CPUs", where=repr(text), expected=f"numbers up to {_MAX_CPU} and ranges, as in 0-3,8",
                got=repr(part),
            )  # fmt: skip
        cpus.update(range(first, last + 1))
    return tuple(sorted(cpus))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """The shortest list: "0-3,8"."""
    parts: list[str] = []
    ordered = sorted(set(cpus))
    start = 0
    for index, cpu in enumerate(ordered):
        if index + 1 < len(ordered) and ordered[index + 1] == cpu + 1:
            continue
        parts.append(str(cpu) if index == start else f"{ordered[start]}-{cpu}")
        start = index + 1
    return ",".join(parts)


def parse_cpu_mask(text: str) -> tuple[int, ...]:
    """Parse a mask as tracing_cpumask has it: hex words of 32 bits with commas, the highest first.

    Raises:
      UsageError: a word is not hex.
    """
    value = 0
    words = text.strip().split(",")
    for word in words:
        if not _MASK_WORD.fullmatch(word) or len(words) > _MAX_CPU // 32 + 1:
            raise UsageError(
                "not a CPU mask", where=repr(text), expected=f"hex words of CPUs up to {_MAX_CPU}, as in ff,ffffffff",
                got=repr(word),
            )  # fmt: skip
        value = value << 32 | int(word, 16)
    return tuple(cpu for cpu in range(value.bit_length()) if value >> cpu & 1)


def format_cpu_mask(cpus: Iterable[int]) -> str:
    """The mask that tracing_cpumask takes."""
    value = 0
    for cpu in cpus:
        value |= 1 << cpu
    words = [f"{value & 0xFFFFFFFF:08x}"]
    while value := value >> 32:
        words.append(f"{value & 0xFFFFFFFF:08x}")
    return ",".join(reversed(words)).lstrip("0,") or "0"
