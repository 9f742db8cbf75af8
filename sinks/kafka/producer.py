"""One librdkafka producer and the thread that polls it; its callbacks arrive in Trio's thread.

A producer is given up after the first message that fails: what waits behind it in the queues is purged, so that no
later message of a CPU overtakes the one that is sent again. The next batch gets a new producer.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import trio
from confluent_kafka import KafkaError, KafkaException, Producer

from sinks.kafka.records import Message

logger = logging.getLogger(__name__)

POLL_S = 0.2  # how long the polling thread sleeps at most when nothing happens, and a closing producer waits for it

CLOSE_TRIES = 50

Properties = Mapping[str, Any]


# What another try cannot mend. What an operator can (a missing topic, a right, a password) is not among them.
REJECTIONS = frozenset((
    KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD, KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.POLICY_VIOLATION, KafkaError._INVALID_ARG,
))  # fmt: skip


class _Silent:
    """Takes librdkafka's log, which has a line for each attempt to connect: `last_error` says the same once."""

    def log(self, level: int, text: str, *args: object) -> None:
        logger.debug(text, *args)


SILENT = _Silent()


class Batch:
    """Messages that succeed or fail together, as far as the caller is concerned."""

    def __init__(self) -> None:
        self.error: str | None = None  # the first failure
        self.rejected: str | None = None  # what is wrong with the first message that no retry will bring
        self.refused_maps: list[tuple[Message, str]] = []  # that were told once more, and what is wrong with them
        self._left = 0
        self._changed = trio.Event()

    def add(self) -> None:
        """One more message is on its way."""
        self._left += 1

    def settle(self, message: Message, error: KafkaError | None) -> None:
        """One message arrived, or did not."""
        self._left -= 1
        if error is not None and error.code() in REJECTIONS:
            self.refuse(message, describe(error))
        elif error is not None:
            self.error = self.error or describe(error)
        if self._left == 0:
            self._changed.set()

    def refuse(self, message: Message, why: str) -> None:
        """A message can never be taken."""
        if message.repeats is not None:
            self.refused_maps.append((message, why))
        else:
            self.rejected = self.rejected or why

    async def wait(self) -> None:
        """Until all messages added so far have arrived, or have not."""
        if self._left:
            self._changed = trio.Event()
            await self._changed.wait()


class Channel:
    """A producer in use.

    Args:
      properties: librdkafka's.
      on_error: is called in Trio's thread with this channel and what librdkafka says of its connections, or of itself.
    Raises:
      KafkaException: librdkafka refuses a property.
    """

    def __init__(self, properties: Properties, on_error: "Callable[[Channel, KafkaError], None]") -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._on_error = on_error
        self._room = trio.Event()
        self._stop = threading.Event()
        self.closed = trio.Event()
        self._asking = threading.Lock()  # a producer must not be closed while it waits for an answer
        self._producer: Producer | None = Producer(
            {**properties, "error_cb": lambda error: self._post(self._on_error, self, error), "logger": SILENT}
        )
        # A daemon thread: should librdkafka hang in its end, the collector's exit does not.
        self._thread = threading.Thread(target=self._poll, args=(self._producer,), name="kafka-poll", daemon=True)
        self._thread.start()

    async def send(self, message: Message, batch: Batch) -> None:
        """Queue a message, waiting while the queue is full.

        Raises:
          KafkaException: this producer takes no more.
        """
        while self._producer is not None:
            try:
                self._producer.produce(
                    message.topic,
                    value=message.value,
                    key=message.key,
                    headers=list(message.headers),
                    on_delivery=lambda error, _: self._post(self._settle, batch, message, error),
                )
            except BufferError:
                self._room = trio.Event()
                await self._room.wait()
            except KafkaException as e:
                if e.args[0].code() not in REJECTIONS:
                    raise
                batch.refuse(message, describe(e))
                return
            else:
                batch.add()
                return
        raise KafkaException(KafkaError(KafkaError._DESTROY))

    async def check(self, timeout_s: float) -> None:
        """Ask a broker for the cluster's description.

        Raises:
          KafkaException: none answers.
        """
        await trio.to_thread.run_sync(self._list_topics, timeout_s, abandon_on_cancel=True)

    def close(self) -> None:
        """Give up all that was not acknowledged; `closed` is set when each message of it is settled."""
        self._producer = None
        self._stop.set()
        self._room.set()

    # ---- in other threads

    def _poll(self, producer: Producer) -> None:
        while not self._stop.is_set():
            self._serve(producer.poll)
        producer.purge()
        for _ in range(CLOSE_TRIES):
            if not self._serve(producer.flush):
                break
        with self._asking:
            producer.close()  # else its threads live until the garbage collector comes by
        self._post(self.closed.set)

    def _serve(self, wait: Callable[[float], int]) -> int:
        """Let callbacks be called. What is fatal to the producer is raised instead of given to `error_cb`."""
        try:
            return wait(POLL_S)
        except KafkaException as e:
            self._post(self._on_error, self, e.args[0])
            return 1

    def _list_topics(self, timeout_s: float) -> None:
        with self._asking:
            if (producer := self._producer) is not None:
                producer.list_topics(timeout=timeout_s)

    def _post(self, call: Callable[..., object], *args: object) -> None:
        try:
            self._token.run_sync_soon(call, *args)
        except trio.RunFinishedError:
            self._stop.set()  # the daemon ended without us

    # ---- in Trio's thread

    def _settle(self, batch: Batch, message: Message, error: KafkaError | None) -> None:
        self._room.set()
        batch.settle(message, error)


def describe(error: KafkaError | Exception) -> str:
    """Gives the message and librdkafka's or the broker's name of the error."""
    of = error.args[0] if isinstance(error, KafkaException) else error
    return f"{of.str()} ({of.name()})" if isinstance(of, KafkaError) else str(of)
