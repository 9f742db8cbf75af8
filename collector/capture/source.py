"""What is read: an instance of the live kernel, or a recorded tree. Both become streams."""

import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from collector.archive.history import LeftOff
from collector.archive.objects import build_object
from collector.batch import StreamKey
from collector.capture.budget import ByteBudget, Lease
from collector.capture.format_index import FormatIndex
from collector.capture.formats import FormatBook, Renewal
from collector.capture.sizing import BatchSize, batch_size
from collector.capture.stream import RecordedStream, Stream
from collector.decode.ring import Batch, Plan
from collector.errors import TracefsFormatError, TracefsMissingError, UsageError
from collector.ledger import MOST_RESIDUAL, KernelCounts
from collector.tracefs.clocks import ClockPair, clock_of
from collector.tracefs.cpus import format_cpu_list
from collector.tracefs.events import EventName
from collector.tracefs.files import TracefsDir, read_stats_fd
from collector.tracefs.layout import PageLayout, find_byte_order
from collector.tracefs.snapshots import SWAPPING_TRACERS
from collector.tracefs.stats import CpuStats, sum_stats

REPLAY_INSTANCE = "recorded"


@dataclass(frozen=True, slots=True)
class CaptureSizes:
    """What the configuration says of memory and time."""

    block_bytes: int
    block_age_s: float
    workers: int
    copies: int = 1  # blocks that are made of each batch: one, and one for each filter by event


class Source:
    """The streams of one instance and what a segment says of it.

    Args:
      tree: the instance's folder, or a recorded tree.
      name: of the instance, in the archive.
      cpus: whose rings are read.
      run: id of the run.
    """

    stream_type: type[Stream] = Stream
    batch_type: type[Batch] = Batch

    def __init__(self, tree: TracefsDir, name: str, cpus: tuple[int, ...], run: bytes) -> None:
        self.tree = tree
        self.name = name
        self.cpus = cpus
        self.run = run
        self.layout: PageLayout = tree.read_layout()
        self.header_page = tree.read_text("events/header_page")
        clock = tree.try_read_text("trace_clock")
        self.clock = clock_of(tree.read_clock()[0] if clock is not None else "local")
        self.formats = FormatIndex(tree, self.layout.word_size)
        make_plan = partial(Plan, self.layout, self.formats.head())
        self.plan = make_plan()
        renewal = Renewal(make_plan, self.formats.reread, self.formats.is_dynamic) if tree.live else None
        self.book = FormatBook(self.plan, self.formats.get, build_format_object, renewal)
        self.base: dict[int, KernelCounts] = {}  # {cpu: the kernel's counts when the run began}
        self.streams: list[Stream] = []
        self.left_off: Mapping[int, LeftOff] = {}  # {cpu: where an earlier run of the instance left off}
        self.crash_lost: dict[int, int | None] = {}  # {cpu: entries that it had read but not archived}
        self._ring_bytes = {cpu: size for cpu in cpus if (size := tree.try_read_ring_size_bytes(cpu)) is not None}
        self._fds: list[int] = []
        self._leases: list[Lease] = []

    def open_streams(
        self,
        budget: ByteBudget,
        sizes: CaptureSizes,
        keep_page: Callable[[StreamKey, str, bytes], None],
        *,
        streams_in_all: int,
    ) -> BatchSize:
        """Open the rings and take the memory for their batches; gives its size.

        Raises:
          ConfigError: the budget is too small.
          TracefsError: a ring cannot be opened, or another reader has the pipe.
        """
        size = batch_size(
            streams=streams_in_all,
            workers=sizes.workers,
            subbuf_bytes=self.plan.subbuf_size,
            entries_per_page=self.plan.entries_per_page,
            block_bytes=sizes.block_bytes,
            budget_bytes=budget.limit_bytes,
            copies=sizes.copies,
        )
        for cpu in self.cpus:
            lease = budget.try_take(size.size_bytes)
            assert lease is not None, "batch_size() has checked that it fits"
            self._leases.append(lease)
            self.streams.append(self._open_stream(cpu, size, budget, sizes.block_age_s, keep_page))
        return size

    def _open_stream(
        self,
        cpu: int,
        size: BatchSize,
        budget: ByteBudget,
        block_age_s: float,
        keep_page: Callable[[StreamKey, str, bytes], None],
    ) -> Stream:
        fd = self._keep(self._open_ring(cpu))
        return self.stream_type(
            StreamKey(self.run, self.name, cpu),
            fd,
            self.batch_type(self.plan, size.pages_bytes, size.capacity),
            self.book,
            self._stats_reader(cpu),
            self.base.get(cpu, KernelCounts()),
            budget,
            keep_page,
            block_age_s,
        )

    def header(self) -> dict[str, Any]:
        """What a segment's header says of the instance."""
        return {
            "clock": self.clock.name,
            "clock_unit": self.clock.unit,
            "header_page": self.header_page,
            "subbuf_size": self.layout.subbuf_size,
            "word_size": self.layout.word_size,
            **({"base": _base_rows(self.base)} if self.base else {}),
        }

    def clock_pair(self) -> ClockPair | None:
        """The trace clock beside the system's clocks; None where nobody can tell."""
        return None

    @property
    def is_drained(self) -> bool:
        """Nothing is in any ring but those of the streams."""
        return True

    def drain_steps(self) -> Iterator[Callable[[], None]]:
        """What has to be done, in a thread, when the streams were read to their ends; each makes more to read."""
        return iter(())

    def give_up(self) -> None:
        """No time is left to drain: a last look at what stays in the kernel."""

    def ring_bytes(self, cpu: int) -> int | None:
        """Size of a CPU's ring, as of the start; None where nobody tells."""
        return self._ring_bytes.get(cpu)

    def close(self) -> None:
        """Close the rings: while a file of it is open an instance cannot be removed."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        for lease in self._leases:
            lease.release()
        self._leases.clear()

    def _keep(self, fd: int) -> int:
        """Close it with the rings."""
        self._fds.append(fd)
        return fd

    def _open_ring(self, cpu: int) -> int:
        return self.tree.open_raw(cpu)

    def _stats_reader(self, cpu: int) -> Callable[[], CpuStats | None] | None:
        """What reads the kernel's counts of a stream; None where nobody counts."""
        return None


