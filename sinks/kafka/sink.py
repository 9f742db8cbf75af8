"""Kafka: each parcel is a message, acknowledged by all replicas, in the order of its CPU."""

import logging
import math
import random
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import trio
from confluent_kafka import KafkaError, KafkaException, Producer
from pydantic import Field, ValidationInfo, field_validator, model_validator

from collector.batch import Delivery
from collector.config.types import GIB, KIB, MIB, Names, Secret, Section
from collector.errors import ConfigError
from sinks.connect.secrets import read_secret
from sinks.connect.tls import TlsConfig, build_context
from sinks.contract.base import Parcel, SinkContext, TransportState
from sinks.contract.options import SinkCommon, SinkType
from sinks.kafka.producer import SILENT, Batch, Channel, describe
from sinks.kafka.properties import Value, build_properties, build_tls, check_option
from sinks.kafka.records import Message, RepeatedMaps, TopicMaps
from sinks.network.retry import Backoff

logger = logging.getLogger(__name__)

READABLE = ("PLAIN", "OAUTHBEARER")  # mechanisms that send the secret itself

TOPIC = r"^[A-Za-z0-9._-]{1,249}$"

LOOK_S = 3.0  # for a broker to describe the cluster; what it cannot say within that it may say at the next try
CLOSE_S = 5.0  # for what a cancelled sink gives up


