from collections.abc import Sequence

from collector.read.lookup import Names

class RowKind:
    n_fields: int
    def __init__(
        self, event: str, columns: Sequence[tuple[str, str, int, bool, int, str]], *, is_raw: bool = False
    ) -> None: ...

def pack_text(text: str) -> bytes: ...

class RowEncoder:
    def open(
        self,
        cols: bytes,
        entries: int,
        first_ts: int,
        last_ts: int,
        ordinal: int,
        kinds: Sequence[tuple[RowKind, int]],
        prefix: bytes,
        prefix_entries: int,
        pieces: Sequence[tuple[int, int, int, int, int]] | None,
        fallback_ns: int,
        comms: Names,
        tgids: Names,
        symbols: Names,
        strings: Names,
    ) -> None: ...
    @property
    def left(self) -> int: ...
    def fill(self, limit_bytes: int) -> int: ...
    def data(self) -> bytes: ...
    def event_time(self, at: int) -> bytes: ...
