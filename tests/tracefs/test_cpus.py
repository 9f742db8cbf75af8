"""CPU lists and masks, both ways."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import UsageError
from collector.tracefs.cpus import format_cpu_list, format_cpu_mask, parse_cpu_list, parse_cpu_mask


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("", ()), ("0\n", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("8, 0-1", (0, 1, 8)), ("3,3,2-3", (2, 3))],
)
def test_lists(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["x", "1-", "-1", "3-1", "1,,2", "0-99999", "10000", "1.5"])
def test_wrong_lists_say_what_is_wrong(text: str) -> None:
    with pytest.raises(UsageError, match=r"not a list of CPUs.*0-3,8"):
        parse_cpu_list(text)


@pytest.mark.parametrize(
    ("text", "cpus"), [("3\n", (0, 1)), ("0", ()), ("00000001,00000000", (32,)), ("f0", (4, 5, 6, 7))]
)
def test_masks(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_mask(text) == cpus


@pytest.mark.parametrize("text", ["", "x", "1,", "123456789"])
def test_wrong_masks(text: str) -> None:
    with pytest.raises(UsageError, match="mask"):
        parse_cpu_mask(text)


def test_the_shortest_forms() -> None:
    assert format_cpu_list((8, 0, 1, 2, 3)) == "0-3,8"
    assert format_cpu_list(()) == ""
    assert format_cpu_mask((0, 1)) == "3"
    assert format_cpu_mask((32, 0)) == "1,00000001"
    assert format_cpu_mask(()) == "0"


@given(st.frozensets(st.integers(0, 300)))
def test_there_and_back(cpus: frozenset[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))
    assert parse_cpu_mask(format_cpu_mask(cpus)) == tuple(sorted(cpus))
