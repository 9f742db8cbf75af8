"""No sink and no clause of the contract is forgotten."""

from sinks.registry import LOADERS
from tests.contract import test_contract, test_limits
from tests.contract.harness import HARNESSES, LACKS, Clause, having


def test_every_type_of_sink_has_a_harness() -> None:
    assert {harness.type for harness in HARNESSES.values()} == {*LOADERS, "file"}


def test_every_clause_has_a_test_and_a_sink_that_keeps_it() -> None:
    found = [getattr(of, "clause", None) for module in (test_contract, test_limits) for of in vars(module).values()]
    assert {of for of in found if isinstance(of, Clause)} == set(Clause)
    assert all(having(of) for of in Clause)


def test_a_sink_that_lacks_a_clause_says_why() -> None:
    assert LACKS.keys() == HARNESSES.keys()
    assert all(len(why) > 20 for lacked in LACKS.values() for why in lacked.values())


def test_an_outage_costs_a_sink_nothing_or_is_told() -> None:
    for lacked in LACKS.values():
        assert (Clause.OUTAGE in lacked) != (Clause.TOLD in lacked)
