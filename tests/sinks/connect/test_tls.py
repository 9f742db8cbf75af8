"""sinks.connect.tls: whom a client believes, and what it says when it does not."""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from collector.errors import ConfigError
from sinks.connect.tls import TlsConfig, build_context, build_server_context, explain, not_after_s


@dataclass(frozen=True, slots=True)
class Files:
    ca: str
    server_cert: str
    server_key: str
    client_cert: str  # with its key
    expired_cert: str  # with its key
    other_ca: str


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    server, client = ca.issue_cert("receiver.test"), ca.issue_cert("client.test")
    expired = ca.issue_cert("receiver.test", not_after=datetime.now(UTC) - timedelta(days=1))

    def write(name: str, *blobs: trustme.Blob) -> str:
        path = folder / name
        path.write_bytes(b"".join(blob.bytes() for blob in blobs))
        return str(path)

    return Files(
        ca=write("ca.pem", ca.cert_pem),
        server_cert=write("server.pem", *server.cert_chain_pems),
        server_key=write("server.key", server.private_key_pem),
        client_cert=write("client.pem", client.private_key_and_cert_chain_pem),
        expired_cert=write("expired.pem", expired.private_key_and_cert_chain_pem),
        other_ca=write("other.pem", other.cert_pem),
    )


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None) -> ssl.SSLObject:
    """A handshake in memory; gives the client's end."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for end in (ours, theirs):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    theirs.write(b"x")
    assert ours.read(1) == b"x"
    return ours


def test_a_server_with_a_certificate_of_the_authority_is_believed(files: Files) -> None:
    server = build_server_context(files.server_cert, files.server_key, None)
    end = shake_hands(build_context(TlsConfig(ca_file=files.ca)), server, "receiver.test")
    ends_s = not_after_s(end.getpeercert())
    assert ends_s is not None
    assert ends_s > datetime.now(UTC).timestamp()


@pytest.mark.parametrize(
    ("ca", "cert", "name", "message"),
    [
        ("other_ca", "server_cert", "receiver.test", "self-signed certificate|unable to get local issuer"),
        ("ca", "server_cert", "another.test", "Hostname mismatch"),
        ("ca", "expired_cert", "receiver.test", "certificate has expired"),
    ],
)
def test_another_authority_another_name_and_an_old_certificate_are_refused(
    files: Files, ca: str, cert: str, name: str, message: str
) -> None:
    key = files.server_key if cert == "server_cert" else None
    server = build_server_context(getattr(files, cert), key, None)
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        shake_hands(build_context(TlsConfig(ca_file=getattr(files, ca))), server, name)
    text = explain(caught.value)
    assert text.startswith("the server's certificate is refused: ")
    assert any(part in text for part in message.split("|"))


def test_verification_can_be_switched_off_by_name(files: Files) -> None:
    server = build_server_context(files.expired_cert, None, None)
    end = shake_hands(build_context(TlsConfig(verify=False)), server, None)
    assert not_after_s(end.getpeercert()) is None


def test_a_server_that_asks_for_it_gets_the_clients_certificate(files: Files) -> None:
    server = build_server_context(files.server_cert, files.server_key, files.ca)
    shake_hands(build_context(TlsConfig(ca_file=files.ca, cert_file=files.client_cert)), server, "receiver.test")
    with pytest.raises(ssl.SSLError) as caught:
        shake_hands(build_context(TlsConfig(ca_file=files.ca)), server, "receiver.test")
    assert explain(caught.value).startswith("TLS failed: ")


def test_files_that_cannot_be_used_are_named(files: Files, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no certificate")
    for config, message in (
        (TlsConfig(ca_file=str(tmp_path / "absent")), "absent: the authority's certificates cannot be read"),
        (TlsConfig(ca_file=str(text)), "text: no certificates in this file"),
        (TlsConfig(cert_file=str(tmp_path / "absent")), "absent: the certificate cannot be read"),
        (TlsConfig(cert_file=files.client_cert, key_file=str(tmp_path / "absent")), "absent: the key cannot be read"),
        (TlsConfig(cert_file=files.server_cert), "server.pem: certificate and key cannot be used"),
        (TlsConfig(cert_file=files.client_cert, key_file=files.server_key), "key values mismatch"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_context(config)
    with pytest.raises(ValueError, match="a cert_file where there is a key_file"):
        TlsConfig(key_file=files.server_key)
