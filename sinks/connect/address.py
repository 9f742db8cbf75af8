"""Where a stream goes to or comes from: HOST:PORT, [IPV6]:PORT or unix:PATH. Pure."""

Address = tuple[str, int] | str  # (host, port), or the path of a unix socket


def parse_address(text: str) -> Address:
    """Raises ValueError with what is expected."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path or "\0" in path or len(path.encode()) > 107:  # what a socket's address has room for
            raise ValueError("unix: and a path of at most 107 bytes")
        return path
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("HOST:PORT or unix:PATH")
    return host, int(port)
