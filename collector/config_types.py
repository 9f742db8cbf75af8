"""What all settings are built of: a strict section, and types that many of them have.

Importing this module imports pydantic (50 ms): the commands that only read an archive don't.
"""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["GIB", "KIB", "MIB", "AtLeastOne", "Auto", "Section"]

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


def _none_if_auto(value: object) -> object:
    """TOML has no null: "auto" says that the program chooses."""
    return None if value == "auto" else value


AtLeastOne = Annotated[int, Field(ge=1)]
Auto = BeforeValidator(_none_if_auto)


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
