"""What waits to be uploaded: the archive's sealed segments, and those that retention takes away before.

Retention runs in the archive's thread: it asks what is in the store, and says what it is about to remove.
"""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from collector.archive.segment import SUFFIX
from sinks.objectstore.digest import count_events


class Content(NamedTuple):
    """What is lost with a segment, should it go."""

    size_bytes: int
    events: int


NOTHING = Content(0, 0)


class Waiting:
    """See the module.

    Args:
      archive: the folder.
    """

    def __init__(self, archive: Path) -> None:
        self.segments: dict[str, Content] = {}  # {file name: ...} sealed, not uploaded
        self.done: frozenset[str] = frozenset()  # file names; replaced whole, other threads read it
        self._archive = archive
        self._going: dict[str, Content] = {}  # {file name: ...} removed by retention, not uploaded by then

    @property
    def total(self) -> Content:
        """Of all that wait."""
        of = self.segments.values()
        return Content(sum(one.size_bytes for one in of), sum(one.events for one in of))

    def note_removal(self, name: str) -> None:
        """Retention is about to remove a segment; what is not uploaded by then is lost at the next look.

        Else one that is sealed and removed between two looks would be lost in silence. From any thread.
        """
        if name in self.done:
            return
        path = self._archive / name
        try:
            self._going[name] = Content(path.stat().st_size, count_events(path))
        except FileNotFoundError:
            pass  # somebody else removed it before, and where a look had seen it, the next one missed and counted it
        except OSError:
            self._going[name] = NOTHING  # nobody knows what is in it

    def list_sealed(self) -> dict[str, Content]:
        """{file name: what is in it} of the sealed segments that are there; in a thread, for it reads them."""
        found = {}
        for path in self._archive.glob(f"*{SUFFIX}"):
            try:
                if path.name in self.done:
                    found[path.name] = NOTHING  # nobody asks what is in it; reading that of a whole archive takes long
                    continue
                known = self.segments.get(path.name)
                found[path.name] = Content(path.stat().st_size, count_events(path) if known is None else known.events)
            except OSError:
                continue  # retention took it just now; or it cannot be read, which the upload will say
        return found

    def look(self, present: dict[str, Content], uploaded: Collection[str]) -> dict[str, Content]:
        """Take over what is there now; gives what is lost: each once, whoever finds it out.

        Args:
          present: as list_sealed() gave it.
          uploaded: names of files that are in the store.
        """
        lost = {name: self.lose(name) for name in [name for name in self.segments if name not in present]}
        lost |= self.lose_going(present, uploaded)
        self.segments = {name: of for name, of in present.items() if name not in uploaded}
        return lost

    def lose_going(self, present: Collection[str], uploaded: Collection[str]) -> dict[str, Content]:
        """Give what retention has removed since the last look; what is present still waits for that."""
        lost = {}
        for name in [name for name in list(self._going) if name not in present]:
            if name in uploaded:  # it was on its way
                del self._going[name]
            else:
                lost[name] = self.lose(name)
        return lost

    def lose(self, name: str) -> Content:
        """A segment is gone; gives what was in it."""
        going = self._going.pop(name, NOTHING)
        return self.segments.pop(name, going)
