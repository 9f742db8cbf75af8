"""The archive's workloads: a file sink that writes, removes, recovers, and meets a failing disk."""

import errno
import os
from pathlib import Path
from typing import Any

from collector.archive.pins import Pin, add_pin
from collector.archive.recover import recover_folder
from collector.archive.segment import start_ns_of
from tests.crash.case import Case, Machine, Said, leave_nothing, second_sync_fails
from tests.crash.workload import LATER_RUN, RUN, Writer, blocks_in, restart, violations

FOLDER = "archive"


def open_writer(machine: Machine, run: bytes = RUN, **policy: Any) -> Writer:
    return Writer(machine.root / FOLDER, machine.say, run, **policy).open()


def wait(machine: Machine, writer: Writer, seconds: int) -> None:
    for _ in range(seconds):
        machine.time.now_s += 1
        writer.tick()


def deliver_durably(machine: Machine) -> None:
    """Each delivery is synced; segments rotate, and the oldest go."""
    writer = open_writer(machine, sync_interval_s=0.0, segment_bytes=1800, max_bytes=4000)
    for blocks in (1, 2, 3, 2, 1):
        writer.deliver(blocks)
    writer.close()


def deliver_by_interval(machine: Machine) -> None:
    """Synced once a second, rotated by age."""
    writer = open_writer(machine, sync_interval_s=1.0, segment_age_s=3.0)
    for _ in range(4):
        writer.deliver(1)
        wait(machine, writer, 1)
        writer.deliver(1)
    wait(machine, writer, 1)
    writer.close()


def remove_several_at_once(machine: Machine) -> None:
    """The limit was lowered: one look takes them all, and no cut may leave a hole in their run."""
    writer = open_writer(machine, LATER_RUN, segment_bytes=1, max_bytes=1)
    writer.deliver(1)
    writer.close()


def remove_around_a_pin(machine: Machine) -> None:
    """The second segment is pinned: those behind it go, and the hole is told."""
    writer = open_writer(machine, LATER_RUN, segment_bytes=1, max_bytes=1)
    second = sorted((machine.root / FOLDER).glob("*.ftseg"))[1]
    pin = Pin("incident", start_ns_of(second) or 0, start_ns_of(second) or 0, 1)
    os.utime(second, ns=(pin.to_ns, pin.to_ns))
    writer.sink._shelf.fill()
    add_pin(machine.root / FOLDER, pin)
    machine.say("pinned", pin)
    writer.deliver(1)
    writer.close()


def seal_with_the_reserve(machine: Machine) -> None:
    """The disk gets full before the segment is sealed; the reserve has the room for that."""
    writer = open_writer(machine, reserve_bytes=4096)
    writer.deliver(1)
    wait(machine, writer, 3)
    reserve = machine.root / FOLDER / ".reserve"
    assert reserve.stat().st_size == 4096

    def fail(what: str) -> None:
        if what == "write" and reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    machine.set_fault(fail)
    writer.sink.rotate()
    writer.tick()
    assert writer.sink.last_path is not None
    writer.deliver(1)
    writer.close()


def deliver_to_a_failing_disk(machine: Machine) -> None:
    """One sync fails."""
    machine.set_fault(second_sync_fails())
    writer = open_writer(machine, sync_interval_s=0.0)
    writer.deliver(2)
    writer.deliver(2)  # fails
    wait(machine, writer, 3)
    writer.deliver(1)
    writer.close()


def deliver_without_enough_room(machine: Machine) -> None:
    """The archive is suspended by what is free, and what it has is synced before."""
    writer = open_writer(machine, sync_interval_s=1e9, min_free_bytes=1 << 60)
    writer.deliver(2)
    wait(machine, writer, 3)
    assert writer.sink.state.suspended is not None
    writer.close()


def recover(machine: Machine) -> None:
    """A crash is recovered, and then comes the cut."""
    for result in recover_folder(machine.root / FOLDER):
        if result.path.suffix == ".ftseg":
            machine.say("durable", blocks_in(result.path))
            machine.say("sealed", result.path.name)


def leave_a_torn_segment(root: Path) -> None:
    writer = open_writer(Machine(root), segment_bytes=1800)
    for _ in range(5):
        writer.deliver(1)
    writer.sink._sync()
    writer.sink.unlock()
    (part,) = (root / FOLDER).glob("*.part")
    with open(part, "ab") as file:
        file.write(part.read_bytes()[-500:-100])


def leave_a_run_without_an_end(root: Path) -> None:
    writer = open_writer(Machine(root), segment_bytes=1)
    writer.deliver(1)
    writer.sink.unlock()


def leave_a_whole_run(root: Path) -> None:
    writer = open_writer(Machine(root), segment_bytes=1)
    for _ in range(3):
        writer.deliver(1)
    writer.close()


def look(root: Path, said: Said) -> list[str]:
    return violations(root / FOLDER, said)


def go_on(root: Path, said: Said) -> list[str]:
    return restart(root / FOLDER)


def resume(machine: Machine, said: Said) -> None:
    writer = open_writer(machine, LATER_RUN)
    writer.deliver(1)


CASES = {
    "archive, durably": Case(leave_nothing, deliver_durably, look, go_on, resume),
    "archive, by interval": Case(leave_nothing, deliver_by_interval, look, go_on, is_killed=False),
    "archive, removal around a pin": Case(leave_a_whole_run, remove_around_a_pin, look, go_on),
    "archive, reserve": Case(leave_nothing, seal_with_the_reserve, look, go_on, is_killed=False),
    "archive, removal": Case(leave_a_whole_run, remove_several_at_once, look, go_on, is_killed=False),
    "archive, too little room": Case(leave_nothing, deliver_without_enough_room, look, go_on, is_killed=False),
    "archive, failing disk": Case(leave_nothing, deliver_to_a_failing_disk, look, go_on, is_killed=False),
    "archive, recovery of a torn segment": Case(leave_a_torn_segment, recover, look, go_on),
    "archive, recovery of a run without an end": Case(leave_a_run_without_an_end, recover, look, go_on),
}
