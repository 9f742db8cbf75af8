"""collector.cpulist: the kernel's notation for sets of CPUs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.cpulist import format_cpu_list, parse_cpu_list


@pytest.mark.parametrize(("text", "cpus"), [("0", (0,)), ("0-3,8", (0, 1, 2, 3, 8)), ("8, 1-2,2", (1, 2, 8))])
def test_lists_are_parsed_in_order_and_once(text: str, cpus: tuple[int, ...]) -> None:
    assert parse_cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-9999999999", "\u0663"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"CPU|range"):
        parse_cpu_list(text)


@given(st.sets(st.integers(0, 200), min_size=1))
def test_what_is_written_reads_back(cpus: set[int]) -> None:
    assert parse_cpu_list(format_cpu_list(cpus)) == tuple(sorted(cpus))


def test_runs_become_ranges() -> None:
    assert format_cpu_list([3, 1, 2, 7]) == "1-3,7"
    assert format_cpu_list([]) == ""
