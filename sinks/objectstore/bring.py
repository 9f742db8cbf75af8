"""Brings one segment file to the store, under its own name or, where that is taken, under another. Blocks."""

import time
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from sinks.objectstore.digest import Digest, read_digest, read_entry
from sinks.objectstore.names import build_folder, date_of, other_name
from sinks.objectstore.progress import Uploaded
from sinks.objectstore.store import Store, StoreError


def bring(path: Path, host: str, store: Store) -> tuple[Uploaded, bool]:
    """Bring a file to the store, where it is not there already; whether its name was taken.

    Raises:
      FileNotFoundError: the file is gone.
      StoreError, OSError
    """
    name = path.name
    with open(path, "rb") as file:
        digest = read_digest(file, store.part_bytes)
        entry = read_entry(path, digest, host)
        date = date_of(name) or time.strftime("%Y-%m-%d", time.gmtime(path.stat().st_mtime))
        folder = build_folder(entry.host, entry.instances, date)
        if _bring_to(store, f"{folder}/{name}", file, digest):
            return Uploaded(name, folder, entry), False
        taken = other_name(name, digest.sha256)
        if not _bring_to(store, f"{folder}/{taken}", file, digest):
            raise StoreError("both names of a segment are taken by other content", where=f"{folder}/{taken}")
    return Uploaded(name, folder, replace(entry, name=taken)), True


def _bring_to(store: Store, key: str, file: BinaryIO, digest: Digest) -> bool:
    """False when there is something else at the key."""
    same = store.is_same(key, digest)
    if same is not None:
        return same
    file.seek(0)
    return store.put(key, file, digest)
