"""The table of docs/tracefs.md names every file that this kernel has."""

import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "tracefs.md"


def rows() -> dict[str, tuple[set[str], str]]:
    """{file: (T and I, use)} of the first table."""
    pattern = r"(?m)^\| `(\w+)` \| ([TI ]+) \| (-|R|W|RW) \| \S.* \|$"
    return {name: (set(where.split()), use) for name, where, use in re.findall(pattern, DOCUMENT.read_text())}


def inner_names() -> set[str]:
    """Names of the files in folders, as the second table has them."""
    return set(re.findall(r"`((?:events|per_cpu|options)/[^`]+)`", DOCUMENT.read_text()))


def test_each_file_has_one_row_in_order() -> None:
    names = re.findall(r"(?m)^\| `(\w+)` \| [TI]", DOCUMENT.read_text())
    assert names == sorted(set(names), key=lambda n: (n != "README", n))
    assert len(names) == len(rows())


@pytest.mark.kernel
def test_every_file_of_the_top_level_is_in_the_table(tracefs: Path) -> None:
    table = rows()
    assert {p.name for p in tracefs.iterdir()} - {n for n, (where, _) in table.items() if "T" in where} == set()


@pytest.mark.kernel
def test_every_file_of_an_instance_is_in_the_table(tracefs: Path, instance_name: str) -> None:
    folder = tracefs / "instances" / instance_name
    folder.mkdir()
    table = rows()
    assert {p.name for p in folder.iterdir()} - {n for n, (where, _) in table.items() if "I" in where} == set()
    known = inner_names()
    found = {f"per_cpu/cpuN/{p.name}" for p in (folder / "per_cpu/cpu0").iterdir()}
    found |= {f"events/{p.name}" for p in (folder / "events").iterdir() if p.is_file()}
    found |= {f"events/SYSTEM/{p.name}" for p in (folder / "events/sched").iterdir() if p.is_file()}
    found |= {f"events/SYSTEM/EVENT/{p.name}" for p in (folder / "events/sched/sched_switch").iterdir()}
    assert found - known == set()
