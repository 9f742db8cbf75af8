"""Writes what this build writes: `python -m tests.archives.make NAME` makes the folder NAME beside this file."""

import json
import re
import sys
import tempfile
from pathlib import Path
from unittest import mock

import sinks
from collector.cli import main
from collector.config.show import format_defaults
from sinks.network.backlog import START
from tests.archives.reading import open_spool, read_archive, read_config, read_spool
from tests.conftest import unpack_case

# Typed entries of many events; stacks; losses; entries that no format explains; a dynamic event's record.
CASES = ["6.12/event_stack", "6.1/lost", "6.18/lost_discard", "6.12/kprobe_stack", "6.12/synth"]
ACKNOWLEDGED = 7  # records of the spool

RUN = """
shutdown_timeout_s = 1
[capture]
block_bytes = 65536
[[sinks]]
type = "stream"
name = "away"
address = "unix:{work}/nobody"
spool_folder = "{folder}/spool"
"""


def make(folder: Path) -> None:
    folder.mkdir()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        config = work / "run.toml"
        config.write_text(RUN.format(work=work, folder=folder))
        # Of the machine that it is made on nothing stays.
        with (
            mock.patch("socket.gethostname", return_value="host.example"),
            mock.patch("collector.capture.provenance.boot_id", return_value="00000000-0000-4000-8000-000000000000"),
        ):
            for case in CASES:
                unpack_case(case, work / case)
                words = ["run", "-c", config, "--replay", work / case, "--output", folder / "archive", "-q"]
                assert main([*map(str, words)]) == 0
        acknowledge(folder / "spool")
        for lock in folder.glob("*/.lock"):
            lock.unlink()
        (folder / "config.toml").write_text(every_setting())
        spool = read_spool(folder / "spool", work / "spool")
    read = {"archive": read_archive(folder / "archive"), "spool": spool, "config": read_config(folder / "config.toml")}
    for what, found in read.items():
        (folder / f"{what}.json").write_text(json.dumps(found, indent=1) + "\n")


def acknowledge(folder: Path) -> None:
    """The first records."""
    spool = open_spool(folder)
    spool.acknowledge(spool.read(START, 1 << 20).entries[ACKNOWLEDGED - 1].position, ())
    spool.close()


def every_setting() -> str:
    """The defaults, and a sink of each type with all that its sample shows."""
    samples = sorted(Path(sinks.__file__).parent.glob("*/sample.toml"))
    texts = [format_defaults(), *(path.read_text() for path in samples)]
    lines = [line.removeprefix("# ") for text in texts for line in text.split("\n") if not line.startswith("##")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


if __name__ == "__main__":
    make(Path(__file__).parent / sys.argv[1])
