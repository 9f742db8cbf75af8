"""What is said beside kernel addresses: the names of code and the kernel's own strings, of one segment."""

from collections.abc import Mapping
from dataclasses import dataclass, field

_WORD = (1 << 64) - 1


@dataclass(slots=True)
class Symbols:
    """The names in a segment."""

    code: dict[int, str] = field(default_factory=dict)  # {address: "name+0xoffset [module]"}
    strings: dict[int, str] = field(default_factory=dict)  # {address: the kernel's string there}

    @property
    def any(self) -> bool:
        """Whether anything has a name."""
        return bool(self.code or self.strings)

    def add_code(self, names: Mapping[int, tuple[str, int, str]]) -> None:
        """Takes a symbols object."""
        for address, (name, offset, module) in names.items():
            self.code[address & _WORD] = f"{name}+{offset:#x}{f' [{module}]' if module else ''}"

    def add_strings(self, texts: Mapping[int, str]) -> None:
        """Takes a printk object."""
        self.strings.update((address & _WORD, text) for address, text in texts.items())
