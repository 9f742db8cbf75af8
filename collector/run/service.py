"""The live run: readers, metrics, signals, the terminal's status line, systemd."""

import logging
import math
import os
import platform
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import trio

from collector.capture.flight import SnapshotSource
from collector.capture.reports import Watch, build_watches, look_at_all
from collector.capture.source import Source
from collector.capture.stream import Stream
from collector.config.models import Config
from collector.control.instance import Instance
from collector.errors import TracefsError
from collector.monitor.logs import LogOutput
from collector.monitor.sdnotify import Notifier, watchdog_interval_s
from collector.monitor.status import build_status, render_line, render_status
from collector.run.clockwatch import ClockWatch
from collector.run.interference import Interference
from collector.run.pipeline import Pipeline

logger = logging.getLogger(__name__)

TICK_S = 1.0  # snapshots for metrics, the status line and systemd

# A threshold that each latency exceeds must not keep the event loop busy.
LEAST_BETWEEN_CHANGES_S = 0.001

# The wall clock steps and slews against the trace clock.
CLOCK_PAIR_INTERVAL_S = 60.0

# A reader that has not been visited for so many flush intervals, without a reason, is stuck.
STALL_INTERVALS = 10
STALL_MIN_S = 10.0


class Service:
    """Collects from instances that are set up, until told to stop.

    Args:
      instances: that were set up.
      signals: SIGUSR1 seals the open segment, SIGUSR2 has a suspended archive look for room; any other asks to
        stop, the second to do so at once.
      interference: looks after the instances.
    """

    def __init__(
        self,
        config: Config,
        pipeline: Pipeline,
        instances: Sequence[Instance],
        output: LogOutput,
        signals: AsyncIterator[int],
        interference: Interference,
    ) -> None:
        self.config = config
        self.pipeline = pipeline
        self.instances = instances
        self._output = output
        self._signals = signals
        self._interference = interference
        self._watches = build_watches(instances)
        self._unread_reports: set[str] = set()  # why some could not be read at the last look
        self._notifier = Notifier()
        self._clock = ClockWatch(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        self.collected = False  # every ring was visited: from then on its entries are somebody's
        self._ready = False
        self._drained = False  # the sinks have everything
        self._stop = trio.Event()
        self._forced = trio.CancelScope()
        self._http: Any = None  # http.AppState, where metrics are served
        self._terminal = sys.stderr.isatty()
        self._stall_limit_s = max(STALL_MIN_S, STALL_INTERVALS * config.capture.flush_interval_s)

    async def run(self, duration_s: float | None) -> bool:
        """Collect until told to stop, then drain; True when nothing was left in the kernel."""
        pipeline = self.pipeline
        assert pipeline.capture is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._take_signals)
                await self._serve_http(nursery)
                async with trio.open_nursery() as sinks:
                    sinks.start_soon(pipeline.outlet.run)
                    async with trio.open_nursery() as readers:
                        await readers.start(pipeline.capture.run)
                        nursery.start_soon(self._tick)
                        nursery.start_soon(self._feed_watchdog)
                        readers.start_soon(self._look_after_instances)
                        if self._watches:
                            readers.start_soon(self._watch_reports)
                        for watch in self._watches:
                            if watch.fd is not None:
                                readers.start_soon(self._count_changes, watch, watch.fd)
                        for source in pipeline.sources:
                            if isinstance(source, SnapshotSource) and source.interval_s is not None:
                                readers.start_soon(self._take_snapshots, source, source.interval_s)
                        self._set_ready()
                        with trio.move_on_after(duration_s if duration_s is not None else float("inf")):
                            await self._stop.wait()
                        self._set_stopping()
                        readers.cancel_scope.cancel()
                    deadline_s = trio.current_time() + self.config.shutdown_timeout_s
                    complete = await self._drain()
                    await self._look_for_reports()
                    self._drained = True
                    pipeline.outlet.finish(-math.inf if self._forced.cancel_called else deadline_s)
                await pipeline.outlet.close()
                nursery.cancel_scope.cancel()
            return complete
        finally:
            for watch in self._watches:
                watch.close()
            self._notifier.close()

    async def _drain(self) -> bool:
        """Stop tracing and read every ring to its end, within the deadline."""
        pipeline = self.pipeline
        for instance in self.instances:
            instance.stop_tracing()
        drained: dict[Stream, bool] = {}
        with self._forced, trio.move_on_after(self.config.shutdown_timeout_s):
            async with trio.open_nursery() as nursery:
                for source in pipeline.sources:
                    nursery.start_soon(self._drain_source, source, drained)
        left: list[Stream] = []
        for source in pipeline.sources:
            undrained = [stream for stream in source.streams if not (source.is_drained and drained.get(stream))]
            if undrained:
                await pipeline.leave(source, undrained)
            left += undrained
        if left:
            samples = [stream.account.last_sample for stream in left]
            logger.error(
                "entries were left in the kernel; the instance is kept and the next start reads them",
                extra={"fields": {
                    "events": sum(sample.kernel.entries for sample in samples if sample is not None),
                    "cpus": ",".join(str(stream.key.cpu) for stream in left),
                }},
            )  # fmt: skip
        return not left

    async def _drain_source(self, source: Source, drained: dict[Stream, bool]) -> None:
        """What the kernel refuses here stays in it; it must not cost the others their blocks."""
        try:
            await self.pipeline.drain(source, drained, at_once=len(source.streams))
        except TracefsError as e:
            for stream in source.streams:
                drained[stream] = False
            logger.error("an instance cannot be drained", extra={"fields": {"instance": source.name, "error": str(e)}})

    async def _take_signals(self) -> None:
        async for number in self._signals:
            if number in (signal.SIGUSR1, signal.SIGUSR2):
                self._tell_archive(number)
                continue
            if self._stop.is_set():
                logger.warning("stopping at once, what is not drained stays in the kernel")
                self._forced.cancel()
                if self._drained:
                    self.pipeline.outlet.finish(-math.inf)
            self._stop.set()

    def _tell_archive(self, number: int) -> None:
        archive = self.pipeline.archive
        if archive is None:
            return
        if number == signal.SIGUSR1:
            logger.info("a signal asks to seal the open segment")
            archive.rotate()
        else:
            logger.info("a signal asks a suspended archive to go on")
            archive.resume()

    async def _serve_http(self, nursery: trio.Nursery) -> None:
        if not self.config.http.listen:
            return
        from collector.monitor.http import AppState, serve
        from collector.monitor.metrics import Metrics

        self._http = AppState(Metrics(platform.release(), self._output.counts))
        urls = await nursery.start(serve, self.config.http.listen, self._http)
        logger.info("serving metrics", extra={"fields": {"at": " ".join(urls)}})

    def _set_ready(self) -> None:
        self._ready = self.collected = True
        if self._http is not None:
            self._http.not_ready_reason = None
        self._notifier.ready("collecting")
        # The same in all instances, and the best that this kernel can do.
        for file, cost in self.instances[0].missing.items() if self.instances else ():
            logger.info("this kernel lacks a file", extra={"fields": {"file": file, "cost": cost}})
        for instance in self.instances:
            logger.info(
                "collecting",
                extra={"fields": {
                    "instance": instance.spec.name, "events": len(instance.spec.events), "cpus": len(instance.cpus),
                    "clock": instance.clock, "subbuf_bytes": instance.subbuf_size,
                    "archive": self.config.archive.folder,
                }},
            )  # fmt: skip

    def _set_stopping(self) -> None:
        self._ready = False
        if self._http is not None:
            self._http.not_ready_reason = "stopping"
        self._notifier.stopping("draining")
        if self._terminal:
            self._output.write_transient(render_line("draining", 80))

    def _why_not_ready(self) -> str | None:
        assert self.pipeline.capture is not None
        if not self._ready:
            return "stopping"
        if self.pipeline.outlet.state.suspended is not None:
            return f"archiving is suspended: {self.pipeline.outlet.state.suspended}"
        if self.pipeline.capture.stalled_s() >= self._stall_limit_s:
            return "a reader makes no progress"
        for stream in self.pipeline.streams:
            if stream.problem is not None:
                return stream.problem
        for sink in self.pipeline.outlet.sinks():
            if sink.stalled_s >= sink.stall_limit_s:
                return f"sink {sink.name} has delivered nothing for {sink.stalled_s:.0f} s: {sink.last_error}"
        return None

    async def _tick(self) -> None:
        """Snapshots, once a second."""
        before, before_s = self.pipeline.snapshot(self._ready), time.monotonic()
        next_pair_s = before_s + CLOCK_PAIR_INTERVAL_S
        due_s = before_s + TICK_S
        while True:
            await trio.sleep(max(0.0, due_s - time.monotonic()))
            now_s = time.monotonic()
            self._look_at_clock()
            snapshot = replace(
                self.pipeline.snapshot(self._ready, before, now_s - before_s, self._interference.counts),
                clock_jumps=self._clock.jumps,
            )
            text = render_status(build_status(snapshot, before, now_s - before_s))
            if self._http is not None:
                self._http.metrics.observe_event_loop_lag(max(0.0, now_s - due_s))
                self._http.metrics.update(snapshot)
                self._http.not_ready_reason = self._why_not_ready()
            if self._ready:
                if self._terminal:
                    self._output.write_transient(render_line(text, os.get_terminal_size(2).columns))
                self._notifier.status(text)
            if now_s >= next_pair_s:
                next_pair_s += CLOCK_PAIR_INTERVAL_S
                self.pipeline.emit_clock_pairs()
            before, before_s = snapshot, now_s
            due_s = max(due_s + TICK_S, now_s)

    def _look_at_clock(self) -> None:
        jump_s = self._clock.look(time.time_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        if jump_s is not None:
            self.pipeline.emit_clock_pairs()  # so that wall times are right from here on
            logger.warning(
                "the wall clock was set; times of entries do not change, names and ages of segments go by the new one",
                extra={"fields": {"seconds": round(jump_s, 3)}},
            )

    async def _look_after_instances(self) -> None:
        while True:
            await trio.sleep(self.config.capture.stats_interval_s)
            await self._interference.look()

    async def _watch_reports(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            await self._look_for_reports()

    async def _count_changes(self, watch: Watch, fd: int) -> None:
        while True:
            await trio.lowlevel.wait_readable(fd)
            watch.note_change()
            await trio.sleep(LEAST_BETWEEN_CHANGES_S)

    async def _look_for_reports(self) -> None:
        reports, problems = await self.pipeline.workers.run(lambda _: look_at_all(self._watches))
        unread = {str(problem) for problem in problems}
        for problem in sorted(unread - self._unread_reports):  # a look each second: what stays is told once
            logger.error("a report cannot be read", extra={"fields": {"error": problem}})
        self._unread_reports = unread
        for report in reports:
            self.pipeline.outlet.put(report.note(self.pipeline.run))
            more: dict[str, object] = {"values": report.values} if report.values > 1 else {}
            if report.text_value is not None:
                more["text_of"] = f"{report.text_value} {report.unit}"
            logger.info("a new maximum", extra={"fields": {
                "instance": report.instance, "tracer": report.tracer, report.kind: f"{report.value} {report.unit}",
                **more,
            }})  # fmt: skip

    async def _take_snapshots(self, source: SnapshotSource, interval_s: float) -> None:
        while True:
            await trio.sleep(interval_s)
            try:
                await self.pipeline.workers.run(lambda _: source.take())
            except TracefsError as e:
                logger.error("no snapshot was taken", extra={"fields": {"instance": source.name, "error": str(e)}})

    async def _feed_watchdog(self) -> None:
        interval_s = watchdog_interval_s()
        if interval_s is None:
            return
        assert self.pipeline.capture is not None
        while True:
            # A stream that waits for the budget is explained by a slow or full disk, and is not counted.
            stalled_s = self.pipeline.capture.stalled_s()
            if stalled_s < self._stall_limit_s or not self._ready:  # the drain has a deadline of its own
                self._notifier.watchdog()
            else:
                logger.error("a reader makes no progress", extra={"fields": {"seconds": round(stalled_s)}})
            await trio.sleep(interval_s / 3)
