"""The names that a segment's blocks refer to, looked up when a segment first needs them."""

import time
from collections.abc import Collection, Mapping

from collector.capture.formats import FormatBook
from collector.errors import SegmentError
from collector.tracefs.cmdlines import parse_saved_cmdlines, parse_saved_tgids
from collector.tracefs.files import TracefsDir
from collector.tracefs.symbols import SymbolTable, parse_printk_formats

# saved_cmdlines has up to 6,552 lines and is made anew at each read: some ms of kernel time.
THREADS_AGE_S = 0.5

# Modules and BPF programs come and go; kallsyms costs a fifth of a second to read and 10 MiB to hold.
SYMBOLS_AGE_S = 60.0


class HostNames:
    """Formats of all instances, kernel symbols and the names of threads.

    Used by the archive's thread alone.

    Args:
      tree: the top of tracefs, or of a recorded tree.
      books: of the instances; more can be added.
    """

    def __init__(self, tree: TracefsDir, books: list[FormatBook]) -> None:
        self._tree = tree
        self.books = books
        self._symbols: SymbolTable | None = None
        self._symbols_read_s = 0.0
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
        """{address: (name, offset, module)} of those that kallsyms can name."""
        found = self._find_symbols(addresses)
        if len(found) < len(addresses) and time.monotonic() - self._symbols_read_s >= SYMBOLS_AGE_S:
            self._symbols = None
            found = self._find_symbols(addresses)
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

    def _read_threads(self) -> None:
        now_s = time.monotonic()
        if now_s - self._threads_read_s >= THREADS_AGE_S:
            self._threads_read_s = now_s
            self._comms = parse_saved_cmdlines(self._tree.read_saved_cmdlines() or b"")
            self._tgids = parse_saved_tgids(self._tree.read_saved_tgids() or "")

    def _find_symbols(self, addresses: Collection[int]) -> dict[int, tuple[str, int, str]]:
        if self._symbols is None:
            self._symbols = SymbolTable.parse(self._tree.read_kallsyms() or b"")
            self._symbols_read_s = time.monotonic()
        found = {}
        for address in addresses:
            symbol = self._symbols.lookup(address)
            if symbol is not None:
                found[address] = (symbol.name, symbol.offset, symbol.module or "")
        return found
