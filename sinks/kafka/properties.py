"""The collector's settings as librdkafka's properties. Pure.

Source: CONFIGURATION.md of librdkafka.
"""

from collections.abc import Mapping
from typing import Protocol

Value = str | int | float | bool

_OURS: dict[str, Value] = {
    "enable.idempotence": True,  # retries inside librdkafka neither repeat nor reorder; with it acks = all
    "compression.type": "none",  # blocks are compressed
    "partitioner": "murmur2_random",  # as Java's: any producer puts a key into the same partition
    "batch.num.messages": 1,  # blocks are large; and a broker that refuses one message would refuse its whole batch
    "linger.ms": 0,
    "log.connection.close": False,  # brokers and load balancers end idle connections
}

_ONCE = "what is not acknowledged by all replicas may be lost, or come in another order"
_REPORTS = "each message's acknowledgement is waited for, by a callback of the sink"
_BATCHES = "the sink makes the batches"
_QUEUE = "it is as large as the batches that may be on their way"

# {property: the setting to use instead, or why it is not the user's}: those that take from what the sink promises.
# Of what else would (retries, max.in.flight, queuing.strategy), librdkafka refuses values that an idempotent producer
# cannot have.
_RESERVED = {
    "bootstrap.servers": "it is set by brokers",
    "metadata.broker.list": "it is set by brokers",
    "enable.idempotence": _ONCE,
    "enable.gapless.guarantee": "the sink itself sends again from the first message that failed",
    "acks": _ONCE,
    "request.required.acks": _ONCE,
    "transactional.id": "the sink has no transactions, and nothing would be committed",
    "partitioner": "any producer puts a key into the same partition, or a CPU's blocks lose their order",
    "compression.type": "blocks are compressed",
    "compression.codec": "blocks are compressed",
    "batch.num.messages": _BATCHES,
    "linger.ms": f"{_BATCHES}; see linger_s",
    "queue.buffering.max.ms": f"{_BATCHES}; see linger_s",
    "message.max.bytes": "it is set by message_max_bytes",
    "message.timeout.ms": "it is set by request_timeout_s",
    "delivery.timeout.ms": "it is set by request_timeout_s",
    "queue.buffering.max.messages": _QUEUE,
    "queue.buffering.max.kbytes": _QUEUE,
    "sasl.mechanism": "it is set by sasl.mechanism",
    "sasl.mechanisms": "it is set by sasl.mechanism",
    "sasl.username": "it is set by sasl.username",
    "security.protocol": "it is set by tls and sasl",
    "enable.ssl.certificate.verification": "it is set by tls.verify",
    "delivery.report.only.error": _REPORTS,
    "on_delivery": _REPORTS,
    "enabled_events": _REPORTS,
    "default.topic.config": "a topic's properties stand in options themselves",
    "logger": "librdkafka's log is the collector's",
    "log.queue": "librdkafka's log is the collector's",
}
# Not documented by librdkafka: a cluster inside the process that forgets everything, and faults made for its own tests.
_FOR_TESTS = ("test.", "ut_")
_SECRET_WORDS = ("password", "secret", "key.pem", "jaas")


def check_option(name: str, secret: bool) -> str | None:
    """Gives what is wrong with a property in `options` or `secret_options`; None: nothing that can be seen here."""
    if not secret and any(word in name for word in _SECRET_WORDS):
        return f'{name} in secret_options, as {{file = "..."}} or {{credential = "..."}}'
    if name in _RESERVED:
        return f"no {name}: {_RESERVED[name]}"
    if name.endswith("_cb"):
        return f"no {name}: callbacks are the collector's"
    if name.startswith(_FOR_TESTS):
        return f"no {name}: it is for librdkafka's own tests"
    return None


class TlsFiles(Protocol):
    """What is wanted of sinks.connect.tls.TlsConfig."""

    @property
    def verify(self) -> bool: ...
    @property
    def ca_file(self) -> str | None: ...
    @property
    def cert_file(self) -> str | None: ...
    @property
    def key_file(self) -> str | None: ...


def build_tls(tls: TlsFiles | None) -> dict[str, Value]:
    """Gives the properties of a connection with TLS; None: without."""
    if tls is None:
        return {}
    found: dict[str, Value] = {"enable.ssl.certificate.verification": tls.verify}
    if tls.ca_file is not None:
        found["ssl.ca.location"] = tls.ca_file
    if tls.cert_file is not None:
        found["ssl.certificate.location"] = tls.cert_file
        found["ssl.key.location"] = tls.key_file or tls.cert_file
    return found


def build_properties(
    *,
    brokers: tuple[str, ...],
    message_max_bytes: int,
    timeout_s: float,
    queue_bytes: int,
    tls: Mapping[str, Value] | None,
    sasl: Mapping[str, Value] | None,
    options: Mapping[str, Value],
) -> dict[str, Value]:
    """Gives the properties of a producer.

    Args:
      timeout_s: until a message is acknowledged, librdkafka's own retries included.
      queue_bytes: of the batches that may be in flight together.
      tls, sasl: their properties; None: without.
      options: the user's.
    """
    protocol = ("SASL_" if sasl is not None else "") + ("SSL" if tls is not None else "PLAINTEXT")
    timeout_ms = round(timeout_s * 1000)
    return {
        **_OURS,
        "security.protocol": protocol,
        "bootstrap.servers": ",".join(brokers),
        "message.max.bytes": message_max_bytes,
        "message.timeout.ms": timeout_ms,
        # One request may take half of it, so that another broker can be asked before the message's time is over.
        "request.timeout.ms": max(timeout_ms // 2, 1),
        "socket.timeout.ms": max(timeout_ms // 2, 1000),
        "socket.connection.setup.timeout.ms": min(max(timeout_ms // 2, 1000), 30_000),
        "queue.buffering.max.kbytes": max(queue_bytes // 1024, 1024),
        "queue.buffering.max.messages": 100_000,
        **(tls or {}),
        **(sasl or {}),
        **options,
    }
