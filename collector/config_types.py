"""What all settings are built of: a strict section, and types that many of them have.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from collector.errors import UsageError
from collector.tracefs.cpus import parse_cpu_list

__all__ = ["GIB", "KIB", "MIB", "AtLeastOne", "Auto", "Cpus", "Names", "Section"]

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
Auto = BeforeValidator(_none_if_auto)
# TOML gives lists; frozen models hold tuples. Only the container is converted, never an item.
Names = Annotated[tuple[str, ...], Field(strict=False)]
Cpus = Annotated[tuple[int, ...] | None, Field(strict=False), BeforeValidator(_to_cpus), AfterValidator(_check_cpus)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
