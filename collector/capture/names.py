"""The names that a segment's blocks refer to, looked up when a segment first needs them."""

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from collector.capture import host
from collector.capture.formats import FormatBook
from collector.errors import SegmentError
from collector.tracefs.cmdlines import parse_saved_cmdlines, parse_saved_tgids
from collector.tracefs.files import TracefsDir
from collector.tracefs.symbols import Symbol, SymbolTable, parse_printk_formats

# saved_cmdlines has up to 6,552 lines and is made anew at each read: some ms of kernel time.
THREADS_AGE_S = 0.5

# Threads to look up in /proc in that time; each takes some 50 us.
PROC_THREADS = 200

# kallsyms costs a fifth of a second to read and 10 MiB to hold. It is read again when an address has no name, ...
SYMBOLS_AGE_S = 60.0
# ... when modules have come or gone, ...
MODULES_AGE_S = 5.0
# ... and for code whose coming and going nobody tells, such as BPF programs.
VOLATILE_AGE_S = 10.0
_VOLATILE = ("bpf", "__builtin__")

# Below are addresses of processes, which probes record too; no table will ever name them.
_KERNEL_HALF = 1 << 63

# Blocks that name a module which has just gone arrive within that time.
GONE_AGE_S = 60.0


@dataclass(frozen=True, slots=True)
class _Table:
    """kallsyms as read at one moment, and the modules that were loaded before it was read."""

    symbols: SymbolTable
    modules: frozenset[tuple[bytes, ...]]
    read_s: float

    def module_at(self, address: int) -> Symbol | None:
        """The symbol of a module that lies there; None for what is behind the module's end, and for its init code.

        That is freed after the load, and what comes there next looks like the end of the module before it.
        """
        symbol = self.symbols.lookup(address)
        for name, size, _, base in self.modules:
            if symbol is not None and name.decode("utf-8", "replace") == symbol.module:
                start = int(base, 16)
                return symbol if not start or start <= address < start + int(size) else None
        return symbol


