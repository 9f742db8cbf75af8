"""A sink's spool: what was put into it, durably, and is not acknowledged is sent after the restart, once, in order."""

import os
from collections.abc import Sequence
from pathlib import Path

from collector.archive.frame import Kind
from collector.archive.segment import PART_SUFFIX, SUFFIX
from collector.batch import Block, StreamKey
from sinks.network.backlog import START, Entry, Position
from sinks.spool.cursor import Cursor, read_cursor, write_cursor
from sinks.spool.policy import SpoolPolicy
from sinks.spool.rejected import FOLDER as REJECTED_FOLDER
from sinks.spool.spool import SPACE_CHECK_S, Spool
from tests.archive.encoder import Maps
from tests.contract.made import MIB, Context, block
from tests.crash.case import Case, Machine, Said, leave_nothing, second_sync_fails

FOLDER = "spool"
SEGMENT_AGE_S = 10.0
RUNS = [bytes([number] * 16) for number in range(3)]  # of the one that crashes, and of those after it


class Writer:
    """A spool with a sender that says what it does."""

    def __init__(self, machine: Machine, run: int = 0, sync_interval_s: float = 1.0) -> None:
        self.now_s = 1000.0
        self.spool = make_spool(machine.root, run, sync_interval_s, self)
        self.entries: list[Entry] = []
        self._say = machine.say
        self._run = run

    def __call__(self) -> float:
        return self.now_s

    def open(self) -> "Writer":
        self.spool.open()
        self.entries += blocks_of(self.spool.read(START, 1 << 40).entries)
        return self

    def put(self, number: int) -> None:
        self.entries += blocks_of(self.spool.append([make_block(number, self._run)], START).entries)
        self._say("written", number)

    def sync(self) -> None:
        self.now_s += 2
        assert self.spool.tick() is not None
        self._say("durable", self.entries[-1].parcel.number)

    def acknowledge(self, at: int, rejected: Sequence[int] = ()) -> None:
        """The receiver has the blocks up to this place, but for those that it will not have."""
        number = self.entries[at].parcel.number
        self._say("acknowledged", number)
        self.spool.acknowledge(self.entries[at].position, [self.entries[place].position for place in rejected])
        self._say("settled", number)


def make_spool(root: Path, run: int, sync_interval_s: float, clock: Writer | None = None) -> Spool:
    policy = SpoolPolicy(root / FOLDER, 64 * MIB, "spool", SEGMENT_AGE_S, sync_interval_s)
    return Spool(policy, Context(run=RUNS[run]), Maps(), clock or (lambda: 1000.0))


def make_block(number: int, run: int) -> Block:
    return block(number, events=1, size_bytes=40, key=StreamKey(RUNS[run], "main", 0))


def blocks_of(entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.parcel.kind == Kind.BLOCK]


def send_some(machine: Machine) -> None:
    """Three segments; the receiver has some of the blocks, at last those of the whole first segment."""
    writer = Writer(machine).open()
    for number in range(7):
        writer.put(number)
        writer.sync()
        if number in (1, 4):
            writer.acknowledge(number - 1)
        if number in (2, 5):
            writer.now_s += SEGMENT_AGE_S
    writer.spool.close()


def sync_each_append(machine: Machine) -> None:
    writer = Writer(machine, sync_interval_s=0.0).open()
    for number in range(3):
        writer.put(number)
        machine.say("durable", number)
    writer.spool.close()


def send_all(machine: Machine) -> None:
    """Nothing is left at the end, nor is the file."""
    writer = Writer(machine).open()
    for number in range(2):
        writer.put(number)
    writer.acknowledge(1)
    writer.spool.close()


def put_on_a_failing_disk(machine: Machine) -> None:
    """A sync fails; once the spool goes on, all that it has is durable."""
    machine.set_fault(second_sync_fails())
    writer = Writer(machine).open()
    writer.put(0)
    writer.sync()
    writer.put(1)
    writer.now_s += 2
    writer.spool.tick()
    writer.now_s += SPACE_CHECK_S
    writer.spool.append([], START)
    machine.say("durable", 1)
    writer.put(2)
    writer.sync()
    writer.spool.close()


def send_what_is_rejected(machine: Machine) -> None:
    """The receiver will never have a block: its segment is kept."""
    writer = Writer(machine).open()
    for number in range(4):
        writer.put(number)
        if number % 2:
            writer.sync()
            writer.now_s += SEGMENT_AGE_S
    machine.say("rejected", (next(iter(writer.spool._segments)).path.name, 0))
    writer.acknowledge(2, rejected=[0])
    writer.spool.close()


