"""The running kernel's build configuration, and which of its symbols gives what ftrace can do. Pure.

    .config = *( "CONFIG_" NAME "=" VALUE NL / "# CONFIG_" NAME " is not set" NL / other NL )

A symbol that isn't in the file at all doesn't exist in that release or depends on something that is
off: that says less than "is not set", so the two are kept apart.
"""

import re
from collections.abc import Mapping

NOT_SET = "n"

_SET = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(.*)$")
_UNSET = re.compile(r"^# CONFIG_([A-Za-z0-9_]+) is not set$")

# {tracer: symbols that all have to be set}. Source: kernel/trace/Kconfig, Makefile.
TRACER_SYMBOLS: dict[str, tuple[str, ...]] = {
    "nop": ("TRACING",),
    "function": ("FUNCTION_TRACER",),
    "function_graph": ("FUNCTION_GRAPH_TRACER",),
    "blk": ("BLK_DEV_IO_TRACE",),
    "irqsoff": ("IRQSOFF_TRACER",),
    "preemptoff": ("PREEMPT_TRACER",),
    "preemptirqsoff": ("IRQSOFF_TRACER", "PREEMPT_TRACER"),
    "wakeup": ("SCHED_TRACER",),
    "wakeup_rt": ("SCHED_TRACER",),
    "wakeup_dl": ("SCHED_TRACER",),
    "hwlat": ("HWLAT_TRACER",),
    "osnoise": ("OSNOISE_TRACER",),
    "timerlat": ("TIMERLAT_TRACER",),
    "mmiotrace": ("MMIOTRACE",),
}


def parse_kconfig(text: str) -> dict[str, str]:
    """Parse a kernel's .config: {symbol without CONFIG_: value}, "n" for those that are not set.

    Values are as they stand: y, m, numbers, strings in their quotes. Other lines are passed over.
    """
    symbols: dict[str, str] = {}
    for line in text.splitlines():
        if found := _SET.match(line):
            symbols[found[1]] = found[2]
        elif found := _UNSET.match(line):
            symbols[found[1]] = NOT_SET
    return symbols


def unset_symbols(kconfig: Mapping[str, str] | None, symbols: tuple[str, ...]) -> tuple[str, ...]:
    """Those of `symbols` that the configuration has not set; () too where it can't be read."""
    if kconfig is None:
        return ()
    return tuple(symbol for symbol in symbols if kconfig.get(symbol, NOT_SET) == NOT_SET)
