"""The settings as frozen models, and their defaults; those of an instance are in trace.py."""

import hashlib
import json
from itertools import combinations
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, InstanceOf, SerializeAsAny, field_validator, model_validator

from collector.config.text import split_listen
from collector.config.trace import TraceConfig
from collector.config.types import GIB, KIB, MIB, AtLeastOne, Auto, Section
from collector.tracefs.dynamic import group_of, parse_probes
from collector.tracefs.tracers import excludes, family_of

MIN_PERIOD_S = 60  # segments shorter than that are mostly headers
PERIODS = {"none": None, "hour": 3600, "day": 86400}  # {word: seconds}
PERIOD_EXPECTED = f'"none", "hour", "day", or at least {MIN_PERIOD_S} seconds'


def to_period(value: object) -> object:
    """Give the seconds that a word stands for."""
    if isinstance(value, str) and value in PERIODS:
        return PERIODS[value]
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < MIN_PERIOD_S):
        raise ValueError(PERIOD_EXPECTED)
    return value


Period = Annotated[int | None, BeforeValidator(to_period)]


class CaptureConfig(Section):
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


class ArchiveConfig(Section):
    """The folder of segments, and how much of the disk it may have."""

    folder: str = "./traces"
    segment_bytes: Annotated[int, Field(ge=MIB, le=64 * GIB)] = 128 * MIB  # size that seals a segment
    segment_age_s: Annotated[float, Field(ge=1)] = 3600.0  # age that seals a segment
    rotate_at: Period = None  # seals at each multiple of so many seconds of wall time too, in UTC
    max_bytes: Annotated[int, Field(ge=2 * MIB)] = 10 * GIB  # sealed segments are removed, oldest first, to stay below
    max_age_s: Annotated[float, Field(ge=0)] = 0.0  # segments that were sealed longer ago are removed; 0: none are
    keep_until_acknowledged: bool = False  # a segment of which something is still to reach one of [[sinks]] stays
    min_free_bytes: Annotated[int, Field(ge=0)] = GIB  # free space that archiving leaves; see min_free_of()
    reserve_bytes: Annotated[int, Field(ge=0, le=GIB)] = MIB  # a file that makes room for sealing on a full disk
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


class HttpConfig(Section):
    """Where /metrics, /livez and /readyz are served."""

    listen: str = "127.0.0.1:9464"  # HOST:PORT; "" serves nothing

    @field_validator("listen")
    @classmethod
    def _listen_is_an_address(cls, value: str) -> str:
        if value:
            split_listen(value)
        return value


class LogConfig(Section):
    """The messages on stderr."""

    format: Literal["text", "json"] = "text"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Config(Section):
    """The whole configuration."""

    trace: TraceConfig = TraceConfig()  # the first instance, where there are [[instances]]
    instance_tables: Annotated[tuple[TraceConfig, ...], Field(strict=False, alias="instances")] = ()
    capture: CaptureConfig = CaptureConfig()
    archive: ArchiveConfig = ArchiveConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()
    sinks: tuple[SerializeAsAny[InstanceOf[BaseModel]], ...] = ()  # each of the model of its type, see sinks.py
    shutdown_timeout_s: Annotated[float, Field(gt=0, le=3600)] = 30.0  # drain and seal within this, else exit 75

    @field_validator("instance_tables")
    @classmethod
    def _names_differ(cls, value: tuple[TraceConfig, ...]) -> tuple[TraceConfig, ...]:
        names = [trace.instance for trace in value]
        if len(set(names)) < len(names):
            raise ValueError("a name of its own for each instance")
        if sum(trace.top_level_buffer for trace in value) > 1:
            raise ValueError("top_level_buffer = true in one table at most: there is one top level")
        return value

    @field_validator("instance_tables")
    @classmethod
    def _tracers_run_beside_each_other(cls, value: tuple[TraceConfig, ...]) -> tuple[TraceConfig, ...]:
        for one, other in combinations(value, 2):
            if excludes(one.tracer, other.tracer):
                family = ", ".join(sorted(family_of(one.tracer)))
                raise ValueError(
                    f"one of the tracers {family} at a time, for all instances: "
                    f'"{one.instance}" has {one.tracer}, "{other.instance}" has {other.tracer}'
                )
        return value

    @field_validator("instance_tables")
    @classmethod
    def _probes_differ(cls, value: tuple[TraceConfig, ...]) -> tuple[TraceConfig, ...]:
        for one, other in combinations(value, 2):
            names = (f'"{one.instance}"', f'"{other.instance}"')
            if (one.probes or other.probes) and group_of(one.instance) == group_of(other.instance):
                raise ValueError(f"names of instances that differ in letters and digits, not {' and '.join(names)}")
            makers = [{(p.group, p.name) for p in parse_probes(trace.probes, trace.instance)} for trace in (one, other)]
            for group, name in sorted(makers[0] & makers[1]):
                raise ValueError(f"one instance that makes {group}:{name}, not both {' and '.join(names)}")
        return value

    def instances(self) -> tuple[TraceConfig, ...]:
        """The instances to collect from: one or more."""
        return self.instance_tables or (self.trace,)

    def hash(self) -> str:
        """16 hex digits that name these settings; stored in each segment's header."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def config_keys() -> list[tuple[str, ...]]:
    """The path of every setting, in the order of the models."""
    keys: list[tuple[str, ...]] = []
    for name, field in Config.model_fields.items():
        if name == "sinks" or field.alias is not None:
            continue  # [[instances]] has the keys of [trace], each of [[sinks]] those of its type
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += [(name, inner) for inner in field.annotation.model_fields]
        else:
            keys.append((name,))
    return keys
