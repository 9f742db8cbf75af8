"""Records whose checksums hold, with content that nobody of ours writes: no reader dies of them or loses the rest."""

import random
from pathlib import Path

import pytest

from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind
from collector.archive.objects import build_object
from tests.archive.hostile import (
    BODIES,
    CASES,
    WRONG,
    change,
    kinds_of_bodies,
    make_hostile,
    read_all,
    read_footer,
    run,
    write,
)

NAME = "20260101T000000.000000Z-00000000-000000.ftseg"


@pytest.mark.parametrize("kind", kinds_of_bodies())
def test_no_reader_dies_of_a_record_that_holds(kind: str, tmp_path: Path) -> None:
    footer = read_footer()
    for seed in range(CASES):
        rng = random.Random(f"{kind}, {seed}")
        bodies = make_hostile(rng, rng.choice(kinds_of_bodies()[kind]))
        folder = tmp_path / str(seed)
        folder.mkdir()
        write(folder / NAME, bodies, footer if seed % 2 else None)
        read_all(folder, f"{kind}, seed {seed}")


def test_no_reader_dies_of_a_footer_that_holds(tmp_path: Path) -> None:
    for seed in range(2 * CASES):
        rng = random.Random(f"footer, {seed}")
        footer = change(rng, read_footer())
        folder = tmp_path / str(seed)
        folder.mkdir()
        if isinstance(footer, dict):
            write(folder / NAME, BODIES, footer)
            read_all(folder, f"footer, seed {seed}")


def test_what_is_made_here_is_read_when_nothing_is_changed(tmp_path: Path) -> None:
    write(tmp_path / NAME, BODIES, None)
    _, out, errors = run("show", tmp_path)
    assert errors.count("\n") == 1, errors  # it was not sealed
    assert out.count(b"\n") > 50
    assert pack(unpack(BODIES[0][1], "header")) == BODIES[0][1]


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_names_of_a_wrong_type_are_damage_that_costs_themselves(kind: str, value: object, tmp_path: Path) -> None:
    body = build_object(kind, value)[1]
    write(tmp_path / NAME, [BODIES[0], (Kind.OBJECT, body), *BODIES[1:]], None)
    code, _, errors = run("recover", tmp_path)
    assert (code, errors.count("Traceback")) == (0, 0)
    code, out, _ = run("verify", tmp_path)
    assert (code, out.count(b"\n")) == (1, 1), out
    code, out, errors = run("show", tmp_path)
    assert (code, errors.count("damaged: "), out.count(b"\n") > 50) == (
        1 if kind != "report" else 0,
        kind != "report",
        True,
    )
