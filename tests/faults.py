"""Steps of a disk that fail, as long as a test wants it."""

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest


@contextmanager
def failing(
    where: Any, *steps: str, code: int = errno.ENOSPC, when: Callable[..., bool] = lambda *_: True
) -> Iterator[None]:
    """Steps of the disk fail as long as this is open.

    Args:
      where: the module that has them: `os`, or the archive's `disk`.
      when: given what a step is given, says whether this one fails.
    """

    def make(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any) -> Any:
            if when(*args):
                raise OSError(code, os.strerror(code))
            return real(*args)

        return step

    with pytest.MonkeyPatch.context() as patch:
        for name in steps:
            patch.setattr(where, name, make(getattr(where, name)))
        yield


def after(calls: int) -> Callable[..., bool]:
    """For `failing`: so many calls succeed."""
    count = itertools.count()
    return lambda *_: next(count) >= calls