@dataclass(frozen=True, slots=True)
class LiveInstance:
    """An instance of the running kernel, set up already, and what a run knows of it."""

    tree: TracefsDir  # its folder
    name: str  # in the archive
    cpus: tuple[int, ...]  # whose rings are read
    events: Sequence[EventName] = ()  # that are enabled
    clock_pair: Callable[[], ClockPair | None] = lambda: None  # gives the trace clock beside the system's clocks
    left_off: Mapping[int, LeftOff] = field(default_factory=dict)  # {cpu: where an earlier run of it left off}
    was_killed: bool = False  # the earlier run of it, whether the archive knows of it or not


class LiveSource(Source):
    """An instance of the running kernel."""

    def __init__(self, instance: LiveInstance, run: bytes) -> None:
        super().__init__(instance.tree, instance.name, instance.cpus, run)
        self._clock_pair = instance.clock_pair
        # Such a tracer swaps the rings, with their counters; and kernels before 3.6 count no reads: the ledger stays
        # open.
        tracer = (self.tree.try_read_text("current_tracer") or "").strip()
        self._has_counts = tracer not in SWAPPING_TRACERS and all(
            self.tree.read_stats(cpu).read_events is not None for cpu in self.cpus[:1]
        )
        self.left_off = dict(instance.left_off) if self._has_counts else {}
        for system, event in instance.events[:PRELOADED_EVENTS]:
            self.formats.add(system, event)
        for cpu, now in self._counts_now().items():
            then = self.left_off.get(cpu)
            # What was overwritten or refused since an earlier run's last look is this run's to tell; of a ring that
            # nobody has read, all of it.
            if then is not None:
                self.base[cpu], self.crash_lost[cpu] = then.loss_base(now), then.unarchived(now)
            elif now.read == 0:
                self.base[cpu] = KernelCounts()
            else:
                self.base[cpu] = now
                if instance.was_killed:  # what it read is in another archive, or in none
                    self.left_off[cpu] = LeftOff(now.read, now.overrun, now.dropped, now.commit_overrun, None, False)
                    self.crash_lost[cpu] = None

    def header(self) -> dict[str, Any]:
        """What a segment's header says of the instance."""
        return super().header() if self._has_counts else {**super().header(), "kernel_counts": "none"}

    def clock_pair(self) -> ClockPair | None:
        return self._clock_pair()

    def _stats_reader(self, cpu: int) -> Callable[[], CpuStats | None] | None:
        if not self._has_counts:
            return None
        fds = [self._keep(self.tree.open_stats(of)) for of in self._cpus_of(cpu)]
        return partial(read_stats_fd, fds[0]) if len(fds) == 1 else lambda: sum_stats(list(map(read_stats_fd, fds)))

    def _cpus_of(self, cpu: int) -> Sequence[int]:
        """Those that write what a stream reads."""
        return (cpu,)

    def _counts_now(self) -> Mapping[int, KernelCounts]:
        """{cpu: the kernel's counts} as the run begins."""
        return {cpu: KernelCounts.of(self.tree.read_stats(cpu)) for cpu in self.cpus} if self._has_counts else {}


