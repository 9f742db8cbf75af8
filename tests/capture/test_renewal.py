"""An id that comes to mean another event while a run goes on: no entry is decoded by the format of the other one."""

import struct
from collections.abc import Iterator

import pytest

from collector.archive.block import decode_block
from collector.batch import Block
from collector.capture.visit import Ask
from collector.tracefs.formats import parse_event_format
from tests import pages as made
from tests.capture.rig import Rig, as_ring, blocks_of, made_formats, make_stats
from tests.pages import as_file

PROBE = 510
OLD = parse_event_format(made.format_text("one", PROBE, ("u64 a", 8, 8, 0)), "probes", 8)
NEW = parse_event_format(made.format_text("two", PROBE, ("u16 b", 8, 2, 0), ("u32 c", 12, 4, 0)), "probes", 8)
LATER = parse_event_format(made.format_text("later", 511, ("u64 a", 8, 8, 0)), "probes", 8)
BODY = struct.pack("<HHI", 1, 0, 2)  # a=0x200000001 by the old format, b=1 c=2 by the new


def probes(entries: int, ts: int, event_id: int = PROBE) -> bytes:
    """A sub-buffer of the probe's entries, which the writer has left when there are 200."""
    return made.build_page(made.build_data(made.build_record(event_id, BODY), 1) * entries, ts)


def shown(rig: Rig, blocks: list[Block]) -> list[tuple[str, object]]:
    """[(name of the event, its fields or its bytes)]"""
    found: list[tuple[str, object]] = []
    for block in blocks:
        for e in decode_block(block.body, rig.objects(block)).entries():
            values = [column[e.row] for column in e.kind.columns]
            fields = values[0] if e.mode else dict(zip((f.name for f in e.format.columns), values, strict=True))
            found.append((e.format.name, fields))
    return found


@pytest.fixture
def ring() -> Iterator[tuple[Rig, "list[bytes]"]]:
    """(rig, fed): what is put into the list is in the ring at the next visit."""
    fed: list[bytes] = []
    with as_ring() as (fd, feed):

        class FedRig(Rig):
            def visit(self, ask: Ask = Ask.READ, max_bytes: int = 1 << 24):  # type: ignore[no-untyped-def]
                while fed:
                    feed(fed.pop(0))
                return super().visit(ask, max_bytes)

        yield FedRig(fd, renewable=True, formats={PROBE: OLD}, stats=make_stats()), fed


A = ("one", {"a": 0x2_0000_0001})
B = ("two", {"b": 1, "c": 2})
BYTES = ("event_510", made.build_record(PROBE, BODY))


def test_a_reset_between_visits_ends_the_block_and_the_format(ring: tuple[Rig, list[bytes]]) -> None:
    rig, fed = ring
    fed.append(probes(3, 1000))
    rig.say(read=3)
    assert rig.visit(Ask.FLUSH).blocks == []
    rig.formats[PROBE] = NEW
    rig.say(read=0)
    assert shown(rig, blocks_of(rig.visit())) == [A] * 3
    fed.append(probes(2, 2000))
    rig.say(read=2)
    assert shown(rig, blocks_of(rig.visit(Ask.CLOSE))) == [B] * 2
    sample = rig.visit(Ask.SAMPLE).sample
    assert sample is not None
    assert (sample.resets, sample.kernel.read, sample.balance.total) == (1, 5, 0)


def test_entries_read_while_the_ring_is_reset_are_kept_as_bytes(ring: tuple[Rig, list[bytes]]) -> None:
    """Those before are what they were, those after are what they are."""
    rig, fed = ring
    fed.append(probes(3, 1000))
    rig.say(read=3)
    rig.visit(Ask.FLUSH)
    rig.formats[PROBE] = NEW
    fed.append(probes(5, 2000))
    rig.say(read=5)  # not less than was read: only what was read now shows that there was a reset
    assert rig.visit(Ask.FLUSH).blocks == []
    fed.append(probes(2, 3000))
    rig.say(read=7)
    blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert [block.events for block in blocks] == [8, 2]
    assert shown(rig, blocks) == [A] * 3 + [BYTES] * 5 + [B] * 2


def test_an_event_learnt_while_the_ring_is_reset_may_be_newer_than_its_entry(ring: tuple[Rig, list[bytes]]) -> None:
    rig, fed = ring
    fed.append(probes(3, 1000))
    rig.say(read=3)
    rig.visit(Ask.CLOSE)
    rig.formats[511] = LATER
    fed.append(probes(4, 2000, 511))
    rig.say(read=4)
    assert [name for name, _ in shown(rig, blocks_of(rig.visit(Ask.CLOSE)))] == ["event_511"] * 4
    fed.append(probes(1, 3000, 511))
    rig.say(read=5)
    assert shown(rig, blocks_of(rig.visit(Ask.CLOSE))) == [("later", A[1])]


