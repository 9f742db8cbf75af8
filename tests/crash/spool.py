"""Power cuts at every step of a sink's spool: what was synced and not acknowledged is sent after the restart."""

import random
from pathlib import Path
from typing import Any

import pytest

from collector.archive.frame import Kind
from sinks.log import START, Entry
from sinks.spool import Spool, SpoolPolicy
from tests.contract.made import MIB, Context, Maps, block
from tests.crash.filesystem import Mark, Recorder, put_down

SEED = 7
SEGMENT_AGE_S = 10.0
LATER_RUN = bytes(range(16, 32))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_spool(folder: Path, context: Context, clock: Clock) -> Spool:
    return Spool(SpoolPolicy(folder, 64 * MIB, "spool", SEGMENT_AGE_S, 1.0), context, Maps(), clock)


def is_block(entry: Entry) -> bool:
    return entry.parcel.kind == Kind.BLOCK


def send_some(recorder: Recorder, folder: Path) -> None:
    """Three segments; the receiver has some of the blocks, at last those of the whole first segment."""
    clock = Clock()
    spool = make_spool(folder, Context(), clock)
    spool.open()
    entries: list[Entry] = []
    for number in range(7):
        entries += spool.append([block(number, events=1, size_bytes=40)], START).entries
        clock.now_s += 2
        assert spool.tick() is not None
        recorder.mark("durable", number)
        if number in (1, 4):
            acked = [entry for entry in entries if is_block(entry)][number - 1]
            recorder.mark("acknowledged", acked.parcel.number)
            spool.acknowledge(acked.position, ())
        if number in (2, 5):
            clock.now_s += SEGMENT_AGE_S
    spool.close()


def violations(folder: Path, said: list[tuple[str, Any]]) -> list[str]:
    """Opens what a cut left as the next run does, and gives what is wrong."""
    durable = {value for what, value in said if what == "durable"}
    acknowledged = max((value for what, value in said if what == "acknowledged"), default=-1)
    try:
        spool = make_spool(folder, Context(run=LATER_RUN), Clock())
        spool.open()
        entries = spool.read(START, 1 << 40).entries
        spool.append([block(0)], START)
        spool.close()
    except Exception as e:
        return [f"no restart: {e!r}"]
    numbers = [entry.parcel.number for entry in entries if is_block(entry)]
    found = [
        f"durable, not acknowledged, and gone: {n}" for n in sorted(durable) if n > acknowledged and n not in numbers
    ]
    if numbers != sorted(set(numbers)):
        found.append(f"not in order, or twice: {numbers}")
    return found


def test_what_was_durable_and_not_acknowledged_is_sent_after_every_power_cut(tmp_path: Path) -> None:
    root = tmp_path / "disk"
    root.mkdir()
    recorder = Recorder(root)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        send_some(recorder, root / "spool")
    dice, seen = random.Random(SEED), set()
    for cut in recorder.cuts():
        said = [(step.what, step.value) for step in recorder.steps[:cut] if isinstance(step, Mark)]
        for tree in recorder.survivors(cut, dice):
            key = (len(said), *((folder, *sorted(entries.items())) for folder, entries in sorted(tree.items())))
            if key in seen:
                continue
            seen.add(key)
            place = tmp_path / str(len(seen))
            place.mkdir()
            put_down(tree, place)
            assert violations(place / "spool", said) == [], f"after step {cut}, {recorder.steps[cut - 1]}"
    assert len(seen) > 100
