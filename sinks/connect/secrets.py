"""Passwords and keys: from a file or a systemd credential, never from the configuration itself.

    password = { file = "/etc/ftrace-collector/password" }
    password = { credential = "forward-password" }         # LoadCredential= of the unit

A configuration is read by more people than a secret is, and `config show` prints it: where a secret is, never what.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from collector.config.types import Secret
from collector.errors import ConfigError

# No password or key is larger; a wrong path to a huge file must not be read to its end.
MAX_SECRET_BYTES = 64 * 1024


def read_secret(secret: Secret, environ: Mapping[str, str] = os.environ) -> str:
    """Give the secret's text, without the line end at its end.

    Raises:
      ConfigError: it cannot be read, is empty, too large, or not UTF-8; the message never holds any of it.
    """
    path = _path_of(secret, environ)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SECRET_BYTES + 1)
        text = data.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except OSError as e:
        raise ConfigError(
            f"the secret cannot be read: {e.strerror}",
            where=str(path),
            hint="the daemon's user must be able to read it",
        ) from e
    except UnicodeDecodeError:
        # Without the cause: it quotes the bytes.
        raise ConfigError("the secret is not UTF-8", where=str(path), hint="write it as text") from None
    if len(data) > MAX_SECRET_BYTES:
        raise ConfigError("too large for a secret", where=str(path), expected=f"at most {MAX_SECRET_BYTES} bytes")
    if not text:
        raise ConfigError("the secret is empty", where=str(path), hint="write it into the file")
    return text


def _path_of(secret: Secret, environ: Mapping[str, str]) -> Path:
    if secret.file is not None:
        return Path(secret.file)
    assert secret.credential is not None
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        raise ConfigError(
            f"no credential {secret.credential!r}: $CREDENTIALS_DIRECTORY is not set",
            hint=f"add LoadCredential={secret.credential}:PATH to the unit, or name a file",
        )
    return Path(folder) / secret.credential


def mask(text: str, secrets: Iterable[str]) -> str:
    """Take secrets out of what a library says of its settings."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, "***")
    return text
