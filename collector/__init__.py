"""ftrace-collector: from the kernel's ring buffers to a compressed archive that adds up.

This is the door for programs that read archives: each name is imported when it is first asked for (PEP 562), so that
importing the package, which every module of it does, loads nothing.

The daemon behind it has a package for each concern; docs/architecture.md has them from the bottom up, with who may
import whom. Each says in its own __init__.py in what order to read it: begin with run/, daemon.py. No module of the
project imports from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collector.archive.info import summarise
    from collector.archive.reader import Segment, list_segments, open_segment
    from collector.archive.verify import verify_archive
    from collector.errors import ArchiveError, CollectorError, SegmentError
    from collector.version import __version__

__all__ = [
    "ArchiveError", "CollectorError", "Segment", "SegmentError", "__version__", "list_segments", "open_segment",
    "summarise", "verify_archive",
]  # fmt: skip

# {name: the module that has it}
_HOMES = {
    "ArchiveError": "errors",
    "CollectorError": "errors",
    "Segment": "archive.reader",
    "SegmentError": "errors",
    "__version__": "version",
    "list_segments": "archive.reader",
    "open_segment": "archive.reader",
    "summarise": "archive.info",
    "verify_archive": "archive.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
