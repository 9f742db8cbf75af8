"""The daemon with many instances in one process, for `streams`: all of it but the command line.

python -m bench.many INSTANCES SYSTEM:EVENT CPUS BUFFER_KB SUBBUF_KB PREFIX FOLDER
"""

import signal
import sys
from pathlib import Path

import trio

from collector.capture.source import LiveInstance, LiveSource, new_run_id
from collector.config.models import ArchiveConfig, Config, HttpConfig
from collector.control.instance import Instance
from collector.control.wish import InstanceSpec
from collector.monitor.logs import LogOutput, start_logging
from collector.run.daemon import open_pipeline
from collector.run.interference import Interference
from collector.run.service import Service
from collector.tracefs.cpus import parse_cpu_list
from collector.tracefs.files import TracefsDir, find_tracefs

REMOVE_TIMEOUT_S = 5.0
BUFFER_PERCENT = 25  # as the daemon's default


async def collect(specs: list[InstanceSpec], folder: Path, output: LogOutput) -> bool:
    """Collect from all instances until told to stop; True when nothing was left in the kernel."""
    tracefs = TracefsDir(find_tracefs())
    opened: list[Instance] = []
    try:
        for spec in specs:
            opened.append(Instance.open(tracefs, spec))
            opened[-1].configure()
        config = Config(archive=ArchiveConfig(folder=str(folder)), http=HttpConfig(listen="127.0.0.1:0"))
        async with open_pipeline(config, new_run_id(), tracefs) as pipeline:
            pipeline.attach([
                LiveSource(LiveInstance(i.dir, i.spec.name, i.cpus, i.spec.events, i.read_clock_pair), pipeline.run)
                for i in opened
            ])  # fmt: skip
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                interference = Interference(pipeline, opened, [False] * len(opened))
                service = Service(config, pipeline, opened, output, signals, interference)
                return await service.run(None)
    finally:
        for instance in opened:
            instance.undo(REMOVE_TIMEOUT_S)


def main() -> int:
    """Run until SIGTERM."""
    count, event, cpus, buffer_kb, subbuf_kb, prefix, folder = sys.argv[1:]
    system, name = event.split(":")
    specs = [
        InstanceSpec(
            name=f"{prefix}{number}", events=((system, name),), buffer_size_kb=int(buffer_kb),
            subbuf_size_kb=int(subbuf_kb),
            cpus=parse_cpu_list(cpus), buffer_percent=BUFFER_PERCENT,
        )
        for number in range(int(count))
    ]  # fmt: skip
    output = start_logging("text", "info")
    try:
        return 0 if trio.run(collect, specs, Path(folder), output) else 1
    finally:
        output.stop()


if __name__ == "__main__":
    sys.exit(main())