class SaslConfig(Section):
    """How the brokers know us."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]
    username: str | None = None
    password: Secret | None = None

    @model_validator(mode="after")
    def _has_password(self) -> "SaslConfig":
        if self.mechanism != "OAUTHBEARER" and (self.username is None or self.password is None):
            raise ValueError(f"username and password for {self.mechanism}")
        return self


class KafkaConfig(SinkCommon):
    """The settings of a sink of type kafka."""

    type: Literal["kafka"]
    brokers: Names  # HOST:PORT, of which some must answer at the start
    topic: Annotated[str, Field(pattern=TOPIC)] = "ftrace"
    maps: Literal["topic", "repeat"] = "topic"  # headers and names: on a compacted topic, or among the blocks
    maps_topic: Annotated[str, Field(pattern=TOPIC)] = "ftrace-maps"
    message_max_bytes: Annotated[int, Field(ge=16 * KIB, le=GIB)] = 1_000_000  # the brokers' message.max.bytes allows
    tls: TlsConfig | None = None
    sasl: SaslConfig | None = None
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)  # other properties of librdkafka
    secret_options: dict[str, Secret] = Field(default_factory=dict)  # those that are secrets

    @field_validator("brokers")
    @classmethod
    def _brokers_are_addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for broker in value:
            host, _, port = broker.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "," in broker or "/" in broker:
                raise ValueError(f'HOST:PORT such as "kafka1.example:9092", not {broker!r}')
        if not value:
            raise ValueError('at least one HOST:PORT such as "kafka1.example:9092"')
        return value

    @field_validator("options", "secret_options")
    @classmethod
    def _options_leave_promises(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in value:
            if (wrong := check_option(name, info.field_name == "secret_options")) is not None:
                raise ValueError(wrong)
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "KafkaConfig":
        if self.maps == "topic" and self.maps_topic == self.topic:
            raise ValueError("a maps_topic other than topic: compaction would remove blocks")
        if self.tls is not None and self.tls.server_name is not None:
            raise ValueError("no tls.server_name: librdkafka checks the certificate against the broker's own name")
        return self


class KafkaSink:
    """A Transport to a Kafka cluster.

    Args:
      properties: librdkafka's, see build_properties.
    Raises:
      ConfigError: librdkafka refuses a property.
    """

    max_in_flight = 8
    batch_bytes = MIB
    batch_events = math.inf

    def __init__(self, config: KafkaConfig, properties: dict[str, Value], host: str) -> None:
        self.name = config.title
        self.state = TransportState()
        self._config = config
        self._properties = properties
        self._maps: TopicMaps | RepeatedMaps = (
            TopicMaps(host, config.topic, config.maps_topic)
            if config.maps == "topic"
            else RepeatedMaps(host, config.topic, config.message_max_bytes)
        )
        self._timeout_s = config.request_timeout_s
        # librdkafka reports a message within its own timeout, which it looks at once a second; after this it is dead.
        self._deadline_s = 2 * config.request_timeout_s + 1
        self._channel: Channel | None = None
        self._closing: set[Channel] = set()
        self._given_up = 0  # channels, so far
        self._on_their_way: dict[Batch, Channel] = {}  # batches that deliver() has not answered
        self._lost = trio.Event()  # no broker is connected any more
        self._order = trio.Lock()  # first come, first served: batches are sent in the order of the calls
        self._check_properties()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look for the brokers until they answer; then librdkafka holds the connections."""
        task_status.started()
        backoff = Backoff(self._config.retry_first_s, self._config.retry_max_s, 0.5, random.random)
        try:
            while True:
                await self._look()
                if self.state.connected:
                    backoff.reset()
                    await self._lost.wait()
                else:
                    await trio.sleep(backoff.next_s())
        finally:
            self._give_up(self._channel)
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_S):
                for channel in tuple(self._closing):
                    await channel.closed.wait()

    async def deliver(self, parcels: Sequence[Parcel]) -> Delivery:
        """Produce the messages, and wait for all their acknowledgements."""
        batch = Batch()
        channel: Channel | None = None
        given_up = self._given_up
        try:
            with trio.fail_after(self._deadline_s):
                async with self._order:
                    if given_up != self._given_up or self._is_something_to_be_sent_again():
                        return Delivery.ERRORED  # what goes before it failed
                    channel = self._on_their_way[batch] = self._open()
                    await self._send(channel, parcels, batch)
                await batch.wait()
        except KafkaException as e:
            self._failed(channel, describe(e))
            return Delivery.ERRORED
        except trio.TooSlowError:
            self._failed(self._channel, f"no acknowledgement within {self._deadline_s:.0f} s")
            return Delivery.ERRORED
        except trio.Cancelled:
            self._give_up(self._channel)  # nobody knows what becomes of it, so nothing may come behind it
            raise
        finally:
            self._on_their_way.pop(batch, None)
        for message, why in batch.refused_maps:
            self._leave_out(message, why)
        if batch.error is not None:
            self._failed(channel, batch.error)
            return Delivery.ERRORED
        if batch.rejected is not None:
            self.state = TransportState(connected=self.state.connected, last_error=batch.rejected)
            return Delivery.REJECTED
        self.state = TransportState(connected=True)
        return Delivery.DELIVERED

    async def _send(self, channel: Channel, parcels: Sequence[Parcel], batch: Batch) -> None:
        """Give the messages to the producer.

        What refers to a map is sent when the map is acknowledged: who sees a block finds its names.
        """
        maps_on_their_way = False
        for parcel in parcels:
            for message in self._maps.messages(parcel):
                if maps_on_their_way and not message.is_map:
                    await batch.wait()
                    maps_on_their_way = False
                if batch.error is not None:
                    return
                if message.size_bytes > self._config.message_max_bytes:
                    batch.refuse(
                        message,
                        f"a message of {message.size_bytes} bytes, of kind {message.kind}, is more than "
                        f"message_max_bytes ({self._config.message_max_bytes}); raise it, and the brokers' "
                        "message.max.bytes",
                    )
                    continue
                await channel.send(message, batch)
                maps_on_their_way = maps_on_their_way or message.is_map
        if maps_on_their_way:
            await batch.wait()

    def _leave_out(self, message: Message, why: str) -> None:
        """The brokers refuse a map that goes before a block: the block is there, and some of its names are not."""
        assert isinstance(self._maps, RepeatedMaps)
        assert message.repeats is not None
        if self._maps.drop(message.repeats):
            logger.error("brokers will not take names that blocks refer to", extra={"fields": {
                "sink": self.name, "kind": message.kind, "type": dict(message.headers).get("type", b"").decode(),
                "bytes": message.size_bytes, "why": why,
            }})  # fmt: skip

    async def _look(self) -> None:
        """Ask for the cluster's description; what librdkafka says of its connections tells more than a timeout."""
        channel = self._open()
        try:
            await channel.check(min(self._timeout_s, LOOK_S))
        except KafkaException as e:
            self.state = TransportState(last_error=self.state.last_error or describe(e))
        else:
            self._lost = trio.Event()
            # Brokers that answer may still not take what they are sent: that is told until they do.
            self.state = TransportState(connected=True, last_error=self.state.last_error)

    def _is_something_to_be_sent_again(self) -> bool:
        """Whether a batch was in a channel that is given up, and the runner does not know of it yet."""
        return any(channel is not self._channel for channel in self._on_their_way.values())

    def _open(self) -> Channel:
        """The producer in use; a new one where the last was given up."""
        if self._channel is None:
            self._channel = Channel(self._properties, self._hear)
        return self._channel

    def _hear(self, channel: Channel, error: KafkaError) -> None:
        """librdkafka has trouble with a connection, or with itself."""
        if channel is not self._channel:
            return  # it is given up
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.state = TransportState(last_error=self.state.last_error or describe(error))
            self._lost.set()
        else:
            self.state = TransportState(connected=self.state.connected, last_error=describe(error))
        if error.fatal():
            self._give_up(channel)

    def _failed(self, channel: Channel | None, why: str) -> None:
        if channel is not self._channel:
            why = self.state.last_error or why  # what waited in one that was given up says no more than that
        self.state = TransportState(last_error=why)
        self._lost.set()
        self._give_up(channel)

    def _give_up(self, channel: Channel | None) -> None:
        """Take back all that waits in a producer: it is sent again from the first message that did not arrive."""
        if channel is None or channel is not self._channel:
            return
        self._channel = None
        self._given_up += 1
        self._maps.forget()
        self._closing = {of for of in self._closing if not of.closed.is_set()} | {channel}
        channel.close()

    def _check_properties(self) -> None:
        # Without brokers: an idempotent producer would connect to them at once.
        properties = {name: value for name, value in self._properties.items() if name != "bootstrap.servers"}
        try:
            Producer({**properties, "logger": SILENT})
        except (KafkaException, TypeError, AttributeError, ValueError) as e:  # the latter: where it wants an object
            raise ConfigError(
                f"librdkafka refuses the settings: {describe(e)}",
                where=f"sink {self.name}",
                hint="see options, tls and sasl of [[sinks]]",
            ) from e


