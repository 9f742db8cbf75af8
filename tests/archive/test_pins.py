"""Pins: making, reading and removing them, and what `verify` says of the holes around them."""

import os
from pathlib import Path

import pytest

from collector.archive.pins import (
    Pin,
    add_pin,
    list_pins,
    pin_stretch,
    read_pins,
    read_removed_up_to,
    remove_pin,
    write_removed_up_to,
)
from collector.archive.reserve import RESERVE_NAME, give_up_reserve, hold_reserve
from collector.archive.verify import verify_archive
from collector.cli import main
from collector.errors import ArchiveError, UsageError
from tests.archive.encoder import CREATED_NS, write_run

S = 10**9


def test_a_pin_holds_what_it_touches() -> None:
    pin = Pin("x", 10, 20, 0)
    stretches = [(0, 9), (0, 10), (12, 15), (20, 30), (21, 30), (0, 100)]
    assert [pin.covers(*stretch) for stretch in stretches] == [False, True, True, True, False, True]


def test_pins_are_made_listed_and_removed(tmp_path: Path) -> None:
    paths = write_run(tmp_path, segments=3)
    for at, path in enumerate(paths):
        os.utime(path, ns=(CREATED_NS + at * S + S // 2,) * 2)
    assert pin_stretch(tmp_path, "incident", CREATED_NS + S, CREATED_NS + S) == [paths[1]]
    assert pin_stretch(tmp_path, "all", 0, None) == paths
    assert [pin.name for pin in read_pins(tmp_path)] == ["all", "incident"]
    assert list_pins(tmp_path)[1] == (
        f"incident: 2023-11-14T22:13:21Z to 2023-11-14T22:13:21Z, 1 segments, {paths[1].stat().st_size} bytes"
    )
    remove_pin(tmp_path, "all")
    assert [pin.name for pin in read_pins(tmp_path)] == ["incident"]
    assert verify_archive([tmp_path]).problems == []


def test_wrong_pins_are_refused(tmp_path: Path) -> None:
    add_pin(tmp_path, Pin("a", 1, 2, 3))
    with pytest.raises(UsageError, match="such a pin already"):
        add_pin(tmp_path, Pin("a", 1, 2, 3))
    for name in ("", "../a", ".a", "a/b", "x" * 65):
        with pytest.raises(UsageError, match="not a name"):
            add_pin(tmp_path, Pin(name, 1, 2, 3))
    with pytest.raises(UsageError, match="ends before"):
        add_pin(tmp_path, Pin("b", 2, 1, 3))
    with pytest.raises(ArchiveError, match="no such folder"):
        add_pin(tmp_path / "x", Pin("b", 1, 2, 3))
    for name in ("b", "../pins/a"):
        with pytest.raises(UsageError, match="one of: a"):
            remove_pin(tmp_path, name)


def test_a_pin_that_does_not_read_is_an_error(tmp_path: Path) -> None:
    add_pin(tmp_path, Pin("a", 1, 2, 3))
    wrong = [f'{{"from_ns": {value}, "to_ns": 1, "made_ns": 1}}' for value in ('"x"', "1e999", "null")]
    for text in ("", "{}", "[]", "[" * 100_000, *wrong):
        (tmp_path / "pins/a.json").write_text(text)
        with pytest.raises(ArchiveError, match=r"a\.json: this pin cannot be read"):
            read_pins(tmp_path)


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = write_run(tmp_path)
    folder = str(tmp_path)
    assert main(["pin", folder, "--name", "n", "--from", "2023-11-14T22:00Z", "--to", "2099-01-01T00:00Z"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["pin", folder]) == 0
    assert capsys.readouterr().out.startswith("n: 2023-11-14T22:00:00Z to 2099-01-01T00:00:00Z, 1 segments, ")
    assert main(["unpin", folder, "--name", "n"]) == 0
    assert main(["unpin", folder, "--name", "n"]) == 64
    assert main(["pin", folder, "--name", "n"]) == 64
    assert main(["pin", folder, "--name", "n", "--from", "123"]) == 64
    assert "not a wall time" in capsys.readouterr().err


def test_a_hole_that_retention_made_is_no_problem(tmp_path: Path) -> None:
    paths = write_run(tmp_path, segments=4)
    for path in paths[1:3]:
        path.unlink()
    (problem,) = verify_archive([tmp_path]).problems
    assert "segment 1 to 2 of its run is missing" in problem.what
    write_removed_up_to(tmp_path, paths[2].name)
    report = verify_archive([tmp_path])
    assert report.problems == []
    assert "segment 1 to 2 of its run, behind it, was removed by retention" in report.notes[0]
    paths[3].unlink()
    assert [p.what[:26] for p in verify_archive([tmp_path]).problems] == []


def test_how_far_retention_came_never_goes_back(tmp_path: Path) -> None:
    early, late = (path.name for path in write_run(tmp_path, segments=2))
    write_removed_up_to(tmp_path, late)
    write_removed_up_to(tmp_path, early)
    assert read_removed_up_to(tmp_path) == late


def test_a_name_that_sorts_behind_all_segments_removes_none_of_them(tmp_path: Path) -> None:
    """What is older than `.removed` says goes."""
    write_removed_up_to(tmp_path, "copy-of-one.ftseg")
    assert read_removed_up_to(tmp_path) == ""
    (name,) = (path.name for path in write_run(tmp_path))
    write_removed_up_to(tmp_path, name)
    assert read_removed_up_to(tmp_path) == name


def test_the_reserve_is_made_where_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / RESERVE_NAME
    hold_reserve(tmp_path, 8192, 0)
    assert (path.stat().st_size, path.stat().st_blocks * 512 >= 8192) == (8192, True)
    before = path.stat().st_ino, path.stat().st_mtime_ns
    hold_reserve(tmp_path, 8192, 0)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == before
    hold_reserve(tmp_path, 4096, 0)
    assert path.stat().st_size == 4096
    assert give_up_reserve(tmp_path)
    assert not give_up_reserve(tmp_path)
    hold_reserve(tmp_path, 4096, 1 << 60)
    assert not path.exists()
    hold_reserve(tmp_path, 4096, 0)
    hold_reserve(tmp_path, 0, 0)
    assert not path.exists()
