"""What is said beside kernel addresses: the names of code and the kernel's own strings, of one segment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from collector.archive.objects import FormatObject
from collector.errors import TracefsFormatError
from collector.tracefs.formats import INTERNAL_SYSTEM, parse_event_format, string_fields, symbol_fields

_WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class AddressFields:
    """The fields of an event that hold kernel addresses."""

    code: frozenset[str] = frozenset()
    strings: frozenset[str] = frozenset()


@dataclass(slots=True)
class Symbols:
    """The names in a segment."""

    code: dict[int, str] = field(default_factory=dict)  # {address: "name+0xoffset [module]"}
    strings: dict[int, str] = field(default_factory=dict)  # {address: the kernel's string there}
    _fields: dict[bytes, AddressFields] = field(default_factory=dict)

    def add_code(self, names: Mapping[int, Any]) -> None:
        """Takes a symbols object; what is no [name, offset, module] is left out."""
        for address, row in names.items():
            match row:
                case [str(name), int(offset), str(module)]:
                    self.code[address & _WORD] = f"{name}+{offset:#x}{f' [{module}]' if module else ''}"

    def add_strings(self, texts: Mapping[int, Any]) -> None:
        """Takes a printk object."""
        self.strings.update((address & _WORD, text) for address, text in texts.items() if isinstance(text, str))

    def fields(self, of: FormatObject) -> AddressFields:
        """Gives an event's fields that hold addresses, by its format file."""
        found = self._fields.get(of.id)
        if found is None:
            found = self._fields[of.id] = _find_fields(of)
        return found


def _find_fields(of: FormatObject) -> AddressFields:
    text = of.text
    if not text or (of.system != INTERNAL_SYSTEM and not any(word in text for word in ("%p", "char *", "__probe_"))):
        return AddressFields()  # parsing takes 100 µs, and there may be thousands
    try:
        parsed = parse_event_format(text, of.system)
    except TracefsFormatError:
        return AddressFields()
    return AddressFields(frozenset(symbol_fields(parsed)), frozenset(string_fields(parsed)))
