"""A probe that somebody else takes away and replaces while the daemon runs: the new one gets the old one's id."""

import os
from pathlib import Path

import pytest

from tests.control.test_desired_live import libc_function
from tests.kernel.conftest import StartDaemon
from tests.kernel.daemon import QUIET_EVENT, assert_verifies, read_events, read_info, wait_until

CALLS = 40
TRIES = 20  # of getting the same id again: others make and remove probes too


class Probe:
    """A uprobe on getppid() that this test makes, as somebody else would."""

    def __init__(self, tracefs: Path, instance: Path, name: str, args: str) -> None:
        self._tracefs, self._event = tracefs, f"ftc_reused_{os.getpid()}/{name}"
        path, offset = libc_function("getppid")
        self._say(f"p:{self._event} {path}:{offset:#x} {args}")
        self.id = int((tracefs / "events" / self._event / "id").read_text())
        self._enable = instance / "events" / self._event / "enable"

    def call(self) -> None:
        self._enable.write_text("1")
        for _ in range(CALLS):
            os.getppid()
        self._enable.write_text("0")

    def remove(self) -> None:
        self._say(f"-:{self._event}")

    def _say(self, line: str) -> None:
        fd = os.open(self._tracefs / "dynamic_events", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def test_no_entry_is_decoded_by_the_format_of_another_probe(start_daemon: StartDaemon, tracefs: Path) -> None:
    if not (tracefs / "uprobe_events").exists():
        pytest.skip("this kernel has no uprobes")
    daemon = start_daemon(*QUIET_EVENT).wait_ready()
    old = Probe(tracefs, daemon.instance, "old", "first=%di:u64 second=\\1:u8")
    try:
        old.call()
        wait_until(lambda: daemon.metric("decoded_events_total") == CALLS, "the first probe's entries")
    finally:
        old.remove()
    for _ in range(TRIES):
        new = Probe(tracefs, daemon.instance, "new", "third=\\2:u16 fourth=\\3:u32")
        if new.id == old.id:
            break
        new.remove()
    else:
        pytest.skip("others take the ids")
    try:
        new.call()
        wait_until(lambda: daemon.metric("decoded_events_total") == 2 * CALLS, "the second probe's entries")
        new.call()
        wait_until(lambda: daemon.metric("decoded_events_total") == 3 * CALLS, "more of them")
    finally:
        new.remove()
    assert daemon.stop() == 0
    shown = read_events(daemon.archive)
    fields = [(e["event"].partition(":")[2], {k: v for k, v in e["fields"].items() if k[0] != "_"}) for e in shown]
    assert [(name, [*values]) for name, values in fields[:CALLS]] == [("old", ["first", "second"])] * CALLS
    # Where the ring was cleared while it was read, what was read then may be of either probe: it is kept as bytes.
    right = ("new", {"third": 2, "fourth": 3})
    assert [of for of in fields[CALLS : 2 * CALLS] if of != right and [*of[1]] != ["raw"]] == []
    assert fields[2 * CALLS :] == [right] * CALLS
    assert read_info(daemon.archive)["residual"] == 0
    assert_verifies(daemon.archive)
