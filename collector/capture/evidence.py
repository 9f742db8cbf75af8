"""Malformed sub-buffers, kept for whoever looks into them: a bounded number of files."""

import logging
import threading
from pathlib import Path

from collector.batch import StreamKey

logger = logging.getLogger(__name__)

FOLDER = "malformed"
MOST_FILES = 16  # of one run, and of one archive: a kernel bug repeats itself


class Evidence:
    """Writes pages into a folder beside the segments; from any thread."""

    def __init__(self, archive: Path) -> None:
        self._folder = archive / FOLDER
        self._lock = threading.Lock()
        self._left: int | None = None  # files that may still be written; None: not counted yet

    def keep(self, key: StreamKey, reason: str, page: bytes) -> None:
        """Keep one page; never fails, for the page is passed over either way."""
        path = None
        with self._lock:
            try:
                self._folder.mkdir(mode=0o750, parents=True, exist_ok=True)
                if self._left is None:
                    self._left = MOST_FILES - len(list(self._folder.iterdir()))
                if self._left > 0:
                    self._left -= 1
                    path = (
                        self._folder / f"{key.run.hex()[:8]}-{key.instance}-cpu{key.cpu}-{reason}-{self._left:02d}.page"
                    )
                    path.write_bytes(page)
            except OSError as e:
                logger.warning("cannot keep a malformed page", extra={"fields": {"error": str(e)}})
                path = None
        logger.error(
            "a malformed sub-buffer; the entries before its fault are kept, what it held behind it is a gap",
            extra={"fields": {"instance": key.instance, "cpu": key.cpu, "reason": reason, "kept": path}},
        )