def test_a_reset_that_changes_no_event_changes_nothing(ring: tuple[Rig, list[bytes]]) -> None:
    rig, fed = ring
    for read, count in ((3, 3), (2, 2), (4, 4)):  # the second and the third show a reset
        fed.append(probes(count, 1000 * read))
        rig.say(read=read)
        rig.visit(Ask.FLUSH)
    edition = rig.book.edition
    blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert shown(rig, blocks) == [A] * 9
    assert len(blocks) == 1
    assert rig.book.edition is edition


def test_the_first_entries_of_a_ring_are_not_taken_for_what_another_ring_had(ring: tuple[Rig, list[bytes]]) -> None:
    """Nothing was read of it, so its counters show no reset."""
    rig, fed = ring
    rig.book.learn(PROBE, rig.book.edition)  # by the stream of another CPU
    rig.formats[PROBE] = NEW
    fed.append(probes(1, 1000))
    rig.say(read=1)
    assert shown(rig, blocks_of(rig.visit(Ask.CLOSE))) == [BYTES]
    fed.append(probes(1, 2000))
    rig.say(read=2)
    assert shown(rig, blocks_of(rig.visit(Ask.CLOSE))) == [B]


def test_a_full_block_is_checked_before_it_is_closed() -> None:
    with as_file(b"".join(probes(204, 1000 * n) for n in range(1, 7))) as fd:
        rig = Rig(fd, renewable=True, formats={PROBE: OLD}, stats=make_stats(read=6 * 204), room_pages=2)
        rig.book.learn(PROBE, rig.book.edition)
        rig.formats[PROBE] = NEW
        blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert [{name for name, _ in shown(rig, [block])} for block in blocks] == [{"event_510"}, {"two"}, {"two"}]


def test_a_second_reset_in_one_visit_is_checked_against_the_new_formats() -> None:
    """The first one takes an event away: what is learnt after it stands where that one stood."""
    with as_file(b"".join((probes(204, 1000), probes(204, 2000), probes(204, 3000, 511)))) as fd:
        rig = Rig(fd, renewable=True, formats={PROBE: OLD, 511: LATER}, stats=make_stats(), room_pages=2)
        rig.book.learn(PROBE, rig.book.edition)
        rig.formats[PROBE] = NEW
        looks = iter([408, 408, 204])
        rig.stream.account._read_stats = lambda: make_stats(read=next(looks))
        blocks = blocks_of(rig.visit(Ask.CLOSE))
    assert [{name for name, _ in shown(rig, [block])} for block in blocks] == [{"event_510"}, {"event_511"}]


def test_an_event_that_is_gone_and_one_without_a_format_are_looked_up_anew(ring: tuple[Rig, list[bytes]]) -> None:
    rig, fed = ring
    fed.append(probes(1, 1000))
    rig.say(read=1)
    rig.visit(Ask.CLOSE)
    for count, formats, name in ((1, {}, "event_510"), (1, {PROBE: NEW}, "two")):
        rig.formats.clear()
        rig.formats.update(formats)
        rig.say(read=0)
        assert rig.visit(Ask.CLOSE).blocks == []
        fed.append(probes(count, 2000))
        rig.say(read=count)
        assert [found for found, _ in shown(rig, blocks_of(rig.visit(Ask.CLOSE)))] == [name]


def test_counters_are_looked_at_for_events_that_can_go_or_with_a_sample_alone(ring: tuple[Rig, list[bytes]]) -> None:
    rig, fed = ring
    rig.formats[505] = made_formats()[505]
    looks = []
    read_stats = rig.stream.account._read_stats
    assert read_stats is not None
    rig.stream.account._read_stats = lambda: looks.append(1) or read_stats()
    for event_id, ask, wanted in (
        (505, Ask.FLUSH, 0), (505, Ask.FLUSH, 0), (505, Ask.SAMPLE, 3), (PROBE, Ask.FLUSH, 1), (505, Ask.FLUSH, 2),
    ):  # fmt: skip
        looks.clear()
        fed.append(probes(1, 1000, event_id))
        rig.say(read=rig.stream.decoded + 1)
        rig.visit(ask)
        assert len(looks) == wanted, (event_id, ask)
