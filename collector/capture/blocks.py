"""A batch becomes a block, and one more for each filter that leaves a part of it."""

from collections.abc import Collection
from dataclasses import replace
from typing import NamedTuple

import msgpack

from collector.batch import MODE_RAW, MODE_TYPED, Block, KindCount, Missed, StreamKey
from collector.capture.format_watch import FormatWatch
from collector.capture.visit import Worker
from collector.decode.ring import Batch


class Place(NamedTuple):
    """Where a block stands in its stream."""

    key: StreamKey
    number: int
    ordinal: int  # of its first entry


def build_block(worker: Worker, batch: Batch, gaps: tuple[Missed, ...], formats: FormatWatch, place: Place) -> Block:
    """Encode everything, and what each filter leaves of it; the batch has an entry."""
    block = _encode(worker, batch, gaps, formats, place, None)
    if not worker.filters:
        return block
    names = {event_id: formats.name(event_id) for event_id, _, _ in worker.encoder.kinds}
    variants: list[Block | None] = []
    for of in worker.filters:
        wanted = {event_id for event_id, name in names.items() if of.takes(name)}
        if len(wanted) == len(names):
            variants.append(block)
        else:
            variants.append(_encode(worker, batch, gaps, formats, place, wanted) if wanted else None)
    return replace(block, variants=tuple(variants))


def _encode(
    worker: Worker,
    batch: Batch,
    gaps: tuple[Missed, ...],
    formats: FormatWatch,
    place: Place,
    wanted: Collection[int] | None,
) -> Block:
    """Encode the batch, or its entries of some events."""
    encoder = worker.encoder
    encoder.encode(batch, wanted)
    kinds = tuple(
        KindCount(formats.object_id(event_id, is_raw=raw), MODE_RAW if raw else MODE_TYPED, entries)
        for event_id, raw, entries in encoder.kinds
    )
    if wanted is not None:
        gaps = tuple(gap._replace(at=encoder.count_before(batch, gap.at)) for gap in gaps)
    key = place.key
    body = msgpack.packb(
        {
            "run": key.run,
            "inst": key.instance,
            "cpu": key.cpu,
            "no": place.number,
            "ord": place.ordinal,
            "n": encoder.entries,
            "t0": encoder.first_ts,
            "t1": encoder.last_ts,
            "raw": batch.raw_bytes,
            "gaps": gaps,
            "kinds": kinds,
            "codec": worker.codec,
            "size": encoder.size_bytes,
            "cols": encoder.compress(worker.compress),
        }
    )
    return Block(
        key, place.number, place.ordinal, encoder.entries, encoder.first_ts, encoder.last_ts, batch.raw_bytes, gaps,
        kinds, encoder.pids, encoder.addresses, body,
    )  # fmt: skip
