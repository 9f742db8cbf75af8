"""The writer is killed before each step that it takes on a real filesystem, and in the middle of each write."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.archive import disk
from collector.archive.recover import recover_folder
from tests.crash.filesystem import STEPS
from tests.crash.workload import Writer, blocks_in, restart, violations

WRITES = ("write", "write_at")


class Killer:
    """Kills the process before its n-th step, or, where that is a write, in the middle of it.

    Args:
      tell: called with the name of each step.
    """

    def __init__(self, at: int, torn: bool, tell: Callable[[str], None]) -> None:
        self._left = at
        self._torn = torn
        self._tell = tell

    def install(self) -> None:
        for name in STEPS:
            setattr(disk, name, self._wrap(name, getattr(disk, name)))

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*arguments: Any) -> Any:
            self._tell(name)
            self._left -= 1
            if self._left == 0:
                if self._torn and name == "write":
                    data = b"".join(arguments[1])
                    real(arguments[0], [data[: len(data) // 2]])
                elif self._torn and name == "write_at":
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)

        return step


Workload = Callable[[Path, Callable[[str, Any], None]], None]


def write_a_run(archive: Path, say: Callable[[str, Any], None]) -> None:
    writer = Writer(archive, say, segment_bytes=1800, max_bytes=4000)
    writer.open()
    for blocks in (1, 2, 3, 2, 1):
        writer.deliver(blocks)
    writer.close()


def recover(archive: Path, say: Callable[[str, Any], None]) -> None:
    for result in recover_folder(archive):
        if result.path.suffix == ".ftseg":
            say("durable", blocks_in(result.path))
            say("sealed", result.path.name)


def in_a_child(work: Workload, archive: Path, at: int, torn: bool) -> tuple[list[tuple[str, Any]], list[str], bool]:
    """Gives what it said, the steps it began, and whether it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)

            def say(what: str, value: Any) -> None:
                os.write(writer, json.dumps([what, value], default=bytes.hex).encode() + b"\n")

            real = disk.unlink

            def unlink(path: Path) -> None:
                if path.suffix == ".ftseg" and path.exists():
                    say("removed", (path.name, blocks_in(path)))
                real(path)

            disk.unlink = unlink  # said before the killer's step
            Killer(at, torn, lambda name: say("step", name)).install()
            work(archive, say)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader) as lines:
        told = [json.loads(line) for line in lines]
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.waitstatus_to_exitcode(status) == 0
    steps = [value for what, value in told if what == "step"]
    return [(what, value) for what, value in told if what != "step"], steps, killed


def as_said(said: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """With the run ids and tuples that JSON has no words for."""

    def blocks(pairs: list[list[Any]]) -> list[tuple[bytes, int]]:
        return [(bytes.fromhex(run), number) for run, number in pairs]

    return [
        (what, blocks(value) if what == "durable" else (value[0], blocks(value[1])) if what == "removed" else value)
        for what, value in said
    ]


@pytest.mark.parametrize("work", [write_a_run, recover])
def test_a_writer_that_is_killed_at_any_step_loses_nothing_durable(work: Workload, tmp_path: Path) -> None:
    kinds: set[str] = set()
    at, torn, killed = 0, True, True
    while killed:
        at, torn = (at, True) if not torn else (at + 1, False)
        archive = tmp_path / f"{at}{' torn' if torn else ''}"
        if work is recover:
            in_a_child(write_a_run, archive, 30, torn=True)
        said, steps, killed = in_a_child(work, archive, at, torn)
        kinds.update(steps)
        if torn and steps[-1] not in WRITES:
            continue
        assert violations(archive, as_said(said)) == [], f"killed at step {at}, {steps[-1]}"
        assert restart(archive) == []
    assert {"fsync", "rename", "fsync_folder", "write_at" if work is recover else "write"} <= kinds
