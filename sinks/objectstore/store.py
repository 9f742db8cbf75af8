"""Puts files into an object store so that they are there whole, or an error says why not. Blocks: for a thread.

    head ── is there ── same size and checksum ──> done
      │                 another content ─────────> done, under another name
      └─ is not ─> put, create-only (in parts when large) ─> head ─> size and checksum ─> done

An upload whose answer was lost is found by the next head. A checksum is the etag where the server makes it as S3 does,
else the object is read back. What is in a folder on a disk is synced before it counts.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import ObjectStore

from collector.errors import CollectorError
from sinks.objectstore.digest import Digest, read_parts
from sinks.objectstore.durable import sync_object
from sinks.objectstore.manifest import Entry, merge

if TYPE_CHECKING:
    from obstore import UpdateVersion

T = TypeVar("T")

PROBE_TEXT = b"tells whether this server keeps what is there when it is told to create only\n"
MANIFEST_TRIES = 5  # when somebody else writes the manifest at the same moment
PARTS_AT_ONCE = 2


class StoreError(CollectorError):
    """The store did not do what it was asked; it may at another time."""


class StoppedError(CollectorError):
    """The daemon ends, and the upload with it."""


class Store:
    """One place in an object store.

    Args:
      part_bytes: larger files are sent in parts of so many bytes.
      read_back: verify by reading, also where the etag is a checksum.
      stopped: whether to give up between two parts.
      folder: where the store is on a disk, when it is: what is put there is synced.
    """

    def __init__(
        self,
        store: ObjectStore,
        part_bytes: int,
        read_back: bool,
        stopped: Callable[[], bool] = lambda: False,
        folder: Path | None = None,
    ) -> None:
        self.part_bytes = part_bytes
        self._store, self._read_back, self._stopped, self._folder = store, read_back, stopped, folder
        self.requests = 0

    def honours_create(self, key: str) -> bool:
        """Whether the server refuses to create what is there; leaves a small object at the key.

        Raises:
          StoreError
        """
        for _ in range(2):
            try:
                self._do(lambda: obstore.put(self._store, key, PROBE_TEXT, mode="create"))
            except AlreadyExistsError:
                return True
            except NotImplementedError:
                return False
        return False

    def is_same(self, key: str, digest: Digest) -> bool | None:
        """Whether an object has these bytes, durably; None when there is none.

        Raises:
          StoreError
          StoppedError
        """
        found = self._head(key)
        if found is None:
            return None
        size_bytes, e_tag = found
        if size_bytes != digest.size_bytes:
            return False
        matches = not self._read_back and digest.matches(e_tag)
        if not matches and self._sha256_of(key, size_bytes) != digest.sha256:
            return False
        self._sync(key)  # also what an earlier try has put there: it may have ended before it came to this
        return True

    def put(self, key: str, file: BinaryIO, digest: Digest) -> bool:
        """Create an object; False when there is one of other content by now.

        Args:
          file: at its beginning.
        Raises:
          StoreError: nobody knows whether it is there, or it is damaged.
          StoppedError
        """
        try:
            if digest.size_bytes <= self.part_bytes:
                data = file.read()
                self._do(lambda: obstore.put(self._store, key, data, mode="create"))
            else:
                self._do(
                    lambda: obstore.put(
                        self._store,
                        key,
                        self._parts(file),
                        use_multipart=True,
                        chunk_size=self.part_bytes,
                        max_concurrency=PARTS_AT_ONCE,
                    )
                )
        except AlreadyExistsError:
            return bool(self.is_same(key, digest))
        if not self.is_same(key, digest):
            raise StoreError("what was uploaded is not what the server has", where=key, hint="see to the server")
        return True

    def merge_manifest(self, key: str, entries: list[Entry]) -> int:
        """Put entries into a manifest; gives how many of its lines are none.

        Raises:
          StoreError
        """
        for _ in range(MANIFEST_TRIES):
            stored, version = self._get(key)
            data, foreign = merge(stored or b"", entries)
            try:
                if data != stored:
                    self._put_manifest(key, data, version)
            except (AlreadyExistsError, PreconditionError):
                continue  # somebody else has just written it
            self._sync(key)
            return foreign
        raise StoreError("somebody else keeps writing this manifest", where=key)

    def _put_manifest(self, key: str, data: bytes, version: "UpdateVersion | None") -> None:
        try:
            if version is None:
                self._do(lambda: obstore.put(self._store, key, data, mode="create"))
                return
            if version:
                self._do(lambda: obstore.put(self._store, key, data, mode=version))
                return
        except NotImplementedError:
            pass  # a folder on a disk cannot replace on a condition
        self._do(lambda: obstore.put(self._store, key, data))

    def _parts(self, file: BinaryIO) -> Iterator[bytes]:
        for part in read_parts(file, self.part_bytes):
            if self._stopped():
                raise StoppedError("the daemon ends")
            yield part

    def _head(self, key: str) -> tuple[int, str | None] | None:
        try:
            found = self._do(lambda: obstore.head(self._store, key))
        except FileNotFoundError:
            return None
        return found["size"], found["e_tag"]

    def _get(self, key: str) -> "tuple[bytes | None, UpdateVersion | None]":
        """Gives an object and what it is replaced by: S3 and Azure compare the etag, Google the version."""
        try:
            found = self._do(lambda: obstore.get(self._store, key))
            data = bytes(self._do(found.bytes))
        except FileNotFoundError:
            return None, None
        version: UpdateVersion = {}
        if (e_tag := found.meta["e_tag"]) is not None:
            version["e_tag"] = e_tag
        if (generation := found.meta["version"]) is not None:
            version["version"] = generation
        return data, version

    def _sha256_of(self, key: str, size_bytes: int) -> str:
        """In ranges: a request has a deadline for the whole of it."""
        sha256 = hashlib.sha256()
        for start in range(0, size_bytes, self.part_bytes):
            if self._stopped():
                raise StoppedError("the daemon ends")
            length = min(self.part_bytes, size_bytes - start)
            sha256.update(self._get_range(key, start, length))
        return sha256.hexdigest()

    def _get_range(self, key: str, start: int, length: int) -> bytes:
        try:
            part = bytes(self._do(lambda: obstore.get_range(self._store, key, start=start, length=length)))
        except FileNotFoundError:
            part = b""
        if len(part) != length:
            raise StoreError("the server gives less than the object's size", where=key)
        return part

    def _sync(self, key: str) -> None:
        if self._folder is not None:
            self._do(partial(sync_object, self._folder, key))

    def _do(self, request: Callable[[], T]) -> T:
        """Ask the server; what an error means stays, how it is worded is made readable.

        Raises:
          AlreadyExistsError, PreconditionError, FileNotFoundError, NotImplementedError
          StoreError: all else.
        """
        self.requests += 1
        try:
            return request()
        except (AlreadyExistsError, PreconditionError, FileNotFoundError, NotImplementedError, StoppedError):
            raise
        except (BaseError, OSError, ValueError) as e:
            raise StoreError(explain(e)) from e


def explain(error: Exception) -> str:
    """Say in a line what obstore says in a page: the server's own words, or what is wrong with the connection."""
    text = str(error)
    status = re.search(r"status code: (\d+ [A-Za-z ]+)", text)
    code, message = (re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("Code", "Message"))
    if status:
        words = [status[1]] + [found[1] for found in (code, message) if found]
        return ": ".join(" ".join(word.split()) for word in words)[:300]
    if found := re.search(r"InvalidCertificate\(\s*(.*?),?\s*\)", text, re.DOTALL):
        return f"the server's certificate is refused: {' '.join(found[1].split())[:200]}"
    if "kind: Timeout" in text or "TimedOut" in text:
        return "no answer in time"
    if found := re.search(r'message: "([^"]+)"|error: "([^"]+)"', text):
        return found[1] or found[2]
    return " ".join(text.split("Debug source:")[0].split())[:300]
