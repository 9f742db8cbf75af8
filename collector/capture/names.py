"""The names that a segment's blocks refer to, looked up when a segment first needs them."""

import time
from collections.abc import Collection, Mapping

from collector.capture.formats import FormatBook
from collector.errors import SegmentError
from collector.tracefs.cmdlines import parse_saved_cmdlines
from collector.tracefs.files import TracefsDir
from collector.tracefs.symbols import SymbolTable

# saved_cmdlines has up to 6,552 lines and is made anew at each read: some ms of kernel time.
COMMS_AGE_S = 0.5

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
        self._comms: dict[int, bytes] = {}
        self._comms_read_s = float("-inf")

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

    def comms(self, pids: Collection[int]) -> Mapping[int, bytes]:
        """{pid: comm} of those that the kernel has saved."""
        now_s = time.monotonic()
        if now_s - self._comms_read_s >= COMMS_AGE_S:
            self._comms_read_s = now_s
            self._comms = parse_saved_cmdlines(self._tree.read_saved_cmdlines() or b"")
        return {pid: self._comms[pid] for pid in pids if pid in self._comms}

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
