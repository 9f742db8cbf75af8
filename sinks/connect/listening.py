"""A socket in the file system to listen on."""

import errno
import os
import socket

import trio


async def listen_on_path(path: str) -> trio.SocketListener:
    """Listen on a socket in the file system, for owner and group; one that a killed process left is replaced.

    Raises:
      OSError: another process listens there, or it cannot be made.
    """
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            await listening.bind(path)
        except OSError as e:
            if e.errno != errno.EADDRINUSE or not _is_dead(path):
                raise
            os.unlink(path)
            await listening.bind(path)
        os.chmod(path, 0o660)
        listening.listen(1024)
    except BaseException:
        listening.close()
        raise
    return trio.SocketListener(listening)


def _is_dead(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # where many wait to be accepted, connecting would wait with them
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
    return False