class HostNames:
    """Formats of all instances, kernel symbols and the names of threads.

    Used by one thread at a time: see SharedMaps.

    Args:
      tree: the top of tracefs, or of a recorded tree.
      books: of the instances; more can be added.
      proc: of the host; by default its own for the live kernel, and none for a recorded tree.
    """

    def __init__(self, tree: TracefsDir, books: list[FormatBook], proc: Path | None = None) -> None:
        self._tree = tree
        self.books = books
        self._proc = host.PROC if proc is None and tree.live else proc
        self._proc_has_threads = proc is not None or (tree.live and host.reads_kernel_pids(host.PROC))
        self._proc_left = 0  # threads that may still be looked up there
        self._proc_filled_s = float("-inf")
        self._table: _Table | None = None
        self._gone: _Table | None = None  # the one before, for modules that are gone
        self._printk: dict[int, str] | None = None
        self._comms: dict[int, bytes] = {}
        self._tgids: dict[int, int] = {}
        self._threads_read_s = float("-inf")

    def format_object(self, format_id: bytes) -> bytes:
        """The body of a format object that an instance's book made."""
        for book in self.books:
            body = book.object_body(format_id)
            if body is not None:
                return body
        raise SegmentError("a block names a format that nobody has", got=format_id.hex())

    def symbols(self, addresses: Collection[int]) -> Mapping[int, tuple[str, int, str]]:
        """{address: (name, offset, module)} of those that can be named for certain, by a table that is new enough."""
        now_s = time.monotonic()
        modules = host.read_modules(self._proc) if self._proc is not None else frozenset()
        table = self._table
        if table is None or (modules != table.modules and now_s - table.read_s >= MODULES_AGE_S):
            table = self._read_table(modules, now_s)
        found = self._find_symbols(addresses, table, modules, now_s)
        nameless = [a for a in addresses if a not in found and a >= _KERNEL_HALF]
        age_s = now_s - table.read_s
        if nameless and (
            age_s >= SYMBOLS_AGE_S
            or (age_s >= VOLATILE_AGE_S and any(_is_volatile(table.symbols.lookup(a)) for a in nameless))
        ):
            found = self._find_symbols(addresses, self._read_table(modules, now_s), modules, now_s)
        return found

    def printk(self, addresses: Collection[int]) -> Mapping[int, str]:
        """{address: text} of those that printk_formats lists."""
        if self._printk is None:
            self._printk = parse_printk_formats(self._tree.read_printk_formats() or "")
        return {address: self._printk[address] for address in addresses if address in self._printk}

    def tgids(self, pids: Collection[int]) -> Mapping[int, int]:
        """{pid: tgid} of those that the kernel has recorded, which it does on request only."""
        self._read_threads()
        return {pid: self._tgids[pid] for pid in pids if pid in self._tgids}

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        """{pid: comm} of those that the kernel has saved."""
        self._read_threads()
        return {pid: self._comms[pid] for pid in pids if pid in self._comms}

    def proc_threads(self, pids: Collection[int]) -> Mapping[int, tuple[bytes, int]]:
        """{pid: (comm, tgid)} of those that live, as of now; a bounded number of them."""
        if self._proc is None or not self._proc_has_threads:
            return {}
        now_s = time.monotonic()
        if now_s - self._proc_filled_s >= THREADS_AGE_S:
            self._proc_filled_s, self._proc_left = now_s, PROC_THREADS
        asked = sorted(pids)[: self._proc_left]
        self._proc_left -= len(asked)
        return host.read_threads(self._proc, asked)

    def _read_threads(self) -> None:
        now_s = time.monotonic()
        if now_s - self._threads_read_s >= THREADS_AGE_S:
            self._threads_read_s = now_s
            self._comms = parse_saved_cmdlines(self._tree.read_saved_cmdlines() or b"")
            self._tgids = parse_saved_tgids(self._tree.read_saved_tgids() or "")

    def _read_table(self, modules: frozenset[tuple[bytes, ...]], now_s: float) -> _Table:
        """Read kallsyms; the modules were looked at before, so what they list is in it."""
        if self._table is not None and self._table.modules - modules:
            self._gone = self._table
        self._table = _Table(SymbolTable.parse(self._tree.read_kallsyms() or b""), modules, now_s)
        return self._table

    def _find_symbols(
        self, addresses: Collection[int], table: _Table, modules: frozenset[tuple[bytes, ...]], now_s: float
    ) -> dict[int, tuple[str, int, str]]:
        if now_s - table.read_s >= GONE_AGE_S:
            self._gone = None
        found = {}
        for address in addresses:
            symbol = table.symbols.lookup(address)
            if symbol is None or symbol.module is not None:
                symbol = self._settle(address, symbol, table, modules, now_s)
            if symbol is not None:
                found[address] = (symbol.name, symbol.offset, symbol.module or "")
        return found

    def _settle(
        self, address: int, symbol: Symbol | None, table: _Table, modules: frozenset[tuple[bytes, ...]], now_s: float
    ) -> Symbol | None:
        """What lies at an address outside of the kernel itself, when that is certain."""
        if symbol is not None and self._proc is not None and _is_volatile(symbol):
            return symbol if now_s - table.read_s < VOLATILE_AGE_S else None
        if modules != table.modules:
            return None  # a module that came since may lie where the table has another one, or nothing
        symbol = table.module_at(address)
        gone = self._gone
        before = gone.module_at(address) if gone is not None else None
        if gone is None or before is None or before.module not in _names(gone.modules - modules):
            return symbol
        # A module that came since is as likely as the gone one.
        return None if symbol is not None and symbol.module in _names(modules - gone.modules) else before


def _names(modules: frozenset[tuple[bytes, ...]]) -> set[str]:
    return {row[0].decode("utf-8", "replace") for row in modules}


def _is_volatile(symbol: Symbol | None) -> bool:
    """Whether it comes and goes without a trace elsewhere."""
    return symbol is not None and symbol.module is not None and symbol.module.startswith(_VOLATILE)
