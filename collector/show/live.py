"""Renders records as they come, block by block: what `tap` prints."""

from collections.abc import Iterator

from collector.archive.block import decode_block
from collector.archive.bodies import Header, parse_gap, parse_header
from collector.archive.frame import Kind
from collector.archive.objects import parse_object
from collector.errors import SegmentError
from collector.read.comms import Threads
from collector.read.segments import Names
from collector.show.lines import Selection, render_block
from collector.show.renderers import Context, FieldsRenderer, Renderer


class LiveView:
    """The names that have come so far, and lines for the blocks that need them.

    Entries of one block are in order; blocks of several CPUs come as they were closed.
    """

    def __init__(self, renderer: Renderer, selection: Selection, cpus: frozenset[int] | None = None) -> None:
        self.events = 0  # printed
        self._renderer = renderer
        self._selection = selection
        self._cpus = cpus
        self._header: Header | None = None
        self._names = Names()
        self._records = 0

    def render(self, kind: int, body: bytes | memoryview) -> Iterator[str]:
        """Takes a record, and gives its lines.

        Raises:
          SegmentError: it does not hold what its kind says.
        """
        self._records += 1
        if kind == Kind.HEADER:
            self._header = parse_header(body)
            self._names = Names()  # all that is needed comes again
        elif kind == Kind.OBJECT:
            self._names.add(self._records, parse_object(body))
        elif kind == Kind.GAP and self._renderer.shows_gaps:
            gap = parse_gap(body)
            if self._cpus is None or gap.stream[1] in self._cpus:
                yield FieldsRenderer.gap(gap.stream[1], gap.count, gap.cause)
        elif kind == Kind.BLOCK:
            yield from self._render_block(body)

    def _render_block(self, body: bytes | memoryview) -> Iterator[str]:
        if self._header is None:
            raise SegmentError("a block before the header")
        block = decode_block(body, self._names.formats)
        instance, cpu = block.head.stream
        if self._cpus is not None and cpu not in self._cpus:
            return
        clock = self._header.clocks.get(instance)
        context = Context(
            cpu, instance if len(self._header.clocks) > 1 else None,
            None if clock is None or clock.is_ns else clock.name,
            Threads(None, self._names.saved, self._records), self._names.symbols,
        )  # fmt: skip
        for _, _, line in render_block(block, 0, self._renderer, context, self._selection):
            self.events += 1
            yield line
