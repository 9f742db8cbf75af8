from collections.abc import Sequence

from collector.decode.plan import CommonHead
from collector.decode.ring import Plan
from collector.tracefs.layout import PageLayout

FIRST_ID: int
HAS_COMM: int
HAS_CPU: int
HAS_TGID: int
HAS_LAZY: int
KIND_NAMED: int
KIND_SYSCALL_ENTER: int
KIND_SYSCALL_EXIT: int
KIND_FIXED: int
FIXED_NAMES: tuple[str, ...]
FLAG_COLUMNS: dict[str, int]

class TextPlan(Plan):
    def __init__(self, layout: PageLayout, head: CommonHead) -> None: ...
    def set_form(
        self,
        *,
        whole: bool = False,
        latency: bool = False,
        verbose: bool = False,
        graph: bool = False,
        graph_cpu: bool = True,
        graph_abstime: bool = False,
        graph_proc: bool = False,
        graph_duration: bool = True,
        graph_reltime: bool = False,
        flags: Sequence[str] = (),
    ) -> None: ...
    def set_joins(self, event_id: int) -> None: ...
    def name_of(self, event_id: int) -> tuple[int, int, str] | None: ...
