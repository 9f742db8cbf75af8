"""A process that is killed before its n-th step on a real filesystem, or in the middle of a write."""

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collector.archive import disk
from collector.archive.segment import SUFFIX
from tests.crash.case import Case, Machine, Said, clock_of, no_waiting
from tests.crash.filesystem import STEPS
from tests.crash.workload import blocks_in

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


def in_a_child(case: Case, root: Path, at: int, torn: bool) -> tuple[Said, list[str], bool]:
    """Gives what it said, the steps it began, and whether it was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reader)

            def say(what: str, value: Any) -> None:
                os.write(writer, pickle.dumps((what, value)))

            real = disk.unlink

            def unlink(path: Path) -> None:
                if path.suffix == SUFFIX and path.exists():
                    say("removed", (path.name, blocks_in(path)))
                real(path)

            disk.unlink = unlink  # said before the killer's step
            machine = Machine(root, say)
            with no_waiting(), clock_of(machine):  # a kill leaves what is not synced too
                Killer(at, torn, lambda name: say("step", name)).install()
                case.work(machine)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writer)
    told = []
    with open(reader, "rb") as pipe:
        while pipe.peek(1):
            told.append(pickle.load(pipe))
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    assert killed or os.waitstatus_to_exitcode(status) == 0
    steps = [value for what, value in told if what == "step"]
    return [(what, value) for what, value in told if what != "step"], steps, killed
