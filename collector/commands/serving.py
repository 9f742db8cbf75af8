"""The command that serves other hosts: receive."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from collector.commands import words

if TYPE_CHECKING:
    from collector.commands.words import Commands


def register(commands: "Commands") -> None:
    receive_words = commands.add_parser(
        "receive",
        help="keep archives of other hosts, which send them here",
        description="Takes what sinks of type stream send, until SIGINT or SIGTERM.",
    )
    receive_words.add_argument("--listen", required=True, metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    receive_words.add_argument("--output", type=Path, required=True, metavar="DIR", help="has a folder per host")
    receive_words.add_argument("--cert", metavar="FILE", help="TLS: our certificate, PEM")
    receive_words.add_argument("--key", metavar="FILE", help="its key; default: in the same file")
    receive_words.add_argument(
        "--client-ca", metavar="FILE", help="a host needs a certificate of this authority, for its name"
    )
    receive_words.add_argument(
        "--max-bytes-per-host",
        type=words.count,
        default=10 << 30,
        metavar="N",
        help="the oldest segments of a host go; default: 10 GiB",
    )
    receive_words.add_argument(
        "--segment-bytes",
        type=words.count,
        default=128 << 20,
        metavar="N",
        help="size that seals a segment; default: 128 MiB",
    )
    receive_words.add_argument(
        "--segment-age", type=words.seconds, default=3600.0, metavar="S", help="age that seals a segment; default: 3600"
    )
    receive_words.add_argument(
        "--min-free-bytes",
        type=words.count,
        default=1 << 30,
        metavar="N",
        help="with less on the disk nothing is taken; default: 1 GiB",
    )
    receive_words.add_argument(
        "--max-memory-bytes",
        type=words.count,
        default=1 << 30,
        metavar="N",
        help="of records on their way, names and such; default: 1 GiB",
    )
    receive_words.add_argument("--max-hosts", type=words.count, default=4096, metavar="N", help="default: 4096")
    receive_words.add_argument(
        "--log-format", choices=["text", "json"], default="text", help="of the messages on stderr; default: text"
    )
    receive_words.add_argument("--http", default="", metavar="HOST:PORT", help="metrics and health; default: none")
    receive_words.set_defaults(function=receive)


def receive(args: argparse.Namespace) -> int:
    from collector.run.receive import ReceiveOptions, receive

    return receive(
        ReceiveOptions(
            args.listen,
            args.output,
            args.segment_bytes,
            args.segment_age,
            args.max_bytes_per_host,
            args.min_free_bytes,
            args.max_hosts,
            args.max_memory_bytes,
            args.cert,
            args.key,
            args.client_ca,
            args.http,
            args.log_format,
        )
    )
