"""Every error of the project, and the exit code that each ends a command with. Pure.

CollectorError                    1
├── UsageError                   64   the command line asks for what cannot be
├── ConfigError                  78   a value of the configuration is wrong
├── TracefsError                  1   the kernel's side
│   ├── TracefsMissingError           not mounted, or a file that must be there is not
│   ├── TracefsPermissionError        not root, or the kernel refuses
│   ├── TracefsFormatError            a file does not read as documented
│   └── InstanceBusyError             another process uses the instance
├── ArchiveError                  1   the disk's side
│   ├── ArchiveLockedError            another daemon writes this archive
│   ├── SegmentError                  a segment is damaged or not a segment
│   └── ArchiveFullError              no room, or the folder is gone
└── IncompleteDrainError         75   entries were left in the kernel at shutdown
"""

from collections.abc import Sequence

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 64
EXIT_INCOMPLETE_DRAIN = 75
EXIT_CONFIG = 78


class CollectorError(Exception):
    """An error that the user can act on.

    Args:
      what: one sentence, what went wrong.
      where: the file, the option or the key path.
      expected, got: what would have been right, and what was there.
      hint: what to do.
    """

    exit_code = EXIT_FAILURE

    def __init__(
        self,
        what: str,
        *,
        where: str | None = None,
        expected: str | None = None,
        got: str | None = None,
        hint: str | None = None,
    ) -> None:
        where, got = _clip(where), _clip(got)
        self.what, self.where, self.expected, self.got, self.hint = what, where, expected, got, hint
        parts = [what if where is None else f"{where}: {what}"]
        if expected is not None:
            parts.append(f"expected {expected}")
        if got is not None:
            parts.append(f"got {got}")
        if hint is not None:
            parts.append(hint)
        super().__init__("; ".join(parts))


def _clip(text: str | None) -> str | None:
    """What is quoted may be of any length."""
    return text if text is None or len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 400  # characters of a quotation


class UsageError(CollectorError):
    exit_code = EXIT_USAGE


class ConfigError(CollectorError):
    exit_code = EXIT_CONFIG


class TracefsError(CollectorError):
    """Something about tracefs; see the subclasses."""


class TracefsMissingError(TracefsError):
    """tracefs is not mounted, or a file of it that is needed does not exist."""


class TracefsPermissionError(TracefsError):
    """The kernel or the file modes refuse the access."""


class TracefsFormatError(TracefsError):
    """A file of tracefs does not read as documented."""


class InstanceBusyError(TracefsError):
    """The tracing instance is in use by another process."""


class ArchiveError(CollectorError):
    """Something about the archive folder or a segment; see the subclasses."""


class ArchiveLockedError(ArchiveError):
    """Another daemon writes this archive."""


class SegmentError(ArchiveError):
    """A file is damaged, or is not a segment."""


class ArchiveFullError(ArchiveError):
    """The archive's filesystem has no room, or its folder is gone."""


class IncompleteDrainError(CollectorError):
    exit_code = EXIT_INCOMPLETE_DRAIN


def raise_all(errors: Sequence[CollectorError]) -> None:
    """Raise what went wrong in the course of several things that had to be tried all; nothing when there is nothing.

    Raises:
      CollectorError: the only one.
      ExceptionGroup: several.
    """
    if len(errors) > 1:
        raise ExceptionGroup("several errors", errors)
    if errors:
        raise errors[0]