# Reading one format file takes 30 us. Above this many, listing the ids of all events is cheaper.
PRELOADED_EVENTS = 500


class RecordedSource(Source):
    """A recorded tree: regular files, read once from start to end.

    Its stats are one snapshot. Taken when recording had ended, what was unread then is what the last read gave: the
    file has both. Taken before, they prove nothing, and it is said that nobody counted.

    Args:
      case: a folder with `tracefs/`, and beside it `uname` and `kallsyms` where they were recorded.
    Raises:
      UsageError: it is no such folder.
    """

    stream_type = RecordedStream

    def __init__(self, case: Path, run: bytes, cpus: tuple[int, ...] | None) -> None:
        top = case / "tracefs"
        if not top.is_dir():
            raise UsageError(
                "not a recorded case", where=str(case), expected="a folder that has tracefs/ in it",
                got="no such folder" if not case.is_dir() else "no tracefs/", hint="see README.md, --replay",
            )  # fmt: skip
        tree = TracefsDir(top)
        try:
            possible = tree.possible_cpus()
        except TracefsMissingError:
            possible = ()
        if not possible:
            raise UsageError(
                "the recorded tree has no rings", where=str(top), expected="per_cpu/ with a folder for each CPU"
            )
        if unknown := set(cpus or ()) - set(possible):
            raise UsageError(
                "CPUs that were not recorded", where=str(top), expected=f"CPUs of {format_cpu_list(possible)}",
                got=format_cpu_list(unknown),
            )  # fmt: skip
        super().__init__(tree, REPLAY_INSTANCE, cpus or possible, run)
        _check_byte_order(tree, self.layout, possible, self.formats.ids())

    def _stats_reader(self, cpu: int) -> Callable[[], CpuStats] | None:
        stats = self.tree.try_read_stats(cpu)
        if stats is None or stats.read_events is None:
            return None
        counted = replace(stats, read_events=min(stats.read_events + stats.entries, MOST_RESIDUAL), entries=0)
        return lambda: counted


_HEADS_TO_LOOK_AT = 64  # of each CPU


def _check_byte_order(tree: TracefsDir, layout: PageLayout, cpus: Sequence[int], event_ids: Container[int]) -> None:
    """Raises TracefsFormatError: the recording is of a big-endian machine; nothing of it would be understood."""
    heads = (head for cpu in cpus for head in tree.read_heads(cpu, layout, _HEADS_TO_LOOK_AT))
    if find_byte_order(heads, layout, event_ids) == "big":
        raise TracefsFormatError(
            "recorded on a machine of the other byte order", where="per_cpu/",
            expected="little-endian sub-buffers", got="big-endian ones, as of s390x or ppc64",
            hint="this program reads recordings of little-endian machines; trace-cmd reads these",
        )  # fmt: skip


def _base_rows(base: Mapping[int, KernelCounts]) -> list[list[int]]:
    return [[cpu, c.read, c.overrun, c.dropped, c.commit_overrun] for cpu, c in sorted(base.items())]


def build_format_object(value: Mapping[str, object]) -> tuple[bytes, bytes]:
    """(id, body) of a format object: what a `FormatBook` needs."""
    return build_object("format", dict(value))


def new_run_id() -> bytes:
    """Names one start of the daemon, 16 random bytes."""
    return os.urandom(16)
