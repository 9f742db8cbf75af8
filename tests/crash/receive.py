"""The folder of a sender at `receive`: what was acknowledged is there, once and in order, whatever comes again."""

from dataclasses import dataclass, field
from pathlib import Path

from collector.archive.bodies import parse_block
from collector.archive.frame import Kind, Record
from collector.archive.reader import Segment
from collector.archive.totals import build_totals
from collector.archive.verify import verify_archive
from collector.batch import Note, NoteKind, StreamKey
from sinks.contract.base import Parcel
from sinks.network.backlog import ParcelWriter, write_end
from sinks.stream.host import HostArchive
from sinks.stream.policy import HostPolicy
from tests.archive.encoder import PLAIN_ID, Maps, build_block, ledger
from tests.crash.case import Case, Machine, Said
from tests.crash.workload import LATER_RUN, ONE_BLOCK, RUN, STREAM, Context

FOLDER = "hosts/web-1"
AGAIN = 6  # so many acknowledged records come again: a sender notes a second later how far it is

PLENTY = 1 << 40


def make_run(run: bytes, *segments: range) -> list[Parcel]:
    """What a sender has to send of a run, with one event in a block and a gap behind the first one.

    Args:
      segments: the numbers of the blocks in each of its own.
    """
    context, key = Context(run), StreamKey(run, *STREAM)
    sent: list[Parcel] = []
    for number, blocks in enumerate(segments):
        totals = ledger(blocks.start, blocks.start, ONE_BLOCK * blocks.start)
        writer = ParcelWriter(context.header(number, {STREAM: totals} if number else None))
        for at in blocks:
            writer.write_block(
                build_block(
                    [(100 + at, 8, 0, 0, PLAIN_ID, at)], stream=STREAM, number=at, ordinal=at, raw_bytes=ONE_BLOCK,
                    run=run,
                ), Maps(),
            )  # fmt: skip
            if at == 0:
                gap = {"cause": "dropped", "count": 3, "from_ts": 101, "to_ts": 102, "detail": "d"}
                writer.write_note(Note(NoteKind.GAP, key, gap))
        for note in context.closing_notes():
            writer.write_note(note)
        sent += [parcel for _, parcel in writer.written]
    writer.written.clear()
    count = segments[-1].stop
    totals = ledger(count, count, ONE_BLOCK * count)
    sample = Note(NoteKind.SAMPLE, key, {"at_ns": 1, "totals": build_totals(totals)}, keep=False)
    write_end(writer, {STREAM: sample}, run)
    return sent + [parcel for _, parcel in writer.written]


PARCELS = [*make_run(RUN, range(2), range(2, 4)), *make_run(LATER_RUN, range(2))]
# Behind the last record of each run.
ENDS = [at for at in range(1, len(PARCELS) + 1) if at == len(PARCELS) or PARCELS[at].run != PARCELS[at - 1].run]


def place_of(block: int, run: bytes = RUN) -> int:
    """Where a block stands among all that is sent."""
    return next(at for at, of in enumerate(PARCELS) if of.run == run and of.number == block)


class Connection:
    """A sender connected to its archive; it sends from a place on, some records at a time.

    Args:
      start: of the first record; a header and the objects behind it come first.
    """

    def __init__(self, machine: Machine, start: int, at_once: int = 4, **policy: int) -> None:
        limits = {"segment_bytes": 1400, "max_bytes": PLENTY, "min_free_bytes": 0} | policy
        self.archive = HostArchive(machine.root / FOLDER, HostPolicy(**limits))
        self._say = machine.say
        self._at_once = at_once
        self.begin_again(start)

    def begin_again(self, start: int) -> None:
        """Another connection to the archive that is open."""
        self._at, self._first = start, prefix_of(start)

    def send(self, until: int = len(PARCELS)) -> None:
        while self._at < until:
            end = min(until, self._at + self._at_once)
            self.archive.take([*self._first, *PARCELS[self._at : end]])
            self._first, self._at = [], end
            self._say("acknowledged", end)


def prefix_of(start: int) -> list[Parcel]:
    """What a connection begins with: all that the records from there on need."""
    if start == len(PARCELS) or PARCELS[start].kind == Kind.HEADER:
        return []
    header = max(at for at in range(start) if PARCELS[at].kind == Kind.HEADER)
    return [PARCELS[header], *(of for of in PARCELS[header + 1 : start] if of.kind == Kind.OBJECT)]


def receive_two_runs(machine: Machine) -> None:
    """Two connections, both to an archive that stays open; then the receiver stops and starts. Some comes again."""
    connection = Connection(machine, 0)
    connection.send(place_of(2))
    connection.begin_again(place_of(1))
    connection.send(place_of(3))
    connection.archive.close()
    connection = Connection(machine, place_of(2), at_once=3)
    connection.send(place_of(1, LATER_RUN))
    connection.archive.tick()
    connection.send()
    connection.archive.close()


def receive_within_a_limit(machine: Machine) -> None:
    """The oldest segments go, also of the run that is being sent; then some of it comes again."""
    connection = Connection(machine, 0, 5, max_bytes=3000, segment_bytes=1)
    connection.send(place_of(3))
    connection.archive.close()
    connection = Connection(machine, place_of(0), 5, max_bytes=3000, segment_bytes=1)
    connection.send(place_of(0, LATER_RUN))
    connection.archive.close()


