"""Which flag columns the lines of `trace` and `trace_pipe` have. Pure.

The header of `trace` names them, one line each, in the order of the columns:

    #                                _-----=> irqs-off/BH-disabled
    #                               / _----=> need-resched
    #                              | / _---=> hardirq/softirq
    #                              || / _--=> preempt-depth
    #                              ||| / _-=> migrate-disable
    #                              |||| /     delay

In latency format the first one is the CPU, which is no flag.

Source: kernel/trace/trace.c, print_func_help_header_irq() and print_lat_help_header().
"""

import re

_COLUMN = re.compile(r"^#.*=> (\S+)\s*$", re.MULTILINE)
_CPU = "CPU#"


def parse_flag_columns(header: str) -> tuple[str, ...]:
    """The names of the flag columns, the first one first; () where the header says nothing of them.

    Args:
      header: of `trace`, or text that begins with it.
    """
    return tuple(name.replace("_", "-") for name in _COLUMN.findall(header) if name != _CPU)
