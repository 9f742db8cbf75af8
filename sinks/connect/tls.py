"""TLS to a receiver: verification is on unless it is switched off by name."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trio
from pydantic import model_validator
from trio.abc import Stream

from collector.config.types import FilePath, Section
from collector.errors import ConfigError


class TlsConfig(Section):
    """How a receiver is known, and how we are known to it; an empty table is TLS by the system's certificates."""

    verify: bool = True  # False takes any certificate: then anyone on the way can read and answer
    ca_file: FilePath | None = None  # PEM; None: the system's
    cert_file: FilePath | None = None  # PEM, our own certificate and its chain
    key_file: FilePath | None = None  # PEM; None: the key stands in cert_file
    server_name: str | None = None  # in the server's certificate; None: the host that is connected to

    @model_validator(mode="after")
    def _key_has_certificate(self) -> "TlsConfig":
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("a cert_file where there is a key_file")
        return self


def build_context(config: TlsConfig) -> ssl.SSLContext:
    """Give a context for a client.

    Raises:
      ConfigError: a file cannot be read, or is not what it should be; the message names it.
    """
    context = _new_client_context()
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_ca(context, config.ca_file)
    if config.cert_file is not None:
        _load_own(context, config.cert_file, config.key_file)
    return context


def build_server_context(cert_file: str, key_file: str | None, client_ca_file: str | None) -> ssl.SSLContext:
    """Give a context for a server.

    Args:
      client_ca_file: clients must have a certificate of this authority; None: they need none.
    Raises:
      ConfigError: a file cannot be read, or is not what it should be; the message names it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, cert_file, key_file)
    if client_ca_file is not None:
        _load_ca(context, client_ca_file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def secure(stream: Stream, context: ssl.SSLContext, host: str, *, https_compatible: bool = False) -> Stream:
    """Begin TLS on a connection, as the client; a connection on which that fails is closed.

    Args:
      host: in the server's certificate.
      https_compatible: the server may end the connection without a word.
    Raises:
      OSError, trio.BrokenResourceError: the latter's cause is what explain() has words for.
    """
    secured = trio.SSLStream(stream, context, server_hostname=host, https_compatible=https_compatible)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(secured)
        raise
    return secured


def not_after_s(certificate: Mapping[str, Any] | None) -> float | None:
    """Wall time at which a certificate ends, from what getpeercert() gives; None where it was not verified."""
    text = certificate.get("notAfter") if certificate else None
    return float(ssl.cert_time_to_seconds(text)) if isinstance(text, str) else None


def explain(error: Exception) -> str:
    """Say what is wrong with a handshake in a few words, such as "certificate has expired"."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
    return str(error) or type(error).__name__


def _new_client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _load_ca(context: ssl.SSLContext, ca_file: str) -> None:
    _check_readable(ca_file, "the authority's certificates")
    try:
        context.load_verify_locations(ca_file)
    except (ssl.SSLError, OSError) as e:
        raise ConfigError(
            "no certificates in this file", where=ca_file, expected="certificates in PEM", got=_reason(e)
        ) from e


def _load_own(context: ssl.SSLContext, cert_file: str, key_file: str | None) -> None:
    _check_readable(cert_file, "the certificate")
    if key_file is not None:
        _check_readable(key_file, "the key")
    try:
        # A key with a pass phrase would otherwise be asked for on the terminal.
        context.load_cert_chain(cert_file, key_file, password=_refuse_pass_phrase)
    except (ssl.SSLError, OSError, ValueError) as e:
        where = cert_file if key_file is None else f"{cert_file}, {key_file}"
        raise ConfigError(
            "certificate and key cannot be used",
            where=where,
            expected="a certificate and its key in PEM, without a pass phrase",
            got=_reason(e),
        ) from e


def _refuse_pass_phrase() -> str:
    raise ValueError("a key with a pass phrase")


def _check_readable(path: str, what: str) -> None:
    """OpenSSL's errors do not say which file."""
    try:
        with Path(path).open("rb"):
            pass
    except OSError as e:
        raise ConfigError(f"{what} cannot be read: {e.strerror}", where=path) from e


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    return reason.replace("_", " ").lower() if isinstance(reason, str) else str(error)
