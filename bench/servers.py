"""Receivers as processes on the loopback, always ended."""

import contextlib
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

READY_S = 30.0


@dataclass(frozen=True, slots=True)
class Server:
    """One that listens."""

    pid: int
    port: int
    kind: str  # type of the sink that sends to it


@contextlib.contextmanager
def server(words: Sequence[str], port: int, folder: Path, kind: str, cpu: int) -> Iterator[Server]:
    """A process from when it listens on a port of the loopback; ended at the end.

    Args:
      folder: its messages go to `log` there.
      cpu: it is pinned there.
    Raises:
      RuntimeError: it does not listen.
    """
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["taskset", "-c", str(cpu), *words], stdout=log, stderr=log)
        try:
            deadline_s = time.monotonic() + READY_S
            while True:
                with contextlib.suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError(f"{words[0]} does not listen: {(folder / 'log').read_text()[-1000:]}")
                time.sleep(0.05)
            yield Server(process.pid, port, kind)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(READY_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_port() -> int:
    """A port of the loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
