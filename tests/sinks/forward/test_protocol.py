"""The messages of Fluent Forward: what is sent, what a server may answer, and what is refused."""

import gzip
import hashlib
import random

import msgpack
import pytest

from sinks.forward.protocol import (
    MAX_MESSAGE_BYTES,
    Credentials,
    Helo,
    MessageReader,
    ProtocolError,
    build_chunk,
    build_ping,
    check_pong,
    compress_entries,
    parse_ack,
    parse_helo,
)
from sinks.forward.sink import ForwardOptions

US = Credentials("us", b"key", "user", "pass")


def hex_of(*parts: bytes) -> str:
    return hashlib.sha512(b"".join(parts)).hexdigest()


@pytest.mark.parametrize("size", [0, 1, 255, 256, 70_000])
@pytest.mark.parametrize("is_gzip", [False, True])
def test_a_chunk_is_packed_forward(size: int, is_gzip: bool) -> None:
    entries = random.Random(size).randbytes(size)
    sent = [compress_entries([entries[:10], entries[10:]], 1)] if is_gzip else [entries[:10], entries[10:]]
    tag, body, option = msgpack.unpackb(build_chunk("a.b", sent, 7, "aWQ=", is_gzip=is_gzip))
    assert tag == "a.b"
    assert (gzip.decompress(body) if is_gzip else body) == entries
    assert option == {"chunk": "aWQ=", "size": 7, **({"compressed": "gzip"} if is_gzip else {})}


def test_compressing_the_same_twice_gives_the_same() -> None:
    assert compress_entries([b"abc"] * 1000, 6) == compress_entries([b"abc" * 1000], 6)


@pytest.mark.parametrize("auth", [b"", b"salt-for-passwords"])
def test_a_handshake_with_both_digests(auth: bytes) -> None:
    helo = parse_helo(["HELO", {"nonce": b"no\xffnce", "auth": auth, "keepalive": True}])
    ping = msgpack.unpackb(build_ping(helo, US, "salt"))
    assert ping == [
        "PING", "us", "salt", hex_of(b"salt", b"us", b"no\xffnce", b"key"), "user" if auth else "",
        hex_of(auth, b"user", b"pass") if auth else "",
    ]  # fmt: skip
    check_pong(["PONG", True, "", "them", hex_of(b"salt", b"them", b"no\xffnce", b"key")], helo, US, "salt")


def test_nonces_may_be_text_that_is_no_utf8() -> None:
    (message,) = MessageReader().feed(b"\x92\xa4HELO\x82\xa5nonce\xa2\xff\xfe\xa4auth\xa1\xf0")
    assert parse_helo(message) == Helo(b"\xff\xfe", b"\xf0", True)


@pytest.mark.parametrize(
    ("pong", "reason"),
    [
        (["PONG", False, "shared_key mismatch", "", ""], "auth"),
        (["PONG", True, "", "them", hex_of(b"salt", b"them", b"nonce", b"wrong")], "server_digest"),
        (["PONG", True, "", "them", ""], "server_digest"),
        (["PONG", True, "", "us", hex_of(b"salt", b"us", b"nonce", b"key")], "handshake"),
        (["PONG", 1, "", "them", ""], "handshake"),
        (["PONG", True, "", 7, ""], "handshake"),
        (["PONG", True], "handshake"),
        (None, "handshake"),
    ],
)
def test_a_server_without_the_key_is_refused(pong: object, reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_pong(pong, Helo(b"nonce", b"", True), US, "salt")
    assert caught.value.reason == reason


def test_without_a_user_a_server_that_asks_for_one_decides() -> None:
    helo, us = Helo(b"n", b"auth", True), Credentials("us", b"key")
    assert msgpack.unpackb(build_ping(helo, us, "salt"))[4:] == ["", ""]
    with pytest.raises(ProtocolError, match="asks for a user"):
        check_pong(["PONG", False, "no such user", "", ""], helo, us, "salt")


@pytest.mark.parametrize("message", [[], ["HELO"], ["PONG", {}], {"ack": "x"}, None, ["HELO", {"nonce": 5}]])
def test_what_is_no_helo_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        parse_helo(message)


@pytest.mark.parametrize(("message", "chunk"), [({"ack": "aa=="}, "aa=="), ({"ack": b"aa=="}, "aa==")])
def test_an_ack_names_its_chunk(message: object, chunk: str) -> None:
    assert parse_ack(message) == chunk


@pytest.mark.parametrize("message", [{}, {"ack": 5}, [], "ack", ["HELO", {}], None])
def test_what_is_no_ack_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        parse_ack(message)


def test_messages_are_cut_wherever_the_bytes_are() -> None:
    data = b"".join(msgpack.packb({"ack": f"{i}"}) for i in range(50))
    for step in (1, 3, 1000):
        reader = MessageReader()
        found = [m for at in range(0, len(data), step) for m in reader.feed(data[at : at + step])]
        assert found == [{"ack": f"{i}"} for i in range(50)]


@pytest.mark.parametrize("start", [b"\xc6\x40\0\0\0", b"\xdb\x40\0\0\0", b"\xdd\x40\0\0\0", b"\xdf\xff\xff\xff\xff"])
def test_a_message_without_an_end_is_cut_off_early(start: bytes) -> None:
    reader, fed = MessageReader(), 0

    def feed_a_gigabyte() -> None:
        nonlocal fed
        list(reader.feed(start))
        while fed < 1 << 30:
            list(reader.feed(bytes(4096)))
            fed += 4096

    with pytest.raises(ProtocolError) as caught:
        feed_a_gigabyte()
    assert caught.value.reason == "too_large"
    assert fed <= 2 * MAX_MESSAGE_BYTES


def test_any_garbage_is_refused_or_no_ack() -> None:
    rng = random.Random(1)
    refused = []
    for _ in range(3000):
        reader = MessageReader()
        try:
            for message in reader.feed(rng.randbytes(rng.randrange(1, 200))):
                parse_ack(message)
        except ProtocolError as e:
            refused.append(str(e))
    assert len(refused) > 2000
    assert all(text.isascii() and len(text) < 300 for text in refused)


def test_blocks_are_not_compressed_again() -> None:
    def options(**more: object) -> ForwardOptions:
        return ForwardOptions.model_validate({"type": "forward", "servers": [{"host": "h"}], **more})

    assert options().is_gzip
    assert options(payload="blocks", compress="gzip").is_gzip
    assert not options(payload="blocks").is_gzip
    assert not options(compress="none").is_gzip