def build(config: KafkaConfig, context: SinkContext) -> KafkaSink:
    """Give the sink that the settings describe, without connecting.

    Raises:
      ConfigError: a secret or a certificate cannot be used, or librdkafka refuses an option.
    """
    if config.tls is not None:
        build_context(config.tls)  # its messages name the file that is wrong
    sasl: dict[str, Value] | None = None
    if config.sasl is not None:
        sasl = {"sasl.mechanism": config.sasl.mechanism}
        if config.tls is None and config.sasl.mechanism in READABLE:
            logger.warning("without tls anyone on the way can read how the brokers know us",
                           extra={"fields": {"sink": config.title, "mechanism": config.sasl.mechanism}})  # fmt: skip
        if config.sasl.username is not None:
            sasl["sasl.username"] = config.sasl.username
        if config.sasl.password is not None:
            sasl["sasl.password"] = read_secret(config.sasl.password)
    secrets = {name: read_secret(of) for name, of in config.secret_options.items()}
    properties = build_properties(
        brokers=config.brokers,
        message_max_bytes=config.message_max_bytes,
        timeout_s=config.request_timeout_s,
        queue_bytes=2 * max(KafkaSink.max_in_flight * KafkaSink.batch_bytes, config.message_max_bytes),
        tls=None if config.tls is None else build_tls(config.tls),
        sasl=sasl,
        options={**config.options, **secrets},
    )
    return KafkaSink(config, properties, context.host)


SINK = SinkType(KafkaConfig, build)
