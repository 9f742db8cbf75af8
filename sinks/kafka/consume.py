"""Reads what a sink has put into Kafka back into an archive's folder."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from collector.archive.recover import recover_folder
from collector.archive.segment import SUFFIX, build_name
from collector.errors import ArchiveError
from sinks.kafka.rebuild import Rebuilder

# A group is named because librdkafka wants one; nothing is stored for it.
_OURS = {"group.id": "ftrace-collector-rebuild", "enable.auto.commit": False, "enable.partition.eof": True}


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What was read and written."""

    messages: int
    duplicates: int  # blocks that came again
    foreign: int  # messages of another format
    segments: tuple[Path, ...]


def rebuild_archive(
    properties: Mapping[str, Any], topics: tuple[str, ...], folder: Path, timeout_s: float = 30.0
) -> Rebuilt:
    """Read topics from their beginning to their end as of now, and write a segment for each run.

    Args:
      properties: librdkafka's: at least bootstrap.servers, and TLS and SASL as the cluster wants them.
      topics: the one of the maps first, where there is one.
      folder: made where it is missing; must hold no segment of these runs.
      timeout_s: without any message before the end of a topic, it is given up.
    Raises:
      KafkaException: the brokers do not answer.
      ArchiveError: a topic ended early, a run has no header, or the folder cannot be written.
    """
    rebuilder = Rebuilder()
    messages = 0
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    consumer = Consumer(
        {
            "group.id": "ftrace-collector-rebuild",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            **properties,
        }
    )
    try:
        # The blocks' end first: what they refer to was in the maps' topic before them.
        ends = {topic: list(_ends(consumer, topic, timeout_s)) for topic in reversed(topics)}
        for topic in topics:
            for message in _messages(consumer, ends[topic], timeout_s):
                messages += 1
                for piece in rebuilder.add(_headers(message), message.value() or b""):
                    with open(folder / (build_name(piece.header) + ".part"), "ab") as file:
                        file.write(piece.data)
    finally:
        consumer.close()
    if rebuilder.headless:
        raise ArchiveError(
            "runs without a header", where=", ".join(topics), got=", ".join(rebuilder.headless),
            hint="name the topic of the maps, first",
        )  # fmt: skip
    recover_folder(folder)
    segments = tuple(sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX)))
    return Rebuilt(messages, rebuilder.duplicates, rebuilder.foreign, segments)


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