def take_over(machine: Machine) -> None:
    """What a killed run has left is sent, by the next one."""
    for number in range(1, 4):
        machine.say("durable", number)
    writer = Writer(machine, 1).open()
    writer.acknowledge(0)
    writer.put(4)
    writer.sync()
    writer.acknowledge(2)
    writer.acknowledge(3)
    writer.spool.close()


def leave_a_killed_run(root: Path) -> None:
    """Two segments, the second one torn; the cursor is in the first."""
    writer = Writer(Machine(root)).open()
    for number in range(4):
        writer.put(number)
        writer.now_s += number * SEGMENT_AGE_S / 2
    write_cursor(root / FOLDER, Cursor(next(iter(writer.spool._segments)).path.name, writer.entries[0].position.offset))
    assert writer.spool._tail.writer is not None
    assert writer.spool._lock is not None
    writer.spool._tail.writer.abandon()
    writer.spool._lock.close()
    with open(writer.spool._tail.writer.path, "ab") as file:
        file.write(bytes(100))


def violations(root: Path, said: Said) -> list[str]:
    """Opens what a crash left as the next run does, and gives what is wrong."""
    durable = {value for what, value in said if what == "durable"}
    acknowledged = max((value for what, value in said if what == "acknowledged"), default=-1)
    settled = max((value for what, value in said if what == "settled"), default=-1)
    spool = make_spool(root, 2, 1.0)
    try:
        read_cursor(root / FOLDER)  # a damaged one would not end the start
        spool.open()
        entries = spool.read(START, 1 << 40).entries
        spool.append([make_block(100, 2)], START)
        spool.close()
    except Exception as e:
        return [f"no restart: {e!r}"]
    numbers = [entry.parcel.number for entry in blocks_of(entries)]
    found = [
        f"durable, not acknowledged, and gone: {n}" for n in sorted(durable) if n > acknowledged and n not in numbers
    ]
    found += [f"acknowledged, and sent again: {n}" for n in numbers if n <= settled]
    if numbers != sorted(set(numbers)):
        found.append(f"not in order, or twice: {numbers}")
    kept = [path.name for path in (root / FOLDER / REJECTED_FOLDER).glob(f"*{SUFFIX}")]
    for name, number in [value for what, value in said if what == "rejected"]:
        if name not in kept and number not in numbers:  # nor will it be sent and rejected again
            found.append(f"rejected, and gone: {name}")
    return found


def send_the_rest(root: Path, said: Said) -> list[str]:
    """Sends all that is left, and gives what is wrong with the folder then."""
    try:
        spool = make_spool(root, 1, 1.0)
        spool.open()
        sent = blocks_of(spool.read(START, 1 << 40).entries)
        spool.acknowledge(Position(1 << 30, 0), ())
        spool.close()
        again = make_spool(root, 1, 1.0)
        left = again.open()
        again.close()
    except Exception as e:
        return [f"cannot go on: {e!r}"]
    found = [] if sent and sent[-1].parcel.number == 100 else ["what was put in after the restart is not sent"]
    if left or list((root / FOLDER).glob(f"*{SUFFIX}")) or list((root / FOLDER).glob(f"*{PART_SUFFIX}")):
        found.append(f"left when all is acknowledged: {left} events, {sorted(os.listdir(root / FOLDER))}")
    return found


def resume(machine: Machine, said: Said) -> None:
    """The next run on the same machine sends some, and takes more."""
    writer = Writer(machine, 1).open()
    writer.put(50)
    writer.sync()
    writer.acknowledge(0)


CASES = {
    "spool": Case(leave_nothing, send_some, violations, send_the_rest, resume),
    "spool, each append": Case(leave_nothing, sync_each_append, violations, send_the_rest, resume, is_killed=False),
    "spool, all acknowledged": Case(leave_nothing, send_all, violations, send_the_rest, resume, is_killed=False),
    "spool, failing disk": Case(leave_nothing, put_on_a_failing_disk, violations, send_the_rest, is_killed=False),
    "spool, rejected": Case(leave_nothing, send_what_is_rejected, violations, send_the_rest),
    "spool, of a killed run": Case(leave_a_killed_run, take_over, violations, send_the_rest, resume),
}
