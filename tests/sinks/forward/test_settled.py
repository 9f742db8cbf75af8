"""What stands before the first batch that is not settled."""

import pytest

from collector.archive.frame import Kind
from collector.batch import Delivery
from sinks.contract.base import Parcel
from sinks.forward import settled
from sinks.forward.settled import Preamble, Settled

DELIVERED, ERRORED, REJECTED = Delivery.DELIVERED, Delivery.ERRORED, Delivery.REJECTED
RUN = b"r" * 16


def of(text: str) -> list[Parcel]:
    """H: a header, o: an object, b: a block; the body is the text from its beginning."""
    kinds = {"H": Kind.HEADER, "o": Kind.OBJECT, "b": Kind.BLOCK}
    return [Parcel(kinds[part[0]], part.encode(), RUN) for part in text.split()]


def shown(found: Settled) -> str:
    return " ".join(parcel.body.decode() for parcel in found.preamble)


def test_batches_are_settled_in_the_order_in_which_they_began() -> None:
    found = Settled()
    first, second, third = (found.begin(of(text)) for text in ("H1 o1 b1", "o2 b2", "H3 o3 b3"))
    found.end(second, DELIVERED)
    assert shown(found) == ""
    found.end(first, DELIVERED)
    assert shown(found) == "H1 o1 o2"
    found.end(third, DELIVERED)
    assert shown(found) == "H3 o3"


def test_what_was_delivered_behind_a_failure_comes_again() -> None:
    found = Settled()
    first, second, third = (found.begin(of(text)) for text in ("H1 o1 b1", "b2", "H3 o3 b3"))
    found.end(third, DELIVERED)
    found.end(second, ERRORED)
    found.end(first, DELIVERED)
    assert shown(found) == "H1 o1"
    again = found.begin(of("b2 H3"))
    assert shown(found) == "H1 o1"
    found.end(again, DELIVERED)
    assert shown(found) == "H3"
    found.end(found.begin(of("o3 b3")), DELIVERED)
    assert shown(found) == "H3 o3"


def test_of_a_batch_that_is_rejected_the_parcels_come_again_one_by_one() -> None:
    found = Settled()
    found.end(found.begin(of("H1 o1 b1 o2")), REJECTED)
    assert shown(found) == ""
    for text, answer in (("H1", DELIVERED), ("o1", DELIVERED), ("b1", REJECTED), ("o2", DELIVERED)):
        found.end(found.begin(of(text)), answer)
    assert shown(found) == "H1 o1 o2"


def test_a_preamble_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "MOST_PREAMBLE_BYTES", 5)
    assert [parcel.body for parcel in Preamble(of("H1 o1 o2 o3")).parcels] == [b"H1", b"o1"]
    assert [parcel.body for parcel in Preamble(of("H1 o1 o2 H2 o3")).parcels] == [b"H2", b"o3"]
