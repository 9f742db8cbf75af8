from collector.decode.ring import Batch
from collector.decode.text_plan import TextPlan

TEXT_BYTES: int
RECORD_BYTES: int
PAGE_BYTES: int

class TextBatch(Batch):
    total_unparsed: int
    total_folded: int
    def __init__(self, plan: TextPlan, pages_size: int, capacity: int) -> None: ...
    @property
    def held_bytes(self) -> int: ...
    @property
    def unparsed_example(self) -> bytes: ...
    def note_time(self, ts: int) -> None: ...
