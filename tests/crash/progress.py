"""What an object store's sink notes of its uploads: retention removes the segments that are noted."""

from pathlib import Path

from sinks.objectstore.manifest import Entry
from sinks.objectstore.progress import Progress, Uploaded, path_of, read_progress, write_progress
from tests.crash.case import Case, Machine, Said

URL = "s3://bucket/prefix"


class Notes:
    """A sink that notes what it has uploaded."""

    def __init__(self, machine: Machine) -> None:
        self._path = file_of(machine.root)
        self._say = machine.say
        self._progress, _ = read_progress(self._path, URL)

    def upload(self, number: int) -> None:
        name = f"{number}.ftseg"
        entry = Entry(name, 5, "00" * 32, "0102", number, "h", 10, 20, 7)
        self._progress.uploaded[name] = Uploaded(name, "day", entry)
        write_progress(self._path, self._progress)
        self._say("durable", name)

    def forget(self, number: int) -> None:
        """Its segment is gone from the archive."""
        self._say("forgotten", f"{number}.ftseg")
        self._progress.prune(self._progress.uploaded.keys() - {f"{number}.ftseg"})
        write_progress(self._path, self._progress)


def file_of(root: Path) -> Path:
    return path_of(root / "archive", "bucket")


def note_some(machine: Machine) -> None:
    notes = Notes(machine)
    for number in range(3):
        notes.upload(number)
    notes.forget(0)


def leave_an_archive(root: Path) -> None:
    (root / "archive").mkdir()


def leave_a_damaged_file(root: Path) -> None:
    leave_an_archive(root)
    write_progress(file_of(root), Progress(URL))
    file_of(root).write_bytes(file_of(root).read_bytes()[:-3])


def violations(root: Path, said: Said) -> list[str]:
    """Reads what a crash left, and gives what is wrong with it."""
    forgotten = {value for what, value in said if what == "forgotten"}
    noted = {value for what, value in said if what == "durable"} - forgotten
    try:
        progress, doubt = read_progress(file_of(root), URL)
        again, doubt_again = read_progress(file_of(root), URL)
    except Exception as e:
        return [f"no restart: {e!r}"]
    found = [f"noted, and gone: {name}" for name in sorted(noted - progress.uploaded.keys())]
    if doubt_again is not None or again != progress:
        found.append(f"reads otherwise the second time: {doubt_again}")
    if doubt is not None and noted:
        found.append(f"damaged: {doubt}")
    return found


def note_another(root: Path, said: Said) -> list[str]:
    try:
        Notes(Machine(root)).upload(9)
    except Exception as e:
        return [f"cannot go on: {e!r}"]
    return [] if "9.ftseg" in read_progress(file_of(root), URL)[0].uploaded else ["what is noted next is not there"]


CASES = {
    "progress": Case(leave_an_archive, note_some, violations, note_another),
    "progress, after damage": Case(leave_a_damaged_file, note_some, violations, note_another),
}
