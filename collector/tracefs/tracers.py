"""What tracers have to do with each other and with settings: which exclude each other, and what each heeds. Pure.

Of tracers that are not known here nothing is said: what they heed is theirs.
"""

import re
from collections.abc import Iterable, Mapping

_IRQS = frozenset({"irqsoff", "preemptoff", "preemptirqsoff"})
_WAKEUPS = frozenset({"wakeup", "wakeup_rt", "wakeup_dl"})
_HWLAT = frozenset({"hwlat"})
_NOISE = frozenset({"osnoise", "timerlat"})

# What they record is in variables that the kernel has once: irqsoff_busy, wakeup_busy, hwlat_busy, and
# osnoise_data.timerlat_tracer.
_FAMILIES = (_IRQS, _WAKEUPS, _HWLAT, _NOISE)
_GRAPH = frozenset({"function_graph"})
_FOLLOWERS = frozenset({"function"}) | _GRAPH | _IRQS | _WAKEUPS  # of functions; the last two by options/function-trace
_KNOWN = _FOLLOWERS | _HWLAT | _NOISE | {"nop", "blk", "mmiotrace"}

# {key of an instance: tracers that heed it}
_KEYS = {
    "functions": _FOLLOWERS,
    "notrace_functions": _FOLLOWERS,
    "function_pids": _FOLLOWERS,
    "notrace_function_pids": _FOLLOWERS,
}
# The same of what all users of tracing share: it may be meant for another one.
_SHARED_KEYS = {
    "graph_functions": _GRAPH | _IRQS | _WAKEUPS,
    "graph_notrace_functions": _GRAPH | _IRQS | _WAKEUPS,
    "max_graph_depth": _GRAPH | _IRQS | _WAKEUPS,
    "tracing_thresh_us": _GRAPH | _IRQS | _WAKEUPS | _HWLAT | {"osnoise"},
}
SHARED_KEYS = tuple(_SHARED_KEYS)
# {files of options/ that are a tracer's own: who heeds them}; up to Linux 6.18 all instances have the same flags.
_TRACERS_OPTIONS = {
    r"func_stack_trace|func-.*": frozenset({"function"}),
    r"funcgraph-.*": _GRAPH,
    r"sleep-time|graph-time": _GRAPH | _IRQS | _WAKEUPS,  # the last two with options/display-graph
    r"blk_.*": frozenset({"blk"}),
    r"test_nop_.*": frozenset({"nop"}),
}
_HEEDED_OPTIONS = _TRACERS_OPTIONS | {r"display-graph|function-trace": _IRQS | _WAKEUPS, r"function-fork": _FOLLOWERS}


def family_of(tracer: str) -> frozenset[str]:
    """The tracers, itself among them, of which one may hinder another; empty: it runs beside all others."""
    return next((family for family in _FAMILIES if tracer in family), frozenset())


def excludes(tracer: str, other: str) -> bool:
    """Whether no kernel sets `tracer` while another buffer has `other`.

    From Linux 5.16 on several buffers may have osnoise, or timerlat, at once, but not one of each.
    """
    return other in family_of(tracer) and not (tracer == other and tracer in _NOISE)


def is_tracers_option(name: str) -> bool:
    """Whether a file of options/ is a tracer's own, which removing the instance leaves as it is."""
    return any(re.fullmatch(names, name) for names in _TRACERS_OPTIONS)


def find_unheeded(tracer: str, keys: Iterable[str], options: Iterable[str]) -> dict[str, frozenset[str]]:
    """{setting: tracers that heed it} of those that this tracer ignores.

    Args:
      keys: of an instance, that have a value.
      options: files of options/ that are set.
    """
    heeded: dict[str, frozenset[str]] = {key: _KEYS[key] for key in keys if key in _KEYS}
    for option in options:
        for names, tracers in _HEEDED_OPTIONS.items():
            if re.fullmatch(names, option):
                heeded[f"options.{option}"] = tracers
    return _without_heeded(tracer, heeded)


def explain_unheeded_shared(tracer: str, values: Mapping[str, object]) -> list[str]:
    """What all users of tracing share and this tracer ignores, in words: no error, it may be meant for others.

    Args:
      values: of SHARED_KEYS; None and () are none.
    """
    given = {key: _SHARED_KEYS[key] for key, value in values.items() if value not in (None, ())}
    return [
        f"{key} has no effect here: the tracer {tracer} ignores it, {' '.join(sorted(tracers))} heed it"
        for key, tracers in _without_heeded(tracer, given).items()
    ]


def _without_heeded(tracer: str, heeded: Mapping[str, frozenset[str]]) -> dict[str, frozenset[str]]:
    if tracer not in _KNOWN:
        return {}
    return {setting: tracers for setting, tracers in heeded.items() if tracer not in tracers}
