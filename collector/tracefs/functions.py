"""Which functions a filter means, before the kernel is asked. Pure.

A pattern is what set_ftrace_filter takes: a name, a shell pattern, `:mod:MODULE`, or `PATTERN:mod:MODULE`.
"""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from collector.errors import UsageError

Function = tuple[str, str]  # (name, module; "" for the kernel itself)

_MODULE = ":mod:"
_LISTED = re.compile(r"(\S+)(?:\s+\[(\S+)\])?.*")


def parse_functions(text: str) -> list[Function]:
    """Parse available_filter_functions, or what a filter file reads: (name, module) of each line.

    Lines that begin with # say that there is no filter; those of the probe `name:traceoff:unlimited` are left out.
    """
    found = []
    for line in text.splitlines():
        match = _LISTED.fullmatch(line.strip())
        if match is not None and not line.startswith("#") and ":" not in match[1]:
            found.append((match[1], match[2] or ""))
    return found


def matching_functions(pattern: str, available: Iterable[Function]) -> frozenset[str]:
    """The names that a pattern means; none is empty."""
    names, colon, module = pattern.partition(_MODULE)
    names = names or "*"
    if not re.search(r"[*?\[]", names):
        return frozenset(n for n, m in available if n == names and (not colon or _is_module(m, module)))
    match = re.compile(fnmatch.translate(names)).match
    return frozenset(n for n, m in available if match(n) and (not colon or _is_module(m, module)))


def check_pattern(pattern: str, where: str) -> None:
    """Raises UsageError: the text can't be a pattern, so the kernel would take it for something else."""
    names, _, module = pattern.partition(_MODULE)
    if not pattern or re.search(r"[\s!#]", pattern) or ":" in names or ":" in module:
        raise UsageError(
            "not a pattern of functions", where=where, expected="a name, a shell pattern or :mod:MODULE",
            got=repr(pattern), hint="commands such as name:traceoff are no filters",
        )  # fmt: skip


def match_patterns(patterns: Iterable[str], available: Sequence[Function], where: str) -> dict[str, frozenset[str]]:
    """{pattern: names} of patterns that each mean at least one function.

    Raises:
      UsageError: one means none; it says what comes near.
    """
    found = {}
    for pattern in patterns:
        check_pattern(pattern, where)
        found[pattern] = matching_functions(pattern, available)
        if not found[pattern]:
            raise _no_such_function(pattern, available, where)
    return found


def near_functions(pattern: str, available: Sequence[Function], limit: int = 5) -> list[str]:
    """Names that look like the pattern, the nearest first: for messages only."""
    bare = pattern.partition(_MODULE)[0].strip("*?")
    if not bare:
        return []
    names = list(dict.fromkeys(name for name, _ in available))
    holding = sorted((n for n in names if bare in n), key=len)
    # Of 40,000 names those that begin alike are compared: a slip is rarely in the first letters.
    alike = [n for n in names if n[:3] == bare[:3]]
    return list(dict.fromkeys([*difflib.get_close_matches(bare, alike, limit, 0.6), *holding]))[:limit]


def _no_such_function(pattern: str, available: Sequence[Function], where: str) -> UsageError:
    names, colon, module = pattern.partition(_MODULE)
    if colon:
        modules = sorted({m for _, m in available if m})
        if not any(_is_module(m, module) for m in modules):
            near = difflib.get_close_matches(module, modules, 3, 0.5) or modules[:5]
            return UsageError(
                "no function of such a module can be traced", where=where, expected="a module that is loaded",
                got=repr(pattern), hint=f"did you mean {', '.join(near)}?" if near else "no module is loaded",
            )  # fmt: skip
    near = near_functions(names, available)
    return UsageError(
        "this kernel has no such function to trace", where=where, expected="a line of available_filter_functions",
        got=repr(pattern),
        hint=f"did you mean {', '.join(near)}?" if near else "inlined and `notrace` functions can't be traced",
    )  # fmt: skip


def _is_module(name: str, pattern: str) -> bool:
    """The kernel compares module names with - and _ alike."""
    return bool(name) and fnmatch.fnmatchcase(name.replace("-", "_"), pattern.replace("-", "_"))
