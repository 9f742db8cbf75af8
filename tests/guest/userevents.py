"""A program that has a user event: registers it, and writes it while somebody collects it.

Usage: python -m tests.guest.userevents "NAME TYPE FIELD; ..." COUNT: prints "registered", writes COUNT entries of
zeros once the event is on, prints "written", and holds the event until its stdin ends.
"""

import ctypes
import fcntl
import os
import struct
import sys
import time

from tests.conftest import TRACEFS

_REGISTER = 0xC008_2A00  # DIAG_IOCSREG of include/uapi/linux/user_events.h
_ENABLED_BIT = 31
_PAYLOAD = 24  # bytes: enough for the fields of any test
_STEP_S = 0.01


class UserEvent:
    """A registered event; the kernel sets a bit in this process's memory while it is on."""

    def __init__(self, name_and_fields: str) -> None:
        self._file = os.open(TRACEFS / "user_events_data", os.O_RDWR | os.O_CLOEXEC)
        self._enabled = ctypes.c_uint32(0)
        text = ctypes.create_string_buffer(name_and_fields.encode())
        # struct user_reg, packed: size, bit, bytes of the word, flags, its address, the text's address, write_index
        reg = bytearray(struct.pack(
            "<IBBHQQI", 28, _ENABLED_BIT, 4, 0, ctypes.addressof(self._enabled), ctypes.addressof(text), 0
        ))  # fmt: skip
        fcntl.ioctl(self._file, _REGISTER, reg)
        self._index = bytes(reg[24:28])

    @property
    def is_on(self) -> bool:
        return self._enabled.value != 0

    def write(self, payload: bytes) -> None:
        os.write(self._file, self._index + payload)


def main() -> None:
    event, count = UserEvent(sys.argv[1]), int(sys.argv[2])
    print("registered", flush=True)
    while count and not event.is_on:
        time.sleep(_STEP_S)
    for _ in range(count):
        event.write(bytes(_PAYLOAD))
    print("written", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
