"""Power cuts at every step that is taken on a disk, with every choice of what the filesystem had not synced."""

import contextlib
import itertools
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.crash.case import Case, Said, crashes, do, installed, look_at, prepare, said_in
from tests.crash.cases import CASES
from tests.crash.filesystem import Folder, Mark, Name, Recorder, Step, Tree
from tests.crash.sites import sync_sites

RESUMED = [name for name, case in CASES.items() if case.resume is not None]


@pytest.mark.parametrize("name", CASES)
def test_what_was_durable_is_there_after_every_power_cut(name: str, place: Path) -> None:
    case = CASES[name]
    recorder = do(case, place / "disk")
    cuts = set()
    for at, (cut, said, tree) in enumerate(crashes(recorder)):
        found = look_at(case, tree, said, place / str(at), go_on=cut not in cuts)
        assert found == [], f"after step {cut}, {recorder.steps[cut - 1] if cut else 'none'}"
        cuts.add(cut)
    assert len(cuts) > 3


@pytest.mark.parametrize("name", RESUMED)
def test_a_power_cut_after_a_kill_takes_nothing_that_was_told_after_it(name: str, place: Path) -> None:
    """A process that starts after a kill finds names that nobody has synced, and files that it knows by them."""
    count = 0
    for count, (kill, step, tree, said) in enumerate(crashes_after_kills(CASES[name], place), 1):
        found = look_at(CASES[name], tree, said, place / str(count), go_on=False)
        assert found == [], f"killed after step {kill}; the power went after {step}"
    assert count > 3


def crashes_after_kills(case: Case, place: Path, left_out: str | None = None) -> Iterator[tuple[int, Step, Tree, Said]]:
    """A kill after each step that changes names, a second life, and a cut after all that is told in it.

    Yields (steps before the kill, the last one before the cut, what is left, what was said).
    """
    assert case.resume is not None
    steps = do(case, place / "of one life").steps
    for kill in [at + 1 for at, step in enumerate(steps) if isinstance(step, Name | Folder)]:
        recorder = Recorder(prepare(case, place / f"of two, {kill}"), left_out=left_out)
        with installed(recorder) as machine:
            recorder.fail = partial(_die_behind, recorder, kill)
            with contextlib.suppress(_KilledError):
                case.work(machine)
            _close_all_below(recorder.root)
            recorder.fail = lambda what: None
            start = len(recorder.steps)
            case.resume(machine, said_in(recorder, start))
            _close_all_below(recorder.root)
        told = [at + 1 for at, step in enumerate(recorder.steps) if at >= start and isinstance(step, Mark)]
        for cut, said, tree in crashes(recorder, iter(told)):
            yield kill, recorder.steps[cut - 1], tree, said


class _KilledError(BaseException):
    """From where the process would be no more."""


def _die_behind(recorder: Recorder, steps: int, what: str) -> None:
    if len(recorder.steps) >= steps:
        raise _KilledError


def _close_all_below(folder: Path) -> None:
    """As the kernel does for one that has died."""
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(f"{folder}/"):
                os.close(int(fd))


@pytest.fixture(scope="module")
def reaching(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """{name of a case: the places of the code at which it syncs}, the shortest case first."""
    folder = tmp_path_factory.mktemp("reaching")
    done = {name: do(case, folder / name) for name, case in CASES.items()}
    return {name: done[name].sites for name in sorted(done, key=lambda name: len(done[name].steps))}


@pytest.mark.parametrize("site", sync_sites())
def test_each_sync_is_needed(site: str, place: Path, reaching: dict[str, set[str]]) -> None:
    """Without it some power cut does harm."""
    names = [name for name, sites in reaching.items() if site in sites]
    assert names, f"no case comes to {site}"
    places = (place / str(number) for number in itertools.count())
    for name in names:
        for _, said, tree in crashes(do(CASES[name], next(places), left_out=site)):
            if look_at(CASES[name], tree, said, next(places), go_on=False):
                return
        if name in RESUMED:
            (folder := next(places)).mkdir()
            for _, _, tree, said in crashes_after_kills(CASES[name], folder, left_out=site):
                if look_at(CASES[name], tree, said, next(places), go_on=False):
                    return
    raise AssertionError(f"{site} can be left out, and nothing is lost")
