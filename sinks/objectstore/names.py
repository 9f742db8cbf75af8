"""Where a segment goes in the store. Pure.

    HOST / INSTANCE or "all" / DATE / NAME          the segment
    HOST / INSTANCE or "all" / DATE / manifest.jsonl
    HOST / create-only                              what a server's honesty is tried with

A segment holds all instances of its run: it stands under an instance's name only when it has that one alone. The date
is that of the segment's first moment, UTC, as in its name.
"""

import re
from collections.abc import Collection
from urllib.parse import quote

ALL = "all"
MANIFEST = "manifest.jsonl"
PROBE = "create-only"


def quote_part(part: str) -> str:
    """Gives a folder's name that all stores take: other bytes than letters, digits and _.-@ as %XX."""
    quoted = quote(part.encode(errors="surrogateescape"), safe="@")
    return {".": "%2E", "..": "%2E%2E", "": "%00"}.get(quoted, quoted).replace("~", "%7E")


def date_of(name: str) -> str | None:
    """Gives YYYY-MM-DD of a segment's name; None when it does not begin with a time."""
    found = re.match(r"(\d{4})(\d\d)(\d\d)T\d{6}", name)
    return "-".join(found.groups()) if found else None


def build_folder(host: str, instances: Collection[str], date: str) -> str:
    """Gives the folder of a segment.

    Args:
      instances: those of the segment's header.
      date: YYYY-MM-DD.
    """
    instance = quote_part(next(iter(instances))) if len(instances) == 1 else ALL
    return f"{quote_part(host)}/{instance}/{date}"


def other_name(name: str, sha256: str) -> str:
    """Gives the name for a segment whose own has been taken by something else."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{sha256[:8]}{dot}{suffix}" if dot else f"{name}.{sha256[:8]}"
