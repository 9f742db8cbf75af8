"""The settings that all network sinks have, and what a type of sink is."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from collector.config.types import GIB, MIB, Auto, Cpus, Names, Section, SinkSection
from sinks.contract.base import Follower, SinkContext, Transport

WhenFull = Literal["spool", "block", "drop_oldest", "drop_newest"]

Seconds = Annotated[float, Field(gt=0, le=86400)]

SPOOL_FOLDER = "spool"  # in the archive's folder: of the sinks that name none

# What the archive itself is called in metrics that have a series of each sink too.
ARCHIVES_NAMES = ("archive", "file")


class FilterOptions(Section):
    """Which blocks and entries a sink is given."""

    instances: Names = ("*",)  # shell patterns
    cpus: Cpus = None  # None: all
    events: Names = ("*",)  # SYSTEM:EVENT, shell patterns

    @field_validator("instances", "events")
    @classmethod
    def _something_passes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or "" in value:
            raise ValueError('at least one pattern, such as "*"')
        return value

    @property
    def event_patterns(self) -> tuple[str, ...] | None:
        """In an order of their own, so that equal filters are the same; None: all events pass."""
        return None if "*" in self.events or "*:*" in self.events else tuple(sorted(set(self.events)))


class SinkCommon(SinkSection):
    """What each of [[sinks]] has; the model of a type adds its own, and `type: Literal["its name"]`."""

    type: str
    name: str = ""  # in metrics and messages, and of the spool's folder; "": as the type
    when_full: WhenFull = "spool"  # at the limit of the spool, or of the memory where there is no spool
    queue_bytes: Annotated[int, Field(ge=MIB, le=16 * GIB)] = 16 * MIB  # held in memory, beside the memory budget
    spool_bytes: Annotated[int, Field(ge=8 * MIB)] = GIB  # of the spool on the disk
    spool_folder: Annotated[str | None, Auto] = None  # None: NAME in the archive's folder `spool`; see spools
    sync_interval_s: Annotated[float, Field(ge=0, le=3600)] = 1.0  # fdatasync of the spool this often
    # The header and the names that blocks need are sent again this often: who begins to listen waits as long.
    repeat_interval_s: Annotated[float, Field(ge=1, le=86400)] = 300.0
    # What is not a batch waits so long for more: a busy daemon is woken less often, and its receiver too.
    linger_s: Annotated[float, Field(ge=0, le=10)] = 0.25
    request_timeout_s: Seconds = 30.0  # for a connection, and for an acknowledgement
    retry_first_s: Seconds = 0.5  # the first wait after a failure; it doubles
    retry_max_s: Seconds = 30.0
    stall_limit_s: Seconds = 300.0  # without an acknowledgement, while something waits: /readyz says 503
    filter: FilterOptions = FilterOptions()

    @field_validator("name")
    @classmethod
    def _name_is_a_folder_name(cls, value: str) -> str:
        if value and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}", value):
            raise ValueError("a name of letters, digits and _ . - that starts with a letter, a digit or _")
        if value in ARCHIVES_NAMES:
            raise ValueError('another name than "archive" and "file": in the metrics they are the archive\'s own')
        return value

    @field_validator("spool_folder")
    @classmethod
    def _folder_is_a_path(cls, value: str | None) -> str | None:
        if value is not None and (not value or "\0" in value):
            raise ValueError("the path of a folder")
        return value

    @model_validator(mode="after")
    def _waits_grow(self) -> "SinkCommon":
        if self.retry_first_s > self.retry_max_s:
            raise ValueError(f"retry_max_s of at least retry_first_s ({self.retry_first_s}), not {self.retry_max_s}")
        return self

    @property
    def title(self) -> str:
        """The sink's name."""
        return self.name or self.type

    @property
    def spools(self) -> bool:
        """Whether what is not acknowledged is kept on disk; else in memory alone."""
        return self.when_full == "spool" or self.spool_folder is not None

    def spool_path(self, archive: Path) -> Path | None:
        if not self.spools:
            return None
        return archive / SPOOL_FOLDER / self.title if self.spool_folder is None else Path(self.spool_folder)


@dataclass(frozen=True, slots=True)
class SinkType:
    """One type of sink: `SINK` in its sink.py."""

    options: type[SinkCommon]
    # Gives a transport or a follower, without connecting. Raises ConfigError: a secret or a certificate cannot be used.
    build: Callable[[Any, SinkContext], Transport | Follower]  # (an instance of options, context)
