"""Several sinks beside the archive, in a whole daemon that replays a recorded kernel."""

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import trio

from collector.archive.frame import Kind, build_record
from collector.archive.info import summarise
from collector.archive.reader import open_segment
from collector.cli import main
from collector.config.load import parse_config
from collector.config.models import Config
from collector.errors import ConfigError
from collector.monitor.state import SinkSnapshot
from collector.run.daemon import run
from sinks import fanout, registry
from sinks.contract.base import Parcel, SealedSegment, SinkContext
from sinks.contract.options import SinkCommon, SinkType
from tests.contract.receiver import MemoryTransport, Receiver


class MemoryOptions(SinkCommon):
    type: Literal["memory"]
    up: bool = True
    fails: bool = False


class World:
    """Receivers by the name of their sink, and what each sink counted at the end."""

    def __init__(self, folder: Path, case: Path) -> None:
        self.folder, self.case = folder, case
        self.receivers: dict[str, Receiver] = {}
        self.ends: dict[str, SinkSnapshot] = {}

    def build(self, options: MemoryOptions, context: SinkContext) -> MemoryTransport:
        if options.fails:
            raise ConfigError("no such secret")
        receiver = self.receivers[options.title] = Receiver(delay_s=0.001)
        receiver.up = options.up
        return MemoryTransport(receiver, batch_bytes=200_000)

    def config(self, text: str) -> Config:
        text = f'shutdown_timeout_s = 5\n[archive]\nfolder = "{self.folder}/archive"\n' + text
        return parse_config(text, "c.toml", registry.models())

    def replay(self, text: str) -> None:
        assert run(self.config(text), replay=self.case) == 0
        for end in self.ends.values():
            assert end.residual == 0
            assert (end.queued_events, end.offered_events) == (0, self.events)

    @property
    def events(self) -> int:
        return int(summarise([self.folder / "archive"])["events"])


@pytest.fixture
def case(request: pytest.FixtureRequest) -> str:
    return str(getattr(request, "param", "6.18/events"))


@pytest.fixture
def world(tmp_path: Path, recorded_case: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, case: str) -> World:
    made = World(tmp_path, recorded_case(case))
    monkeypatch.setattr(registry, "LOADERS", {"memory": lambda: SinkType(MemoryOptions, made.build)})
    close = fanout.Fanout.close

    async def note_the_end(self: fanout.Fanout) -> None:
        made.ends = {sink.name: sink for sink in self.sinks()}
        await close(self)

    monkeypatch.setattr(fanout.Fanout, "close", note_the_end)
    return made


def write_segment(path: Path, parcels: list[Parcel]) -> Path:
    """What a receiver that keeps the records as they come has: a segment without its end."""
    path.write_bytes(b"".join(build_record(parcel.kind, parcel.body) for parcel in parcels))
    return path


def counts_of(path: Path) -> dict[str, int]:
    found: dict[str, int] = summarise([path])["by_event"]
    return found


def test_what_arrives_is_what_the_archive_has(world: World, tmp_path: Path) -> None:
    world.replay('[[sinks]]\ntype = "memory"\n[[sinks]]\ntype = "memory"\nname = "second"\nwhen_full = "block"\n')
    archived = counts_of(tmp_path / "archive")
    for name, receiver in world.receivers.items():
        path = write_segment(tmp_path / f"{name}.ftseg.part", receiver.arrived)
        assert counts_of(path) == archived
        with open_segment(path) as segment:
            assert segment.header is not None
    assert world.ends["memory"].acked_events == world.events > 0
    assert not list((tmp_path / "archive/spool/memory").glob("*.ftseg*"))


def test_a_dead_sink_holds_up_neither_the_archive_nor_another(world: World, tmp_path: Path) -> None:
    world.replay(
        '[[sinks]]\ntype = "memory"\nname = "dead"\nup = false\nretry_first_s = 0.05\n'
        '[[sinks]]\ntype = "memory"\nname = "alive"\n'
    )
    assert world.ends["alive"].acked_events == world.events
    assert world.ends["dead"].spooled_events == world.events
    spool = tmp_path / "archive/spool/dead"
    assert counts_of(spool) == counts_of(tmp_path / "archive")
    # The next run finds it there.
    before = world.events
    assert run(world.config('[[sinks]]\ntype = "memory"\nname = "dead"\n'), replay=world.case) == 0
    end = world.ends["dead"]
    assert (end.replayed_events, end.acked_events) == (before, world.events)


