"""Who writes is killed before each step that it takes on a real filesystem, and in the middle of each write."""

from pathlib import Path

import pytest

from tests.crash.case import look, prepare
from tests.crash.cases import CASES
from tests.crash.killer import WRITES, in_a_child

# A process that dies leaves all that it has written, synced or not.
DURABLE_WHEN_KILLED = {"written": "durable"}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_killed])
def test_a_writer_that_is_killed_at_any_step_loses_nothing_durable(name: str, place: Path) -> None:
    case, killed, at, last = CASES[name], True, 0, ""
    while killed:
        # Behind a write that was about to begin comes the same one in its middle.
        at, torn = (at, True) if last in WRITES else (at + 1, False)
        root = prepare(case, place / f"{at}{' torn' if torn else ''}")
        said, steps, killed = in_a_child(case, root, at, torn)
        last = "" if torn else steps[-1]
        said = [(DURABLE_WHEN_KILLED.get(what, what), value) for what, value in said]
        assert look(case, said, root, go_on=True) == [], f"killed at step {at}, {steps[-1]}"
    assert at > 3
