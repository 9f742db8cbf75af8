"""The end of a live run, with sources made by hand."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from collector.capture.capture import Capture
from collector.capture.source import Source
from collector.config.models import Config
from collector.errors import TracefsError
from collector.monitor.logs import LogOutput
from collector.run.interference import Interference
from collector.run.pipeline import Pipeline
from collector.run.service import Service
from collector.tracefs.files import TracefsDir
from tests.tracefs.tree import make_recorded_tree


class Kept(Source):
    """The kernel refuses every step of its drain."""

    is_drained = False

    def drain_steps(self) -> Iterator[Callable[[], None]]:
        yield self.give_up

    def give_up(self) -> None:
        raise TracefsError("the kernel refuses the value", where="snapshot", got="EBUSY")


async def test_one_that_cannot_be_drained_costs_the_others_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree: TracefsDir = make_recorded_tree(tmp_path)
    pipeline = Pipeline(Config(), bytes(16), tree)
    left: list[str] = []
    leave = pipeline.leave

    async def note(source: Source, streams: Any) -> None:
        await leave(source, [])
        left.append(source.name)

    pipeline.leave = note  # type: ignore[method-assign]
    pipeline.capture = cast(Capture, object())
    pipeline.sources = [Kept(tree, name, (0,), bytes(16)) for name in ("a", "b")]
    for source in pipeline.sources:
        source.streams = [cast(Any, StreamStub())]

    async def drain(*_: object) -> None:
        return None

    pipeline._drain_streams = drain  # type: ignore[method-assign]
    service = Service(Config(), pipeline, [], cast(LogOutput, None), cast(Any, None), cast(Interference, None))
    with trio.fail_after(10):
        assert await service._drain() is False
    assert left == ["a", "b"]
    said = [record.message for record in caplog.records]
    assert said.count("an instance cannot be drained") == said.count("it is not known what stays in the kernel") == 2
    pipeline.close()


class StreamStub:
    """Nothing was read of it."""

    account = type("Account", (), {"last_sample": None})
    key = type("Key", (), {"cpu": 0})
