"""What all settings are built of: a strict section, and types that many of them have.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

import re
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from collector.errors import UsageError
from collector.tracefs.cpus import parse_cpu_list

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

CPUS_EXPECTED = '"all", or CPUs such as "0-3,8"'


def none_if_auto(value: object) -> object:
    """TOML has no null: "auto" says that the program chooses."""
    return None if value == "auto" else value


def to_cpus(value: object) -> object:
    """Give the CPUs that a text lists; "all" is None."""
    if value == "all":
        return None
    if not isinstance(value, str):
        return value
    try:
        return parse_cpu_list(value)
    except UsageError as e:
        raise ValueError(CPUS_EXPECTED) from e


def _check_cpus(value: tuple[int, ...] | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        cpus = parse_cpu_list(",".join(map(str, value)))
    except UsageError as e:
        raise ValueError(CPUS_EXPECTED) from e
    if not cpus:
        raise ValueError(CPUS_EXPECTED)
    return cpus


AtLeastOne = Annotated[int, Field(ge=1)]
Auto = BeforeValidator(none_if_auto)
# TOML gives lists; frozen models hold tuples. Only the container is converted, never an item.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Cpus = Annotated[tuple[int, ...] | None, Field(strict=False), BeforeValidator(to_cpus), AfterValidator(_check_cpus)]


def _check_path(value: str) -> str:
    if not value or "\0" in value:
        raise ValueError("the path of a file")
    return value


FilePath = Annotated[str, AfterValidator(_check_path)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class SinkSection(Section):
    """What the configuration itself knows of the settings of a sink."""

    not_here: ClassVar[tuple[str, ...]] = ()  # settings of other sinks that this type refuses

    def spool_path(self, archive: Path) -> Path | None:
        """The folder that the sink writes to alone, where the archive is in that folder; None: it has none."""
        return None


class Secret(Section):
    """Where a secret is. Somebody may write the secret itself there: no message shows the value."""

    file: FilePath | None = None  # its path
    credential: str | None = None  # its name in $CREDENTIALS_DIRECTORY

    @model_validator(mode="after")
    def _one_place(self) -> "Secret":
        if (self.file is None) == (self.credential is None):
            raise ValueError("either file or credential")
        if self.credential is not None and not re.fullmatch(r"[A-Za-z0-9_.@-]+", self.credential):
            raise ValueError("the name of a credential: letters, digits and _ . @ -")
        return self


def looks_secret(option: str) -> bool:
    """Whether an option, of a library that has many, is one whose value is a secret, by its name."""
    low = option.lower()
    named = re.search(r"secret|passw|passphrase|token|key|pem|jaas|credential|sas(?!l)", low)
    return named is not None and not low.endswith(("_id", "file", "location"))
