"""Names of kernel addresses: /proc/kallsyms and printk_formats. Pure.

    kallsyms       = *(ADDRESS " " TYPE " " NAME [TAB "[" MODULE "]"] NL)     ; address: 16 (8) hex digits
    printk_formats = *("0x" ADDRESS " : " DQUOTE C-ESCAPED DQUOTE NL)

The kernel's own symbols come first and sorted; those of modules, trampolines and BPF follow in
any order. So the first part (100,000 lines and more) is searched where it lies, by halving the
bytes and looking at the line there, and only the rest is parsed: nothing costs time before the
first lookup, and there is no object per symbol. Parsing it all took 0.15 s of CPU, a lookup takes
20 µs, and an archive asks for some hundred, each sink for the same ones again: those are remembered.

Source: kernel/kallsyms.c, s_show(); kernel/trace/trace_printk.c, t_show().
"""

import re
from array import array
from bisect import bisect_right
from dataclasses import dataclass

# The end of a symbol is not in the file: it lasts to the next one, but never this far (bytes). What
# lies farther is a gap between kernel and modules, or freed init text.
_MAX_OFFSET = 1 << 20
# Symbols that mark an end: an address behind them belongs to nothing.
_BORDERS = frozenset({b"_end", b"_etext", b"_einittext", b"__bss_stop"})
# Answers that are remembered; to go through a table again costs more than to begin anew now and then.
_MOST_KNOWN = 1 << 15
# Absolute values (per-CPU offsets at 0, version marks) are not addresses.
_ABSOLUTE = b"aA"

