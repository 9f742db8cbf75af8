"""One sender's folder: what it may cost the others and the disk, and what is known when it comes again."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collector.archive import frame
from collector.archive.bodies import parse_gap
from collector.archive.fields import pack, unpack
from collector.archive.frame import Kind, Record
from collector.archive.objects import END, build_object, parse_object
from collector.archive.reader import list_segments, open_segment
from collector.archive.recover import recover_folder
from collector.archive.segment import SegmentWriter
from collector.archive.totals import Totals, build_totals
from collector.archive.verify import verify_archive
from collector.batch import Block, Note, StreamKey
from collector.capture.visit import LooseGap, Visit
from collector.config.models import Config
from collector.errors import SegmentError
from collector.run.pipeline import Pipeline
from sinks.contract.base import Parcel
from sinks.network.backlog import ParcelWriter, parcel_of_block
from sinks.stream import host, room, segments
from sinks.stream.host import HostArchive, MalformedError
from sinks.stream.policy import HostPolicy
from sinks.stream.room import NoRoomError
from tests.archive.encoder import PLAIN_ID, Maps
from tests.contract.made import KEY, RUN, Context, block
from tests.sinks.stream.rig import POLICY, batches, block_names
from tests.tracefs.tree import make_recorded_tree

RUNS = [bytes([n]) * 16 for n in range(8)]
FORMAT = Maps().format_object(PLAIN_ID)


def of_run(run: bytes, numbers: Sequence[int] = (), *, ends: bool = False) -> list[Parcel]:
    """A header, the format, blocks, and the end."""
    sent = [Parcel(Kind.HEADER, pack(Context(run=run).header(0, None)), run), Parcel(Kind.OBJECT, FORMAT, run)]
    sent += [parcel_of_block(block(number, key=StreamKey(run, "main", 0))) for number in numbers]
    return [*sent, end(run)] if ends else sent


def end(run: bytes) -> Parcel:
    return Parcel(Kind.OBJECT, build_object(END, {"run": run})[1], run)


def a_sample(**totals: Any) -> Parcel:
    body = {"run": RUN, "inst": "main", "cpu": 0, "at_ns": 1, "totals": build_totals(Totals(**totals))}
    return Parcel(Kind.SAMPLE, pack(body), RUN, KEY)


# ---- gaps


async def test_two_gaps_of_which_nothing_else_is_known_are_two(tmp_path: Path) -> None:
    """Sub-buffers that were flagged, with no entry behind them."""
    pipeline = Pipeline(Config(), RUN, make_recorded_tree(tmp_path / "tree"))
    told: list[Note] = []
    pipeline.outlet = SimpleNamespace(put=told.append)  # type: ignore[assignment]
    visit = Visit(loose_gaps=[LooseGap(None, "no entry follows")] * 2)
    pipeline.emit(SimpleNamespace(key=KEY), visit)  # type: ignore[arg-type]
    pipeline.close()
    writer = ParcelWriter(Context().header(0, None))
    for note in told:
        writer.write_note(note)
    sent = [parcel for _, parcel in writer.written]
    archive = HostArchive(tmp_path / "host", POLICY)
    archive.take(sent)
    archive.take(sent)  # they come again
    archive.close()
    with open_segment(list_segments([tmp_path / "host"])[0]) as segment:
        gaps = [unpack(r.body, "") for r in segment.records() if isinstance(r, Record) and r.kind == Kind.GAP]
    assert [(gap["no"], gap["count"]) for gap in gaps] == [(0, None), (1, None)]


# ---- what a malformed record leaves behind


def test_what_comes_before_a_malformed_record_is_durable_and_others_follow(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    with pytest.raises(MalformedError) as refused:
        archive.take([*of_run(RUN, [0, 1]), *of_run(RUNS[1], [0])[2:], *of_run(RUN, [2])[2:]])
    assert (refused.value.taken.records, refused.value.taken.blocks) == (4, 2)
    assert archive.take(of_run(RUN, [1, 2])).duplicates == 1
    archive.close()
    assert [number for _, number, _ in block_names(tmp_path)] == [0, 1, 2]
    assert len(list_segments([tmp_path])) == 1


# ---- runs that come back


def test_runs_that_take_turns_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = HostArchive(tmp_path, HostPolicy(min_free_bytes=0, segment_bytes=1))
    for number in range(5):
        first.take(of_run(RUNS[0], [number]))
    first.close()
    opened: Counter[str] = Counter()
    monkeypatch.setattr("sinks.stream.run.open_segment", lambda path: opened.update([path.name]) or open_segment(path))
    archive = HostArchive(tmp_path, POLICY)
    for _ in range(10):
        assert archive.take(of_run(RUNS[0], [0, 1])).duplicates == 2
        archive.take(of_run(RUNS[1], [0]))
    archive.close()
    assert set(opened.values()) == {1}
    assert verify_problems(tmp_path) == []


def test_what_takes_long_ends_a_turn(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    sent = [parcel for run in RUNS for parcel in of_run(run, [0], ends=True)]
    sizes = []
    while sum(sizes) < len(sent):
        sizes.append(archive.take_part(sent, sum(sizes)).records)
    archive.close()
    assert sizes == [4] * len(RUNS)
    assert len(block_names(tmp_path)) == len(RUNS)


# ---- the end of a run


def test_an_end_that_comes_again_ends_nothing(tmp_path: Path) -> None:
    sent = [*of_run(RUN, [0]), a_sample(), end(RUN)]
    archive = HostArchive(tmp_path, POLICY)
    archive.take([*sent, *[end(RUN)] * 100, *sent])
    archive.close()
    archive = HostArchive(tmp_path, POLICY)
    archive.take(sent)
    archive.close()
    (path,) = list_segments([tmp_path])
    with open_segment(path) as segment:
        assert segment.footer is not None
        assert segment.footer.last


def test_what_is_new_behind_an_end_is_taken(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    archive.take(of_run(RUN, [0], ends=True))
    archive.take([*of_run(RUN, [1]), end(RUN)])
    archive.close()
    assert [number for _, number, _ in block_names(tmp_path)] == [0, 1]
    assert verify_problems(tmp_path) == []


def test_the_end_of_another_run_is_refused(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    with pytest.raises(MalformedError, match="another run"):
        archive.take([*of_run(RUN, [0]), end(RUNS[1])])
    archive.close()


def verify_problems(folder: Path) -> list[str]:
    """But those of the blocks' filling."""
    return [problem.what for problem in verify_archive([folder]).problems if "columns" not in problem.what]


