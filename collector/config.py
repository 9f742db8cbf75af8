"""The configuration: TOML text to frozen models, every error of it at once.

Every key has a default, so that no file is needed. Later files overlay earlier ones key by
key, the command line overlays all files. An unknown key is an error: a setting that is
silently ignored is worse than a daemon that does not start.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from collector.config_text import (
    InvalidConfigError,
    Layer,
    Override,
    Problem,
    find_lines,
    inherit_keys,
    overlay,
    split_listen,
    syntax_problem,
)
from collector.errors import ConfigError, UsageError
from collector.tracefs.cpus import parse_cpu_list
from collector.tracefs.dynamic import parse_probes
from collector.tracefs.functions import check_pattern

__all__ = [
    "ArchiveConfig", "CaptureConfig", "Config", "HttpConfig", "InvalidConfigError", "Layer", "LogConfig", "Override",
    "Problem", "TraceConfig", "config_keys", "find_lines", "load_config", "parse_config", "parse_layers",
    "split_listen",
]  # fmt: skip

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

CPUS_EXPECTED = '"all", or CPUs such as "0-3,8"'


def _none_if_auto(value: object) -> object:
    """TOML has no null: "auto" says that the program chooses."""
    return None if value == "auto" else value


def _to_cpus(value: object) -> object:
    if value == "all":
        return None
    if not isinstance(value, str):
        return value
    try:
        return parse_cpu_list(value)
    except UsageError as e:
        raise ValueError(CPUS_EXPECTED) from e


def _to_cpu_keys(value: object) -> object:
    """TOML's keys are texts."""
    if not isinstance(value, dict):
        return value
    if not all(isinstance(key, int) or key.isdecimal() for key in value):
        raise ValueError('CPUs and KiB, such as {"0" = 4096}')
    return {int(key): size for key, size in value.items()}


AtLeastOne = Annotated[int, Field(ge=1)]
Auto = BeforeValidator(_none_if_auto)
# TOML gives lists; frozen models hold tuples. Only the container is converted, never an item.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Cpus = Annotated[tuple[int, ...] | None, Field(strict=False), BeforeValidator(_to_cpus)]
Ids = Annotated[tuple[Annotated[int, Field(strict=True, ge=1)], ...], Field(strict=False)]
Sizes = Annotated[dict[int, AtLeastOne], BeforeValidator(_to_cpu_keys)]
Lines = Annotated[tuple[str, ...], Field(strict=False)]

