"""The rows of `list`: what there is on this kernel, one dictionary per thing, ready for a table or JSON.

A place is the name of an instance, or TOP for the top-level buffer.
"""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

from collector.control.neighbours import list_instances, read_enabled, read_states
from collector.doctor.findings import REFUSED_FUNCTIONS
from collector.doctor.kconfig import TRACER_SYMBOLS
from collector.errors import TracefsError, TracefsMissingError, TracefsPermissionError
from collector.tracefs.clocks import CLOCKS
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir

TOP = "(top level)"
_FUNCTIONS = "available_filter_functions"

Row = dict[str, Any]

# {how an option's name begins: its tracer}; all others belong to every tracer.
# Source: struct tracer_opt in kernel/trace/trace_functions*.c, blktrace.c and trace_nop.c.
_TRACER_OPTIONS = {
    "funcgraph-": "function_graph",
    "sleep-time": "function_graph",
    "graph-time": "function_graph",
    "func_": "function",
    "func-": "function",
    "blk_": "blk",
    "test_nop_": "nop",
}


def list_tracers(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """Tracers, where each one runs now, whether it may run in an instance (None: no instance to look at)."""
    allowed: set[str] | None = None
    used: dict[str, list[str]] = {}  # {tracer: places}
    for place, tree in _places(tracefs):
        try:
            used.setdefault((tree.try_read_text("current_tracer") or "").strip(), []).append(place)
            if place != TOP:
                allowed = set((tree.try_read_text("available_tracers") or "").split())
        except TracefsError:  # the instance was removed
            continue
    for name in sorted(_tree(tracefs, instance).read_text("available_tracers").split()):
        if fnmatch.fnmatchcase(name, glob):
            yield {
                "tracer": name,
                "in_instances": None if allowed is None else name in allowed,
                "used_in": used.get(name, []),
                "configs": [f"CONFIG_{symbol}" for symbol in TRACER_SYMBOLS.get(name, ())],
            }


def list_events(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """Events with their number, and the places where each is on."""
    enabled: dict[EventName, list[str]] = {}
    for place, tree in _places(tracefs):
        if instance is None or place == instance:
            for event in read_enabled(tree):
                enabled.setdefault(event, []).append(place)
    _tree(tracefs, instance)
    for system, name in tracefs.list_events(glob):
        try:
            number: int | None = tracefs.read_event_id(system, name)
        except TracefsMissingError:  # its module was unloaded
            number = None
        yield {"event": f"{system}:{name}", "id": number, "enabled_in": enabled.get((system, name), [])}


def list_functions(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """Functions that filters can name, as the kernel lists them; there are tens of thousands.

    Raises:
      TracefsPermissionError: the host refuses the list; TracefsMissingError: the kernel can't filter functions.
    """
    del instance  # there is one list for all
    try:
        for line in tracefs.read_lines(_FUNCTIONS):
            name, _, module = line.strip().partition(" ")
            if fnmatch.fnmatchcase(name, glob):
                yield {"function": name, "module": module.strip("[] ") or None}
    except TracefsPermissionError as error:
        raise TracefsPermissionError(
            "the functions can't be listed", where=error.where, got=error.got, hint=REFUSED_FUNCTIONS
        ) from error
    except TracefsMissingError as error:
        raise TracefsMissingError(
            "this kernel can't filter functions", where=error.where, got="no such file",
            hint="it takes CONFIG_FUNCTION_TRACER and CONFIG_DYNAMIC_FTRACE",
        ) from error  # fmt: skip


def list_options(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """Options of one place with their values.

    `tracer` is the tracer that an option belongs to, None for those of all; `in_effect` whether the current
    tracer looks at it.
    """
    tree = _tree(tracefs, instance)
    current = tree.read_text("current_tracer").strip()
    shown = {line.strip() for line in tree.read_text("trace_options").splitlines()}
    for name in tree.list_names("options"):
        if not fnmatch.fnmatchcase(name, glob):
            continue
        in_effect = bool({name, f"no{name}"} & shown)
        tracer = next((owner for begin, owner in _TRACER_OPTIONS.items() if name.startswith(begin)), None)
        if tracer is None and not in_effect:
            tracer = "another"
        value = (tree.try_read_text(f"options/{name}") or "").strip()
        yield {"option": name, "value": value == "1", "tracer": tracer, "in_effect": in_effect or tracer == current}


def list_clocks(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """Clocks, their units, whether times of two CPUs compare, and the places that use each."""
    used: dict[str, list[str]] = {}
    for place, tree in _places(tracefs):
        try:
            used.setdefault(tree.read_clock()[0], []).append(place)
        except TracefsError:  # the instance was removed
            continue
    for name in _tree(tracefs, instance).read_clock()[1]:
        if fnmatch.fnmatchcase(name, glob):
            known = CLOCKS.get(name)
            yield {
                "clock": name,
                "unit": known.unit if known else None,
                "comparable": known.comparable if known else None,
                "wall_time": known is not None and known.unit == "ns",
                "used_in": used.get(name, []),
            }


def list_states(tracefs: TracefsDir, glob: str, instance: str | None) -> Iterator[Row]:
    """The top level and the instances: what each is set to, who holds it, and what is unread."""
    for state in read_states(tracefs):
        place = state.name or TOP
        if fnmatch.fnmatchcase(place, glob) and instance in (None, state.name):
            yield {
                "instance": place,
                "tracer": state.tracer,
                "clock": state.clock,
                "recording": state.tracing_on,
                "events_on": state.events,
                "buffer_kb": state.buffer_kb,
                "subbuf_kb": state.subbuf_kb,
                "unread": state.unread,
                "held_by": state.holder,
            }


Lister = Callable[[TracefsDir, str, str | None], Iterator[Row]]

# {what `list` lists: how}
LISTERS: dict[str, Lister] = {
    "tracers": list_tracers,
    "events": list_events,
    "functions": list_functions,
    "options": list_options,
    "clocks": list_clocks,
    "instances": list_states,
}


def _places(tracefs: TracefsDir) -> Iterator[tuple[str, TracefsDir]]:
    yield TOP, tracefs
    for name in list_instances(tracefs):
        yield name, tracefs.instance(name)


def _tree(tracefs: TracefsDir, instance: str | None) -> TracefsDir:
    """The place that was asked for.

    Raises:
      TracefsMissingError: there is no such instance.
    """
    if instance is None:
        return tracefs
    if instance not in list_instances(tracefs):
        raise TracefsMissingError(
            "no such instance", where=f"--instance {instance}",
            expected=", ".join(list_instances(tracefs)) or "none: there are no instances", got=instance,
        )  # fmt: skip
    return tracefs.instance(instance)
