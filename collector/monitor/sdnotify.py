"""What a service of Type=notify tells systemd: datagrams on the socket that $NOTIFY_SOCKET names.

Source: sd_notify(3). A few lines instead of a library: systemd-python needs a compiler and
headers, and the pure packages swallow errors.
"""

import logging
import os
import socket
from collections.abc import Mapping

_log = logging.getLogger("collector.monitor.sdnotify")


class Notifier:
    """Tells systemd what the daemon does; does nothing when systemd did not start it.

    A message never blocks: a full socket loses the message. The first failure is logged,
    the others are as likely the same.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        self._failed = False
        self._socket: socket.socket | None = None
        if path:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    def ready(self, status: str = "") -> None:
        """Start-up is over."""
        self._send("READY=1", status)

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send("", text)

    def stopping(self, status: str = "") -> None:
        """Shutdown has begun."""
        self._send("STOPPING=1", status)

    def watchdog(self) -> None:
        """Still making progress."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Send no more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, state: str, status: str = "") -> None:
        if self._socket is None:
            return
        # A newline would begin another assignment.
        lines = [state, "STATUS=" + status.replace("\n", " ") if status else ""]
        try:
            self._socket.sendto("\n".join(line for line in lines if line).encode(), self._address)
        except OSError as e:
            if not self._failed:
                _log.warning("systemd does not take notifications: %s", e.strerror or e)
            self._failed = True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ, pid: int | None = None) -> float | None:
    """How often to call `Notifier.watchdog`: half of what systemd allows; None when it does not watch.

    Args:
      pid: of this process; a WATCHDOG_PID that names another one means a parent is watched.
    Source: sd_watchdog_enabled(3).
    """
    text = environ.get("WATCHDOG_USEC", "")
    watched = environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (watched and watched != str(pid if pid is not None else os.getpid())):
        return None
    return int(text) / 2e6
