"""Reads what a sink has put into Kafka back into an archive's folder."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from collector.archive import disk
from collector.archive.lock import ArchiveLock
from collector.archive.reader import open_segment
from collector.archive.recover import recover_folder
from collector.archive.segment import PART_SUFFIX, SUFFIX, build_name
from collector.errors import ArchiveError, SegmentError
from sinks.kafka.rebuild import Piece, Rebuilder

WORK = ".rebuilding"  # a folder in the archive's: what is there is not complete


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was read and written."""

    messages: int
    duplicates: int  # blocks that came again
    foreign: int  # messages of another format
    broken: int  # messages that are not what their headers say
    headless: tuple[str, ...]  # runs, in hex, whose header is not in the topics (any more): nothing of them is written
    segments: tuple[Path, ...]


def rebuild_archive(
    properties: Mapping[str, Any], topics: tuple[str, ...], folder: Path, timeout_s: float = 30.0
) -> Rebuilt:
    """Read topics from their beginning to their end as of now, and write a segment for each run.

    The segments appear in the folder when all has been read; an error leaves nothing.

    Args:
      properties: librdkafka's: at least bootstrap.servers, and TLS and SASL as the cluster wants them.
      topics: the one of the maps first, where there is one.
      folder: made where it is missing; must hold no segment of these runs.
      timeout_s: without any message before the end of a topic, it is given up.
    Raises:
      KafkaException: the brokers do not answer.
      ArchiveLockedError: somebody writes to this folder.
      ArchiveError: a topic ended early, the folder has segments of one of the runs.
      OSError: the folder cannot be written.
    """
    disk.make_folder(folder)
    with ArchiveLock(folder):
        work = folder / WORK
        shutil.rmtree(work, ignore_errors=True)  # of one that was killed
        work.mkdir(mode=0o750)
        try:
            return _rebuild(properties, topics, folder, work, timeout_s)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _rebuild(
    properties: Mapping[str, Any], topics: tuple[str, ...], folder: Path, work: Path, timeout_s: float
) -> Rebuilt:
    rebuilder = Rebuilder()
    files = _Files(work, _runs_in(folder))
    messages = broken = 0
    # A group is named because librdkafka wants one; nothing is stored for it.
    consumer = Consumer(
        {
            "group.id": "ftrace-collector-rebuild",
            **properties,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    try:
        # The blocks' end first: what they refer to was in the maps' topic before them.
        ends = {topic: list(_ends(consumer, topic, timeout_s)) for topic in reversed(topics)}
        for topic in topics:
            for message in _messages(consumer, ends[topic], timeout_s):
                messages += 1
                try:
                    pieces = list(rebuilder.add(_headers(message), message.value() or b""))
                except SegmentError:
                    broken += 1
                    continue
                for piece in pieces:
                    files.append(piece)
    finally:
        consumer.close()
    segments = files.move_to(folder)
    return Rebuilt(messages, rebuilder.duplicates, rebuilder.foreign, broken, tuple(rebuilder.headless), segments)


class _Files:
    """The files of the runs while they grow.

    Args:
      present: runs, in hex, that the archive has already.
    """

    def __init__(self, work: Path, present: frozenset[str]) -> None:
        self._work, self._present = work, present
        self._paths: dict[str, Path] = {}  # {run: its file}, of those that have a header

    def append(self, piece: Piece) -> None:
        """Raises ArchiveError: the archive has this run."""
        if piece.run in self._present:
            raise ArchiveError(
                "the folder has segments of a run that is in the topics", where=str(self._work.parent), got=piece.run,
                hint="name an empty folder",
            )  # fmt: skip
        early = self._work / f"{piece.run}.early"
        if piece.header is None:
            _append(early, piece.data)
            return
        path = self._paths.get(piece.run)
        if path is None:
            path = self._paths[piece.run] = self._work / f"{build_name(piece.header)}.part"
            _append(path, piece.data)
            if early.exists():
                with open(path, "ab") as to, open(early, "rb") as of:
                    shutil.copyfileobj(of, to)
                early.unlink()
            return
        _append(path, piece.data)

    def move_to(self, folder: Path) -> tuple[Path, ...]:
        """Seal all that has a header, and give it its place.

        Raises:
          ArchiveError: a segment cannot be sealed.
        """
        done = recover_folder(self._work)
        for of in done:
            if not of.path.name.endswith(SUFFIX):
                raise ArchiveError("a segment cannot be sealed", where=of.path.name, got=of.reason)
        moved = []
        for path in sorted(of.path for of in done):
            disk.rename(path, folder / path.name)
            moved.append(folder / path.name)
        disk.fsync_folder(folder)
        return tuple(moved)


def _append(path: Path, data: bytes) -> None:
    with open(path, "ab") as file:
        file.write(data)


def _runs_in(folder: Path) -> frozenset[str]:
    found = set()
    for path in folder.iterdir():
        if path.name.endswith((SUFFIX, PART_SUFFIX)):
            with suppress(SegmentError), open_segment(path) as segment:  # what is damaged is for `verify` to tell
                found.add(segment.run.hex())
    return frozenset(found)


def _headers(message: Message) -> list[tuple[str, bytes]]:
    found = message.headers() or []
    pairs = found.items() if isinstance(found, dict) else found
    return [(name, value) for name, value in pairs if isinstance(value, bytes)]


def _ends(consumer: Consumer, topic: str, timeout_s: float) -> Iterator[TopicPartition]:
    """Where each partition of a topic that holds something ends: the offset of the next message."""
    found = consumer.list_topics(topic, timeout=timeout_s).topics[topic]
    if found.error is not None:
        raise KafkaException(found.error)
    for partition in found.partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=timeout_s)
        if low < high:
            yield TopicPartition(topic, partition, high)


def _messages(consumer: Consumer, ends: list[TopicPartition], timeout_s: float) -> Iterator[Message]:
    left = {of.partition: of.offset for of in ends}
    begin = [TopicPartition(of.topic, of.partition, 0) for of in ends]
    for at in begin:
        at.offset = consumer.get_watermark_offsets(at, timeout=timeout_s)[0]
    consumer.assign(begin)
    while left:
        message = consumer.poll(timeout_s)
        if message is None:
            raise ArchiveError(
                f"no message for {timeout_s:.0f} s before the end of the topic", where=ends[0].topic,
                got=f"partitions left: {sorted(left)}", hint="see to the brokers",
            )  # fmt: skip
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        if (error := message.error()) is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise KafkaException(error)
            left.pop(partition, None)  # compaction took the last ones
            continue
        assert offset is not None
        if offset < left.get(partition, 0):
            yield message
        if offset + 1 >= left.get(partition, 0):
            left.pop(partition, None)
