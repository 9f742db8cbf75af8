"""S3 servers on the loopback: SeaweedFS, and rclone's, which takes "create only" for an ordinary put."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

START_S = 60.0
STARTS = 3
KEY, SECRET = "test-key", "test-secret"


def free_ports(count: int) -> list[int]:
    """So many different ports on which nobody listens."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]


def program(name: str) -> str:
    """The path of a program that a package put beside the interpreter."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    assert found is not None, f"no {name}: pip install '.[test]'"
    return found


class Server:
    """A process that listens on a port of the loopback.

    Args:
      make: gives (command, port), with new ports each time: another process may take one before the server does.
    """

    def __init__(self, folder: Path, make: Callable[[], tuple[list[str], int]]) -> None:
        self.folder, self._make = folder, make
        self.command, self.port = make()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        for _ in range(STARTS):
            if self._try_to_start():
                return
            self.command, self.port = self._make()
        raise AssertionError((self.folder / "server.log").read_text()[-2000:])

    def _try_to_start(self) -> bool:
        with open(self.folder / "server.log", "ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder)
        end_s = time.monotonic() + START_S
        while self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return True
            except OSError:
                assert time.monotonic() < end_s
                time.sleep(0.1)
        return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for path in Path("/tmp").glob("seaweedfs-*-grpc-*.sock"):  # no setting puts them elsewhere
            if any(word == f"-{path.name.split('-')[1]}.port.grpc={path.stem.split('-')[3]}" for word in self.command):
                path.unlink()

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def seaweedfs(folder: Path) -> Server:
    """An S3 server that checks who asks; buckets are made by the first put."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "s3.json").write_text(
        json.dumps({
            "identities": [{
                "name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }]
        })
    )  # fmt: skip
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
        "s3.port", "s3.port.grpc",
    )  # fmt: skip

    def make() -> tuple[list[str], int]:
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        command = [
            program("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-filer", "-s3",
            f"-s3.config={folder / 's3.json'}", f"-s3.localSocket={folder / 's3.sock'}",
            f"-filer.localSocket={folder / 'filer.sock'}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            "-master.volumeSizeLimitMB=64", "-volume.max=20", "-master.telemetry=false",
            *(f"-{name}={port}" for name, port in ports.items()),
        ]  # fmt: skip
        return command, ports["s3.port"]

    return Server(folder, make)


def rclone(folder: Path) -> Server:
    """A server that overwrites what is there although it is told not to."""
    bucket = folder / "served" / "bucket"
    bucket.mkdir(parents=True)

    def make() -> tuple[list[str], int]:
        port = free_port()
        command = [
            program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}",
            "--config", str(folder / "none"), str(folder / "served"),
        ]  # fmt: skip
        return command, port

    return Server(folder, make)