_PRINTK = re.compile(r'^0x([0-9a-fA-F]+) : "(.*)"$')
_ESCAPE = re.compile(r"\\([0-7]{1,3}|x[0-9a-fA-F]{1,2}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "e": "\x1b"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """What lies at an address."""

    name: str
    offset: int  # bytes from the symbol's start
    module: str | None  # None: the kernel itself


class SymbolTable:
    """The symbols of one boot. Addresses differ from boot to boot, and modules come and go."""

    __slots__ = ("_core_end", "_data", "_hidden", "_known", "_module_addresses", "_module_starts")

    def __init__(self, data: bytes, core_end: int, addresses: "array[int]", starts: "array[int]", hidden: bool) -> None:
        """Use `parse`."""
        self._data = data
        self._core_end = core_end  # bytes of the sorted part
        self._module_addresses = addresses  # sorted
        self._module_starts = starts  # start of each one's line in `data`
        self._hidden = hidden
        self._known: dict[int, Symbol | None] = {}  # {address: what lies there}

    @classmethod
    def parse(cls, kallsyms: bytes) -> "SymbolTable":
        """Prepare a table; `kallsyms` is the whole file and is kept. A line that isn't one is passed over."""
        first_module = kallsyms.find(b"\t[")
        core_end = len(kallsyms) if first_module < 0 else kallsyms.rfind(b"\n", 0, first_module) + 1
        if not _looks_sorted(kallsyms, core_end):
            core_end = 0
        entries: list[tuple[int, int]] = []
        at = core_end
        while at < len(kallsyms):
            end = kallsyms.find(b"\n", at)
            end = len(kallsyms) if end < 0 else end
            address, symbol_type = _parse_head(kallsyms, at, end)
            if address and symbol_type not in _ABSOLUTE:
                entries.append((address, at))
            at = end + 1
        entries.sort()  # equal addresses stay in the file's order: the first one names them, as in the kernel
        hidden = not entries and not _last_address(kallsyms, core_end)
        return cls(kallsyms, core_end, array("Q", [e[0] for e in entries]), array("Q", [e[1] for e in entries]), hidden)

    @property
    def hidden(self) -> bool:
        """The kernel showed no address (all zero: CAP_SYSLOG is missing), or there was no symbol at all."""
        return self._hidden

    def lookup(self, address: int) -> Symbol | None:
        """The symbol that `address` lies in, or None. Of several at one address the file's first."""
        if self._hidden or address <= 0:
            return None
        if address in self._known:
            return self._known[address]
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        found = self._known[address] = self._look_up(address)
        return found

    def _look_up(self, address: int) -> Symbol | None:
        best_address, best_start = self._find_core(address)
        index = bisect_right(self._module_addresses, address) - 1
        if index >= 0 and self._module_addresses[index] > best_address:
            best_address = self._module_addresses[index]
            while index and self._module_addresses[index - 1] == best_address:
                index -= 1
            best_start = self._module_starts[index]
        offset = address - best_address
        if best_address == 0 or offset > _MAX_OFFSET:
            return None
        return self._symbol(best_start, offset)

    def _find_core(self, address: int) -> tuple[int, int]:
        """The last address <= `address` of the sorted part, and where its first line starts; (0, 0): none."""
        data = self._data
        low, high = 0, self._core_end  # both are starts of lines; all lines before `low` are <= address
        while low < high:
            start = data.rfind(b"\n", low, (low + high) // 2) + 1 or low
            end = data.find(b"\n", start, high)
            end = high if end < 0 else end + 1
            if _parse_head(data, start, end)[0] <= address:
                low = end
            else:
                high = start
        if low == 0:
            return 0, 0
        start = data.rfind(b"\n", 0, low - 1) + 1
        found, symbol_type = _parse_head(data, start, low)
        if symbol_type in _ABSOLUTE:
            return 0, 0
        while start:
            previous = data.rfind(b"\n", 0, start - 1) + 1
            if _parse_head(data, previous, start)[0] != found:
                break
            start = previous
        return found, start

    def _symbol(self, start: int, offset: int) -> Symbol | None:
        end = self._data.find(b"\n", start)
        line = self._data[start : end if end >= 0 else len(self._data)]
        head, _, module = line.partition(b"\t")
        name = head.split(b" ", 2)[2]
        if name in _BORDERS:
            return None
        text = module.strip(b"[]").decode("utf-8", "replace")
        return Symbol(name.decode("utf-8", "replace"), offset, text or None)


def parse_printk_formats(text: str) -> dict[int, str]:
    """Parse printk_formats: {address: the string there, C escapes undone}.

    Duplicates occur and are equal; a line of another shape is passed over, for a string that can't be
    resolved costs only its text.
    """
    found: dict[int, str] = {}
    for line in text.split("\n"):
        if match := _PRINTK.match(line):
            found[int(match[1], 16)] = _ESCAPE.sub(_unescape, match[2])
    return found


def _unescape(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "01234567":
        return chr(int(code, 8) & 0xFF)
    if code[0] == "x" and len(code) > 1:
        return chr(int(code[1:], 16))
    return _ESCAPES.get(code, code)


def _parse_head(data: bytes, start: int, end: int) -> tuple[int, bytes]:
    """Address and type of the line at `start`; (0, b"") for a line that isn't one."""
    parts = data[start : min(end, start + 20)].split(b" ", 2)
    try:
        return (int(parts[0], 16), parts[1]) if len(parts) == 3 and len(parts[1]) == 1 else (0, b"")
    except ValueError:
        return 0, b""


def _last_address(data: bytes, end: int) -> int:
    """Address of the last line before `end`: the largest of a sorted part."""
    if end <= 0:
        return 0
    return _parse_head(data, data.rfind(b"\n", 0, end - 1) + 1, end)[0]


def _looks_sorted(data: bytes, end: int, samples: int = 256) -> bool:
    """Whether the lines before `end` ascend, as far as samples (all lines of a short file) show."""
    step = max(1, end // samples)
    last = 0
    for at in range(0, end, step):
        start = data.rfind(b"\n", 0, at) + 1
        line_end = data.find(b"\n", start)
        address, symbol_type = _parse_head(data, start, end if line_end < 0 else line_end)
        if not symbol_type or address < last:
            return False
        last = address
    return True
