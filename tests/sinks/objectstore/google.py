"""A stand-in for Google Cloud Storage: of its XML API what obstore speaks, objects in memory, with generations.

No package brings a server for it. What differs from S3 is here: a write on a condition names the generation.

Source: cloud.google.com/storage/docs/xml-api/reference-headers, x-goog-if-generation-match.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Google(ThreadingHTTPServer):
    """Attributes: objects: {path: (content, generation)}; refused: writes whose condition did not hold."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.refused = 0
        self.lock = threading.Lock()
        self.generation = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def key(self) -> str:
        """Of a service account that needs no token."""
        return json.dumps(
            {"private_key": "made", "private_key_id": "made", "client_email": "made@example", "disable_oauth": True}
        )


class _Handler(BaseHTTPRequestHandler):
    server: Google
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        wanted = self.headers.get("x-goog-if-generation-match")
        server = self.server
        with server.lock:
            _, generation = server.objects.get(self.path, (b"", 0))
            holds = wanted is None or int(wanted) == generation
            if holds:
                server.generation += 1
                server.objects[self.path] = (body, server.generation)
            else:
                server.refused += 1
        if holds:
            self._answer(200, b"", self.path)
        else:
            self._answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", None)

    def do_GET(self) -> None:
        found = self.server.objects.get(self.path)
        self._answer(404 if found is None else 200, b"" if found is None else found[0], self.path)

    do_HEAD = do_GET

    def _answer(self, status: int, body: bytes, path: str | None) -> None:
        self.send_response(status)
        if (found := self.server.objects.get(path or "")) is not None:
            self.send_header("ETag", f'"{hashlib.md5(found[0]).hexdigest()}"')
            self.send_header("x-goog-generation", str(found[1]))
            self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def google() -> Iterator[Google]:
    """One that serves on a port of the loopback."""
    with Google() as server:
        thread = threading.Thread(target=server.serve_forever, name="google")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
