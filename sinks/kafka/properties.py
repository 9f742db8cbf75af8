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

# Which setting to use instead of a property, where the property would take from what the sink promises.
_RESERVED = {
    "bootstrap.servers": "brokers",
    "metadata.broker.list": "brokers",
    "enable.idempotence": None,
    "acks": None,
    "request.required.acks": None,
    "compression.type": None,
    "compression.codec": None,
    "batch.num.messages": None,
    "message.max.bytes": "message_max_bytes",
    "message.timeout.ms": "request_timeout_s",
    "delivery.timeout.ms": "request_timeout_s",
    "queue.buffering.max.messages": None,
    "queue.buffering.max.kbytes": None,
    "sasl.mechanism": "sasl.mechanism",
    "sasl.mechanisms": "sasl.mechanism",
    "sasl.username": "sasl.username",
    "security.protocol": "tls and sasl",
    "enable.ssl.certificate.verification": "tls.verify",
    "transactional.id": None,
    # Of the Python library, which takes objects for them, or leaves out reports that the sink waits for.
    "default.topic.config": None,
    "delivery.report.only.error": None,
    "logger": None,
    "on_delivery": None,
}
_SECRET_WORDS = ("password", "secret", "key.pem", "jaas")


def check_option(name: str, secret: bool) -> str | None:
    """Gives what is wrong with a property in `options` or `secret_options`; None: nothing that can be seen here."""
    if not secret and any(word in name for word in _SECRET_WORDS):
        return f'{name} in secret_options, as {{file = "..."}} or {{credential = "..."}}'
    if name in _RESERVED:
        instead = _RESERVED[name]
        return f"no {name}: " + (f"it is set by {instead}" if instead else "the sink depends on its own value")
    if name.endswith("_cb"):
        return f"no {name}: callbacks are the collector's"
    return None


class TlsFiles(Protocol):
    """What is wanted of sinks.tls.TlsConfig."""

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