def receive_a_run_at_once(machine: Machine) -> None:
    """Its segment is begun, and sealed by the run's end, before anything else is synced."""
    connection = Connection(machine, 0, at_once=ENDS[0])
    connection.send(ENDS[0])
    connection.archive.close()


def receive_on(machine: Machine) -> None:
    """A receiver that was killed starts again; what is acknowledged at once is what was there already."""
    connection = Connection(machine, place_of(0), at_once=1)
    connection.send(place_of(3))
    connection.archive.close()


def leave_nothing(root: Path) -> None:
    (root / FOLDER).parent.mkdir()


def leave_a_killed_receiver(root: Path) -> None:
    """With one segment sealed, and one torn."""
    leave_nothing(root)
    connection = Connection(Machine(root), 0, segment_bytes=1000)
    connection.send(place_of(3))
    abandon(connection.archive)
    (part,) = (root / FOLDER).glob("*.part")
    with open(part, "ab") as file:
        file.write(part.read_bytes()[-500:-100])


def abandon(archive: HostArchive) -> None:
    """As its process dies."""
    archive._segments.abandon()
    archive._lock.close()


def blocks_before(place: int) -> list[tuple[bytes, int]]:
    return [(of.run, of.number) for of in PARCELS[:place] if of.kind == Kind.BLOCK]


def acknowledged_in(said: Said) -> int:
    return max((value for what, value in said if what == "acknowledged"), default=0)


def removed_in(said: Said) -> set[tuple[bytes, int]]:
    return {block for what, value in said if what == "removed" for block in value[1]}


@dataclass
class Found:
    """What a folder holds, in the order of its segments."""

    blocks: list[tuple[bytes, int]] = field(default_factory=list)
    gaps: list[bytes] = field(default_factory=list)
    complete: set[bytes] = field(default_factory=set)  # runs that somebody called so
    wrong: list[str] = field(default_factory=list)


def look_into(folder: Path) -> Found:
    """Gives what is there, and what must not be in any such folder."""
    found = Found()
    for path in sorted(folder.glob("*.ftseg")):
        with Segment(path) as segment:
            for record in segment.records():
                if isinstance(record, Record) and record.kind == Kind.BLOCK:
                    head = parse_block(record.body)
                    found.blocks.append((head.run, head.number))
                elif isinstance(record, Record) and record.kind == Kind.GAP:
                    found.gaps.append(bytes(record.body))
            if segment.footer is not None and segment.footer.last:
                found.complete.add(segment.run)
    if found.blocks != sorted(set(found.blocks)):
        found.wrong.append(f"not in order, or twice: {[number for _, number in found.blocks]}")
    if len(found.gaps) != len(set(found.gaps)):
        found.wrong.append("a gap is told twice")
    if any(folder.glob("*.ftseg")):
        found.wrong += [f"verify: {problem}" for problem in verify_archive([folder]).problems]
    return found


def violations(root: Path, said: Said) -> list[str]:
    """Opens what a crash left as the next start does, and gives what is wrong with it."""
    acknowledged, removed = acknowledged_in(said), removed_in(said)
    try:
        HostArchive(root / FOLDER, HostPolicy(max_bytes=PLENTY, min_free_bytes=0)).close()
        found = look_into(root / FOLDER)
    except Exception as e:
        return [f"no restart: {e!r}"]
    wrong, there = found.wrong, {*found.blocks, *removed}
    wrong += [f"acknowledged, and gone: block {of[1]}" for of in blocks_before(acknowledged) if of not in there]
    for end in ENDS:
        run = PARCELS[end - 1].run
        lacks = [of for of in blocks_before(end) if of[0] == run and of not in there]
        if run in found.complete and lacks:
            wrong.append(f"called complete, without {lacks}")
        if run not in found.complete and end <= acknowledged and not removed:
            wrong.append("its end was acknowledged, and it is not complete")
    return wrong


def send_the_rest(root: Path, said: Said) -> list[str]:
    """The sender sends all that is not acknowledged, and a little that is; gives what is wrong then."""
    folder, removed = root / FOLDER, removed_in(said)
    names = {path.name for path in folder.iterdir()}
    try:
        connection = Connection(Machine(root), max(0, acknowledged_in(said) - AGAIN))
        again = {path.name for path in folder.iterdir()}
        connection.send()
        connection.archive.close()
        found = look_into(folder)
    except Exception as e:
        return [f"cannot go on: {e!r}"]
    wrong = found.wrong if names == again else [*found.wrong, f"recovered twice: {names} and {again}"]
    there = {*found.blocks, *removed}
    wrong += [f"sent, and not there: block {of[1]}" for of in blocks_before(len(PARCELS)) if of not in there]
    if found.complete != {RUN, LATER_RUN} and not removed:
        wrong.append("a run is not complete")
    return wrong


def resume(machine: Machine, said: Said) -> None:
    """The receiver starts again, and the sender sends a few records, most of which are there."""
    connection = Connection(machine, max(0, acknowledged_in(said) - AGAIN), at_once=3)
    connection.send(min(len(PARCELS), acknowledged_in(said) + 6))
    abandon(connection.archive)


CASES = {
    "receive": Case(leave_nothing, receive_two_runs, violations, send_the_rest, resume),
    "receive, within a limit": Case(leave_nothing, receive_within_a_limit, violations, send_the_rest, resume),
    "receive, a run at once": Case(
        leave_nothing, receive_a_run_at_once, violations, send_the_rest, resume, is_killed=False
    ),
    "receive, after a kill": Case(leave_a_killed_receiver, receive_on, violations, send_the_rest, resume),
}
