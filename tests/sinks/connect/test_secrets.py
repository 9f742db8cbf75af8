"""sinks.connect.secrets: from files and credentials, and never in a message."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from collector.config.types import Secret
from collector.errors import ConfigError
from sinks.connect.secrets import MAX_SECRET_BYTES, mask, read_secret


def test_a_file_gives_its_text_without_the_line_end(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("s3cret with spaces \n")
    assert read_secret(Secret(file=str(path))) == "s3cret with spaces "


def test_a_credential_is_looked_up_in_the_folder_that_systemd_names(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    assert read_secret(Secret(credential="key"), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == "k"


def test_a_credential_without_systemd_says_what_to_add() -> None:
    with pytest.raises(ConfigError, match="LoadCredential=key:PATH"):
        read_secret(Secret(credential="key"), {})


@pytest.mark.parametrize("given", [{}, {"file": "a", "credential": "b"}, {"credential": "../x"}])
def test_a_secret_has_one_place(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Secret.model_validate(given)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"s3cret\xff", "not UTF-8"),
        (b"s" * (MAX_SECRET_BYTES + 1), "too large"),
    ],
)
def test_what_is_no_secret_is_refused_without_quoting_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "password"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_secret(Secret(file=str(path)))
    assert str(path) in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="absent: the secret cannot be read: No such file"):
        read_secret(Secret(file=str(tmp_path / "absent")))


def test_secrets_are_taken_out_of_what_a_library_says() -> None:
    assert mask('cannot parse "hunter2" or hunter', ["hunter", "hunter2"]) == 'cannot parse "***" or ***'
