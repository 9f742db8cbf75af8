"""The settings of an instance: what the kernel is asked to record, and where."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from collector.config.types import AtLeastOne, Auto, Cpus, Names, Section
from collector.errors import UsageError
from collector.tracefs.dynamic import parse_probes
from collector.tracefs.functions import check_pattern
from collector.tracefs.snapshots import takes_on_condition
from collector.tracefs.tracers import find_unheeded


def _to_cpu_keys(value: object) -> object:
    """TOML's keys are texts."""
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, int) or key.isdecimal() for key in value):
        raise ValueError('CPUs and KiB, such as {"0" = 4096}')
    return {int(key): size for key, size in value.items()}


Ids = Annotated[tuple[Annotated[int, Field(strict=True, ge=1)], ...], Field(strict=False)]
Sizes = Annotated[dict[int, AtLeastOne], BeforeValidator(_to_cpu_keys)]
Lines = Annotated[tuple[str, ...], Field(strict=False)]

EVENT = r"[^\s:/*?\[\]]+:[^\s:/*?\[\]]+"  # one event: no patterns


class TraceConfig(Section):
    """What the kernel is asked to record, and where."""

    instance: str = "ftrace-collector"  # folder in tracefs' instances/
    events: Names = ("sched:*",)  # SYSTEM:EVENT, shell patterns on both sides
    # A name of the instance's trace_clock file. None: mono, where the kernel has it; the top level's with a tracer that
    # dates the start of a latency by that.
    clock: Annotated[str | None, Auto] = None
    buffer_size_kb: Annotated[AtLeastOne | None, Auto] = None  # per CPU; None: 8 MiB, at most 1 % of memory in all
    # None: 64, or 16 with more than 32 CPUs; where the kernel has the choice (6.8), else its pages
    subbuf_size_kb: Annotated[Annotated[int, Field(ge=4, le=512)] | None, Auto] = None
    buffer_percent: Annotated[int, Field(ge=0, le=100)] = 25  # filled sub-buffers that wake the reader
    cpus: Cpus = None  # None: all
    overwrite: bool = True  # a full ring loses the oldest entries; False: the newest
    keep_instance: bool = False  # leave the instance behind at exit
    on_leftover: Literal["adopt", "remove"] = "adopt"  # an instance of ours left by a crash
    exclude_self: bool = True  # the collector's own threads are not traced
    on_interference: Literal["record", "repair"] = "record"  # somebody else changes the instance
    # The rings; what the kernel prints of each, or of all in one; what a snapshot stopped
    read: Literal["raw", "text", "text-merged", "snapshot"] = "raw"
    # A snapshot so often; None: by triggers, by the command and at the end
    snapshot_interval_s: Annotated[Annotated[float, Field(ge=0.1, le=86400)] | None, Auto] = None
    buffer_size_kb_per_cpu: Sizes = Field(default={})  # {cpu: KiB} of those that differ from buffer_size_kb
    tracer: str = "nop"  # of the instance's available_tracers
    options: dict[str, bool] = Field(default={})  # {file of options/: on}; all others stay
    functions: Names = ()  # names, shell patterns, :mod:MODULE; none: all
    notrace_functions: Names = ()
    graph_functions: Names = ()  # function_graph begins at these
    graph_notrace_functions: Names = ()
    max_graph_depth: Annotated[Annotated[int, Field(ge=0)] | None, Auto] = None
    function_pids: Ids = ()  # threads that the function tracers follow; none: all
    notrace_function_pids: Ids = ()
    event_pids: Ids = ()  # threads whose events are recorded; none: all
    notrace_pids: Ids = ()  # threads whose events are not
    event_fork: Annotated[bool | None, Auto] = None  # both lists follow children; None: where exclude_self needs it
    filters: dict[str, str] = Field(default={})  # {SYSTEM:EVENT: expression}
    triggers: dict[str, Lines] = Field(default={})  # {SYSTEM:EVENT: triggers}, written in this order
    probes: Lines = ()  # dynamic events, see docs/tracefs.md
    tracing_thresh_us: Annotated[Annotated[int, Field(ge=0)] | None, Auto] = None
    saved_cmdlines_size: Annotated[AtLeastOne | None, Auto] = None
    stack_tracer: Annotated[bool | None, Auto] = None
    ftrace_enabled: Annotated[bool | None, Auto] = None
    allow_top_level: bool = False  # may change what all users of tracing share; restored at exit
    consent_mmiotrace: bool = False  # mmiotrace takes all CPUs but one offline
    top_level_buffer: bool = False  # collect from the top-level buffer; `instance` only names it
    block_devices: Names = ()  # of /sys/block, for the tracer blk

    @model_validator(mode="before")
    @classmethod
    def _the_top_level_has_a_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("top_level_buffer") is True and "instance" not in value:
            return {**value, "instance": "top"}
        return value

    @field_validator("instance")
    @classmethod
    def _instance_is_a_folder_name(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}", value):
            raise ValueError("a name of letters, digits and _ . @ - that starts with a letter, a digit or _")
        return value

    @field_validator("events")
    @classmethod
    def _events_are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for event in value:
            if not re.fullmatch(r"[^\s:/]+(:[^\s:/]+)?", event):
                raise ValueError(f'SYSTEM:EVENT such as "sched:sched_switch" or "sched:*", not {event!r}')
        return value

    @field_validator("filters", "triggers")
    @classmethod
    def _keys_are_events(cls, value: dict[str, Any]) -> dict[str, Any]:
        for event in value:
            if not re.fullmatch(EVENT, event):
                raise ValueError(f'events such as "sched:sched_switch" or "probes:NAME" as keys, not {event!r}')
        return value

    @field_validator("functions", "notrace_functions", "graph_functions", "graph_notrace_functions")
    @classmethod
    def _functions_are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                check_pattern(pattern, "")
            except UsageError as e:
                raise ValueError(f"{e.expected}, not {pattern!r}") from e
        return value

    @field_validator("probes")
    @classmethod
    def _probes_are_definitions(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        try:
            parse_probes(value, "")
        except UsageError as e:
            raise ValueError(f"{e.expected}, not {e.got}") from e
        return value

    @field_validator("options")
    @classmethod
    def _options_are_files(cls, value: dict[str, bool]) -> dict[str, bool]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"names of files in options/ as keys, not {name!r}")
        return value

    @model_validator(mode="after")
    def _snapshots_can_be_taken(self) -> "TraceConfig":
        if self.snapshot_interval_s is None:
            return self
        if self.read != "snapshot":
            raise ValueError(f'snapshot_interval_s only with read = "snapshot", not with "{self.read}"')
        taking = [line for lines in self.triggers.values() for line in lines if takes_on_condition(line)]
        if taking:
            raise ValueError(f"no snapshot_interval_s beside a histogram's snapshot(), as in {taking[0]!r}")
        return self

    @model_validator(mode="after")
    def _the_tracer_heeds_what_is_said_of_it(self) -> "TraceConfig":
        given = [key for key in type(self).model_fields if getattr(self, key)]
        for setting, tracers in find_unheeded(self.tracer, given, self.options).items():
            names = " or ".join(f'"{name}"' for name in sorted(tracers))
            raise ValueError(f'{setting} only with tracer = {names}: "{self.tracer}" ignores it')
        if self.event_fork is not None and not (self.event_pids or self.notrace_pids or self.exclude_self):
            raise ValueError("event_fork only with event_pids, notrace_pids or exclude_self, whose children it means")
        return self

    @model_validator(mode="after")
    def _something_is_recorded(self) -> "TraceConfig":
        if not self.events and self.tracer == "nop" and not self.probes:
            raise ValueError('at least one event, such as "sched:*", a tracer, or a probe')
        return self

    @model_validator(mode="after")
    def _the_top_level_is_consented_to(self) -> "TraceConfig":
        if self.top_level_buffer and not self.allow_top_level:
            raise ValueError("allow_top_level = true with top_level_buffer = true")
        if self.top_level_buffer and self.keep_instance:
            raise ValueError("keep_instance = false with top_level_buffer = true: the top level is left as it was")
        if self.top_level_buffer and self.read == "snapshot":
            raise ValueError('read = "raw" or "text" with top_level_buffer = true: its snapshot is everybody\'s')
        if bool(self.block_devices) != (self.tracer == "blk"):
            raise ValueError('block_devices, such as ["sda"], with tracer = "blk" and with no other')
        return self

    @field_validator("block_devices")
    @classmethod
    def _devices_are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_!:-]+(/[A-Za-z0-9_!:-]+)?", name):
                raise ValueError(f'names of /sys/block such as "sda", or "sda/sda1", not {name!r}')
        return value

    @field_validator("clock", "tracer")
    @classmethod
    def _clock_is_a_word(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError("a name as the kernel's files list them")
        return value