class Follower:
    """Brings nothing anywhere, and notes what it is told."""

    def __init__(self) -> None:
        self.name = "follower"
        self.removed: list[str] = []

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def drain(self) -> None: ...

    def snapshot(self) -> SinkSnapshot:
        return SinkSnapshot(name=self.name)

    def is_acknowledged(self, segment: SealedSegment) -> bool:
        return False

    def note_removal(self, segment: SealedSegment) -> None:
        self.removed.append(segment.name)


def test_a_follower_is_told_what_retention_removes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower()
    monkeypatch.setattr(registry, "LOADERS", {"memory": lambda: SinkType(MemoryOptions, lambda *_: follower)})
    config = world.config('max_age_s = 0.000000001\n[[sinks]]\ntype = "memory"\n')
    assert run(config, replay=world.case) == 0
    assert len(follower.removed) == 1
    assert list((world.folder / "archive").glob("*.ftseg*")) == []


def test_filters_by_cpu_and_instance_share_the_blocks(world: World, tmp_path: Path) -> None:
    world.replay(
        '[[sinks]]\ntype = "memory"\nname = "cpu1"\nfilter = {cpus = "1"}\n'
        '[[sinks]]\ntype = "memory"\nname = "other"\nfilter = {instances = ["other*"]}\n'
    )
    blocks = [parcel for parcel in world.receivers["cpu1"].arrived if parcel.kind == Kind.BLOCK]
    assert {parcel.stream.cpu for parcel in blocks if parcel.stream is not None} == {1}
    cpu1 = world.ends["cpu1"]
    assert 0 < cpu1.acked_events < world.events
    assert cpu1.filtered_events == world.events - cpu1.acked_events
    assert world.ends["other"].filtered_events == world.events
    assert world.receivers["other"].numbers == []


def entries_of(path: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    main(["show", "--format", "json", str(path)])  # not 0 for a segment without its end
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for entry in entries:  # names of threads are learnt from entries too, which a filter may leave out
        del entry["comm"], entry["comm_source"], entry["tgid"]
    return entries


@pytest.mark.parametrize("case", ["6.18/events", "6.18/lost"], indirect=True)
def test_filters_by_event_leave_the_same_entries_in_the_same_order(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = '["sched:sched_sw*", "irq:*", "*:sys_enter"]'
    world.replay(
        f'[[sinks]]\ntype = "memory"\nname = "some"\nfilter = {{events = {some}}}\n'
        f'[[sinks]]\ntype = "memory"\nname = "same"\nfilter = {{events = {some}, cpus = "0"}}\n'
        '[[sinks]]\ntype = "memory"\nname = "none"\nfilter = {events = ["no:*"]}\n'
        '[[sinks]]\ntype = "memory"\nname = "all"\nfilter = {events = ["*:*"]}\n'
    )
    everything = entries_of(tmp_path / "archive", capsys)
    wanted = [e for e in everything if re.fullmatch(r"sched:sched_sw.*|irq:.*|.*:sys_enter", e["event"])]
    assert 0 < len(wanted) < len(everything)
    found = entries_of(write_segment(tmp_path / "some.ftseg.part", world.receivers["some"].arrived), capsys)
    assert found == wanted
    some_end, same_end = world.ends["some"], world.ends["same"]
    assert (some_end.acked_events, some_end.filtered_events) == (len(wanted), world.events - len(wanted))
    assert same_end.acked_events == sum(entry["cpu"] == 0 for entry in wanted)
    assert world.ends["none"].filtered_events == world.events
    assert world.receivers["none"].numbers == []
    assert world.ends["all"].acked_events == world.events


def test_a_sink_that_cannot_be_built_ends_the_start_and_leaves_no_lock(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such secret"), contextlib.suppress(ExceptionGroup):
        run(world.config('[[sinks]]\ntype = "memory"\n[[sinks]]\ntype = "memory"\nname = "x"\nfails = true\n'),
            replay=world.case)  # fmt: skip
    world.replay('[[sinks]]\ntype = "memory"\n')
    assert world.ends["memory"].acked_events == world.events