EVENT = r"[^\s:/*?\[\]]+:[^\s:/*?\[\]]+"  # one event: no patterns


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TraceConfig(_Section):
    """What the kernel is asked to record, and where."""

    instance: str = "ftrace-collector"  # folder in tracefs' instances/
    events: Names = ("sched:*",)  # SYSTEM:EVENT, shell patterns on both sides
    clock: str = "mono"  # a name of the instance's trace_clock file
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
    read: Literal["raw", "text", "text-merged"] = "raw"  # the rings; what the kernel prints of each, or of all in one
    buffer_size_kb_per_cpu: Sizes = {}  # {cpu: KiB} of those that differ from buffer_size_kb
    tracer: str = "nop"  # of the instance's available_tracers
    options: dict[str, bool] = {}  # {file of options/: on}; all others stay
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
    filters: dict[str, str] = {}  # {SYSTEM:EVENT: expression}
    triggers: dict[str, Lines] = {}  # {SYSTEM:EVENT: triggers}, written in this order
    probes: Lines = ()  # dynamic events, see docs/tracefs.md
    tracing_thresh_us: Annotated[Annotated[int, Field(ge=0)] | None, Auto] = None
    saved_cmdlines_size: Annotated[AtLeastOne | None, Auto] = None
    stack_tracer: Annotated[bool | None, Auto] = None
    ftrace_enabled: Annotated[bool | None, Auto] = None
    allow_top_level: bool = False  # may change what all users of tracing share; restored at exit
    consent_mmiotrace: bool = False  # mmiotrace takes all CPUs but one offline

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
    def _something_is_recorded(self) -> "TraceConfig":
        if not self.events and self.tracer == "nop" and not self.probes:
            raise ValueError('at least one event, such as "sched:*", a tracer, or a probe')
        return self

    @field_validator("clock", "tracer")
    @classmethod
    def _clock_is_a_word(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise ValueError("a name as the kernel's files list them")
        return value

    @field_validator("cpus")
    @classmethod
    def _cpus_exist(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is None:
            return None
        try:
            cpus = parse_cpu_list(",".join(map(str, value)))
        except UsageError as e:
            raise ValueError(CPUS_EXPECTED) from e
        if not cpus:
            raise ValueError(CPUS_EXPECTED)
        return cpus


class CaptureConfig(_Section):
    """How entries get from the rings into blocks."""

    flush_interval_s: Annotated[float, Field(gt=0, le=3600)] = 1.0  # partial sub-buffers are fetched this often
    block_bytes: Annotated[int, Field(ge=64 * KIB, le=64 * MIB)] = MIB  # raw bytes that close a block
    block_age_s: Annotated[float, Field(gt=0, le=3600)] = 5.0  # age that closes a block
    memory_budget_bytes: Annotated[int, Field(ge=8 * MIB)] = 64 * MIB  # raw pages, columns and blocks together
    workers: Annotated[AtLeastOne | None, Auto] = None  # decoding threads; None: by the number of CPUs
    stats_interval_s: Annotated[float, Field(gt=0, le=3600)] = 5.0  # the ledger is sampled this often

    @model_validator(mode="after")
    def _block_fits_budget(self) -> "CaptureConfig":
        if self.block_bytes * 4 > self.memory_budget_bytes:
            raise ValueError(
                f"capture.memory_budget_bytes of at least four times block_bytes ({4 * self.block_bytes}), "
                f"not {self.memory_budget_bytes}"
            )
        return self


class ArchiveConfig(_Section):
    """The folder of segments, and how much of the disk it may have."""

    folder: str = "./traces"
    segment_bytes: Annotated[int, Field(ge=MIB, le=64 * GIB)] = 128 * MIB  # size that seals a segment
    segment_age_s: Annotated[float, Field(ge=1)] = 3600.0  # age that seals a segment
    max_bytes: Annotated[int, Field(ge=2 * MIB)] = 10 * GIB  # sealed segments are removed, oldest first, to stay below
    min_free_bytes: Annotated[int, Field(ge=0)] = GIB  # free space that archiving leaves; see min_free_of()
    compression: Literal["zstd", "lz4", "none"] = "zstd"
    compression_level: Annotated[int, Field(ge=-7, le=19)] = 1  # zstd's; lz4 and none have no levels
    sync_interval_s: Annotated[float, Field(ge=0, le=3600)] = 1.0  # fdatasync this often; 0: after every block

    @field_validator("folder")
    @classmethod
    def _folder_is_a_path(cls, value: str) -> str:
        if not value or "\0" in value:
            raise ValueError("the path of a folder")
        return value

    @model_validator(mode="after")
    def _segment_fits_archive(self) -> "ArchiveConfig":
        if self.segment_bytes * 2 > self.max_bytes:
            raise ValueError(
                f"archive.max_bytes of at least twice segment_bytes ({2 * self.segment_bytes}), not {self.max_bytes}"
            )
        return self

    def min_free_of(self, filesystem_bytes: int) -> int:
        """The free bytes to leave on a filesystem of this size: min_free_bytes, but never more than 5 % of it.

        Without the second bound the default would keep a small disk from being used at all.
        """
        return min(self.min_free_bytes, filesystem_bytes // 20)


class HttpConfig(_Section):
    """Where /metrics, /livez and /readyz are served."""

    listen: str = "127.0.0.1:9464"  # HOST:PORT; "" serves nothing

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        if value:
            split_listen(value)
        return value


class LogConfig(_Section):
    """The messages on stderr."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(_Section):
    """The whole configuration."""

    trace: TraceConfig = TraceConfig()  # the first instance, where there are [[instances]]
    instance_tables: Annotated[tuple[TraceConfig, ...], Field(strict=False, alias="instances")] = ()
    capture: CaptureConfig = CaptureConfig()
    archive: ArchiveConfig = ArchiveConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # drain and seal within this, else exit 75

    @field_validator("instance_tables")
    @classmethod
    def _names_differ(cls, value: tuple[TraceConfig, ...]) -> tuple[TraceConfig, ...]:
        names = [trace.instance for trace in value]
        if len(set(names)) < len(names):
            raise ValueError("a name of its own for each instance")
        return value

    def instances(self) -> tuple[TraceConfig, ...]:
        """The instances to collect from: one or more."""
        return self.instance_tables or (self.trace,)

    def hash(self) -> str:
        """16 hex digits that name these settings; stored in each segment's header."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_config(paths: Sequence[Path], overrides: Sequence[Override] = ()) -> Config:
    """Read the files and overlay them, in order, then the command line's values.

    Raises:
      InvalidConfigError: with every problem of every file.
      ConfigError: a file cannot be read.
    """
    layers = []
    for path in paths:
        try:
            layers.append(Layer(str(path), path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as e:
            reason = e.strerror if isinstance(e, OSError) else "it is not UTF-8"
            raise ConfigError(
                "the configuration cannot be read",
                where=str(path),
                got=str(reason),
                hint="check the path given with -c",
            ) from e
    return parse_layers(layers, overrides)


def parse_config(text: str, where: str) -> Config:
    """Parse one TOML text.

    Raises:
      InvalidConfigError: with every problem.
    """
    return parse_layers([Layer(where, text)])


def parse_layers(layers: Sequence[Layer], overrides: Sequence[Override] = ()) -> Config:
    """Overlay TOML texts and single values, and validate the result once.

    Raises:
      InvalidConfigError: with every problem.
    """
    problems: list[Problem] = []
    merged: dict[str, Any] = {}
    places: dict[tuple[str, ...], tuple[str, int | None]] = {}  # {key path: (file or option, line)}, the last wins
    for layer in layers:
        try:
            table = tomllib.loads(layer.text)
        except tomllib.TOMLDecodeError as e:
            problems.append(syntax_problem(layer, e))
            continue
        overlay(merged, table)
        if "instances" in table:  # all of them are replaced
            places = {key: place for key, place in places.items() if key[0] != "instances"}
        places.update({key: (layer.where, line) for key, line in find_lines(layer.text).items()})
    for override in overrides:
        nested: object = override.value
        for name in reversed(override.key):
            nested = {name: nested}
        assert isinstance(nested, dict)
        overlay(merged, nested)
        places[override.key] = (override.option, None)
    inherit_keys(merged, overrides)
    try:
        config = Config.model_validate(merged)
    except ValidationError as e:
        files = layers[-1].where if layers else "command line"
        # An instance has all of [trace] in it, and says what is wrong there too.
        in_instances = merged.get("instances")
        errors = [x for x in e.errors(include_url=False) if not (in_instances and x["loc"][:1] == ("trace",))]
        problems += dict.fromkeys(_problem(error, places, files) for error in errors)
    if problems:
        raise InvalidConfigError(problems)
    return config


def _problem(error: Any, places: Mapping[tuple[str, ...], tuple[str, int | None]], default_where: str) -> Problem:
    """Word one of pydantic's errors."""
    loc: tuple[str | int, ...] = error["loc"]
    path = tuple(str(part) for part in loc)
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")
    if path[:1] == ("instances",) and len(path) > 2 and path[:3] not in places and ("trace", *path[2:3]) in places:
        path = ("trace", *path[2:])  # inherited
        key = "trace." + ".".join(path[1:])
    where: str = default_where
    line: int | None = None
    for length in range(len(path), 0, -1):  # the key itself, or the nearest table that stands in the text
        if path[:length] in places:
            where, line = places[path[:length]]
            break
    if error["type"] == "extra_forbidden":
        known, hint = _near_matches(path)
        return Problem(where, line, key, known, "an unknown key", hint)
    return Problem(where, line, key, _expected(error), _got(error))


_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "a text in quotes",
    "bool_type": "true or false",
    "tuple_type": "an array",
    "model_type": "a table",
    "model_attributes_type": "a table",
}


def _expected(error: Any) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "greater_than_equal":
            return f"at least {context['ge']}"
        case "greater_than":
            return f"more than {context['gt']}"
        case "less_than_equal":
            return f"at most {context['le']}"
        case "literal_error":
            return f"one of {context['expected']}"
        case "value_error":
            return str(context["error"])
        case other:
            return _TYPES.get(other, str(error["msg"]))


def _got(error: Any) -> str:
    value = error["input"]
    if isinstance(value, (dict, _Section)):
        return "this combination" if error["type"] == "value_error" else "a table"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = json.dumps(value) if isinstance(value, (str, int, float, list)) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _near_matches(path: tuple[str, ...]) -> tuple[str, str]:
    """What keys there are at an unknown key's place, and which one was probably meant."""
    if path[0] == "instances":
        path = ("trace", *path[2:])
    model: type[BaseModel] = Config
    for name in path[:-1]:
        annotation = model.model_fields[name].annotation
        assert isinstance(annotation, type)
        model = annotation
    known = f"a key of {'.'.join(path[:-1]) or 'the top level'}"
    if near := difflib.get_close_matches(path[-1], model.model_fields, n=1, cutoff=0.6):
        return known, f"did you mean {near[0]}?"
    elsewhere = {key[-1]: ".".join(key) for key in config_keys()}
    if near := difflib.get_close_matches(path[-1], elsewhere, n=1, cutoff=0.8):
        return known, f"did you mean {elsewhere[near[0]]}?"
    return known, "keys here: " + ", ".join(field.alias or name for name, field in model.model_fields.items())


def config_keys() -> list[tuple[str, ...]]:
    """The path of every setting, in the order of the models."""
    keys: list[tuple[str, ...]] = []
    for name, field in Config.model_fields.items():
        if field.alias is not None:
            continue  # [[instances]] has the keys of [trace]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [(name, inner) for inner in field.annotation.model_fields]
        else:
            keys.append((name,))
    return keys