# ---- limits


def test_a_sender_has_its_limit_of_files(tmp_path: Path, parcels: list[Parcel]) -> None:
    archive = HostArchive(tmp_path, HostPolicy(segment_bytes=1, max_segments=3, min_free_bytes=0))
    for batch in batches(parcels):
        archive.take(batch)
    archive.close()
    assert len(list_segments([tmp_path])) == 3


@pytest.mark.parametrize("name", ["n" * 257, "\udcff" * 300])
def test_a_name_without_end_is_refused(tmp_path: Path, name: str) -> None:
    value = parse_object(FORMAT).value
    renamed = [
        [*of_run(RUN), Parcel(Kind.OBJECT, build_object("format", {**value, key: name})[1], RUN)]
        for key in ("name", "system")
    ]
    context = Context(StreamKey(RUN, name, 0))
    header = Parcel(Kind.HEADER, pack(context.header(0, None)), RUN)
    instance = parcel_of_block(block(0, key=StreamKey(RUN, name, 0)))
    for sent in (*renamed, [header], [*of_run(RUN), instance]):
        archive = HostArchive(tmp_path, POLICY)
        with pytest.raises(MalformedError, match="too long"):
            archive.take(sent)
        archive.close()


def test_totals_of_endless_reasons_are_refused(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    archive.take([*of_run(RUN), a_sample(skipped={"short": 1, "malformed": 2})])
    with pytest.raises(MalformedError, match="too many reasons"):
        archive.take([a_sample(skipped={f"reason {n}": 0 for n in range(100)})])
    archive.close()


def test_a_segment_ends_before_its_footer_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name stands there once for each stream."""
    monkeypatch.setattr(segments, "MAX_INDEX_BYTES", 5000)
    value = parse_object(FORMAT).value
    made = [build_object("format", {**value, "name": f"{n:04}" * 60}) for n in range(8)]
    archive = HostArchive(tmp_path, POLICY)
    archive.take([*of_run(RUN), *(Parcel(Kind.OBJECT, body, RUN) for _, body in made)])
    for number in range(16):
        archive.take([with_format(block(number), made[number % 8][0])])
    archive.close()
    lengths = []
    for path in list_segments([tmp_path]):
        with open_segment(path) as segment:
            found = segment.record_at(segment.footer_offset)
            assert isinstance(found, Record)
            lengths.append(found.length)
    assert len(lengths) > 1
    assert max(lengths) < 5000


def with_format(of: Block, key: bytes) -> Parcel:
    body = pack({**unpack(of.body, "block"), "kinds": [[key, 0, of.events]]})
    return parcel_of_block(replace(of, body=body))


# ---- a full disk


def test_without_room_nothing_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recover(*_: Any, **__: Any) -> None:
        raise AssertionError("it reads all segments")

    monkeypatch.setattr(host, "recover_folder", recover)
    with pytest.raises(NoRoomError):
        HostArchive(tmp_path / "new" / "host", HostPolicy(min_free_bytes=1 << 60))
    assert list(tmp_path.iterdir()) == []


def test_an_archive_goes_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = HostArchive(tmp_path, HostPolicy(min_free_bytes=1))
    archive.take(of_run(RUN, [0]))
    with monkeypatch.context() as patched:
        patched.setattr(room.os, "statvfs", lambda path: SimpleNamespace(f_bavail=0, f_frsize=4096))
        with pytest.raises(NoRoomError):
            archive.take(of_run(RUN, [1]))
    archive.take(of_run(RUN, [1]))
    archive.close()
    assert [number for _, number, _ in block_names(tmp_path)] == [0, 1]
    assert len(list_segments([tmp_path])) == 1


# ---- recovery


def test_a_segment_that_no_footer_can_hold_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SegmentWriter.create(tmp_path, Context().header(0, None))
    writer.write_block(block(0), Maps())
    writer.abandon()
    monkeypatch.setattr(frame, "MAX_BODY_BYTES", 500)
    (found,) = recover_folder(tmp_path)
    assert found.reason.startswith("quarantined: no footer can hold")
    assert found.path.name.endswith(".bad")
    assert recover_folder(tmp_path) == []


def test_memory_is_counted(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    before = archive.held_bytes
    archive.take([*of_run(RUN, range(100)), Parcel(Kind.OBJECT, build_object("printk", {1: "a" * 50_000})[1], RUN)])
    assert 60_000 < archive.held_bytes - before < 200_000
    archive.close()


def test_a_segment_is_due_when_it_is_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = HostArchive(tmp_path, HostPolicy(min_free_bytes=0, segment_age_s=60))
    archive.take(of_run(RUN, [0]))
    assert not archive.is_due
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 61)
    assert archive.is_due
    archive.tick()
    assert not archive.is_due
    archive.close()


def test_gaps_of_the_same_content_without_a_number_are_one(tmp_path: Path) -> None:
    body = {"run": RUN, "inst": "main", "cpu": 0, "cause": "discarded", "count": 1, "from_ts": 1, "to_ts": 2,
            "detail": "by the spool, with times"}  # fmt: skip
    told = Parcel(Kind.GAP, pack(body), RUN, KEY)
    archive = HostArchive(tmp_path, POLICY)
    archive.take([*of_run(RUN), told, told])
    archive.close()
    with open_segment(list_segments([tmp_path])[0]) as segment:
        gaps = [parse_gap(r.body) for r in segment.records() if isinstance(r, Record) and r.kind == Kind.GAP]
    assert len(gaps) == 1


def test_a_type_that_is_no_text_is_any_other_type(tmp_path: Path) -> None:
    archive = HostArchive(tmp_path, POLICY)
    archive.take([*of_run(RUN), Parcel(Kind.OBJECT, build_object("\udcff", 1)[1], RUN)])
    archive.close()


def test_a_format_of_endless_columns_is_refused(tmp_path: Path) -> None:
    value = {**parse_object(FORMAT).value, "more": [[]] * 20_000}
    archive = HostArchive(tmp_path, POLICY)
    with pytest.raises(SegmentError, match=r"array_len|too many parts"):
        archive.take([*of_run(RUN), Parcel(Kind.OBJECT, build_object("format", value)[1], RUN)])
    archive.close()
