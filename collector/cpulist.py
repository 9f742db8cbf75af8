"""Lists of CPUs as the kernel and its tools write them: `0-3,8`. Pure."""

from collections.abc import Iterable

# The kernel's own limit (NR_CPUS) is 8192 on the largest builds; a typing error such as
# 0-99999999 must not become a list of that length.
MAX_CPU = 8191


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """Parse `0-3,8` into (0, 1, 2, 3, 8): ascending, each number once.

    Raises:
      ValueError: not such a list; the message says which part.
    Source: the kernel's Documentation/admin-guide/cputopology.rst, "list of CPUs".
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _is_number(first) or (dash and not _is_number(last)):
            raise ValueError(f"{part.strip()!r} is neither a CPU number nor a range like 0-3")
        low = int(first)
        high = int(last) if dash else low
        if high < low:
            raise ValueError(f"the range {part.strip()!r} ends before it starts")
        if high > MAX_CPU:
            raise ValueError(f"no CPU has the number {high}; the largest possible is {MAX_CPU}")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def format_cpu_list(cpus: Iterable[int]) -> str:
    """Write CPU numbers as `parse_cpu_list` reads them; runs become ranges."""
    parts: list[str] = []
    ordered = sorted(set(cpus))
    start = 0
    for i, cpu in enumerate(ordered):
        if i + 1 == len(ordered) or ordered[i + 1] != cpu + 1:
            first = ordered[start]
            parts.append(str(cpu) if first == cpu else f"{first}-{cpu}")
            start = i + 1
    return ",".join(parts)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()
