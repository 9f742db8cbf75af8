"""Who is given what of a block."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from collector.batch import Block, Missed, Note
from sinks.fanout import Fanout, Route
from sinks.options import FilterOptions
from tests.contract.made import block


class Taker:
    """Stands in for a runner; notes what it is given."""

    def __init__(self) -> None:
        self.items: list[Block | Note] = []
        self.left_out = 0

    def put(self, item: Block | Note, release: Any = None) -> None:
        self.items.append(item)
        if release is not None:
            release()

    def leave_out(self, events: int) -> None:
        self.left_out += events


def make_fanout(*routes: Route) -> Fanout:
    return Fanout(Taker(), routes)  # type: ignore[arg-type]


def test_gaps_of_a_block_of_which_nothing_passes_are_told(tmp_path: Path) -> None:
    taker, elsewhere = Taker(), Taker()
    fanout = make_fanout(
        Route(taker, FilterOptions(events=("irq:*",)), 0),  # type: ignore[arg-type]
        Route(elsewhere, FilterOptions(events=("irq:*",), cpus="7"), 0),  # type: ignore[arg-type]
    )
    gaps = (Missed(0, 5, "page"), Missed(10, None, "page"))
    released: list[int] = []
    fanout.put(replace(block(3), gaps=gaps, variants=(None,)), lambda: released.append(1))
    assert [of.body["count"] for of in taker.items if isinstance(of, Note)] == [5, None]
    assert {of.body["cause"] for of in taker.items if isinstance(of, Note)} == {"overrun"}
    assert (taker.left_out, elsewhere.left_out) == (10, 10)
    assert elsewhere.items == []
    assert released == [1]


def test_a_block_of_which_something_passes_keeps_its_gaps_itself() -> None:
    taker = Taker()
    fanout = make_fanout(Route(taker, FilterOptions(events=("irq:*",)), 0))  # type: ignore[arg-type]
    whole = replace(block(3), gaps=(Missed(0, 5, "page"),))
    fanout.put(replace(whole, variants=(whole,)))
    assert taker.items == [whole]
