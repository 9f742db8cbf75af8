"""An object store: sealed segments of the archive as objects, with a manifest for each day."""

import random
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote, urlsplit

import obstore.store
from obstore.exceptions import BaseError
from pydantic import Field, ValidationInfo, field_validator, model_validator

from collector.archive import disk
from collector.config.types import GIB, MIB, Secret
from collector.errors import ConfigError
from sinks.connect.secrets import mask, read_secret
from sinks.connect.tls import TlsConfig, build_context
from sinks.contract.base import SinkContext
from sinks.contract.options import Seconds, SinkCommon, SinkType
from sinks.network.retry import Backoff
from sinks.objectstore.store import Store, explain
from sinks.objectstore.uploader import Place, Uploader

SCHEMES = ("s3", "gs", "az", "file")

# What other sinks need for their spool and this one has no use for: the archive is its spool.
_NOT_HERE = (
    "when_full", "queue_bytes", "spool_bytes", "spool_folder", "sync_interval_s", "repeat_interval_s", "linger_s",
    "filter",
)  # fmt: skip

# The service's own address, by all names that obstore takes for it; others, such as metadata_endpoint, are not it.
_ENDPOINT = re.compile(r"((aws_)?endpoint(_url)?|azure_(storage_)?endpoint|(google_)?base_url)")

_SECRET_WORDS = ("secret", "key", "token", "password", "sas")
_NO_SECRETS = ("access_key_id", "sse_kms_key_id", "sse_bucket_key_enabled", "tokens")


class ObjectStoreConfig(SinkCommon):
    """The settings of a sink of type objectstore."""

    not_here: ClassVar[tuple[str, ...]] = _NOT_HERE

    type: Literal["objectstore"]
    url: str  # s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, file:///FOLDER
    options: dict[str, str] = Field(default_factory=dict)  # of the store, such as endpoint and region
    secret_options: dict[str, Secret] = Field(default_factory=dict)  # those that are secrets
    part_bytes: Annotated[int, Field(ge=5 * MIB, le=GIB)] = 8 * MIB  # larger segments are sent in parts of this size
    verify: Literal["auto", "read"] = "auto"  # by the etag where it is a checksum, else by reading back; always so
    scan_interval_s: Seconds = 5.0  # how often the archive's folder is looked at
    tls: TlsConfig = TlsConfig()

    @field_validator("url")
    @classmethod
    def _url_is_a_place(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in SCHEMES or parts.query or parts.fragment:
            raise ValueError(f"s3://, gs:// or az:// with a bucket, or file:///, not {value!r}")
        if (parts.netloc == "") != (parts.scheme == "file") or (parts.scheme == "file" and len(parts.path) < 2):
            raise ValueError(f"a bucket behind s3://, gs:// and az://, a folder behind file://, not {value!r}")
        if parts.username is not None:
            raise ValueError("no secrets in the url: they belong into secret_options")
        return value

    @field_validator("options")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            low = name.lower()
            if any(word in low for word in _SECRET_WORDS) and not low.endswith(_NO_SECRETS):
                raise ValueError(f'{name} in secret_options, as {{file = "..."}} or {{credential = "..."}}')
        return value

    @field_validator(*_NOT_HERE)
    @classmethod
    def _not_here(cls, _: object, info: ValidationInfo) -> object:
        raise ValueError(f"no {info.field_name}: the archive itself is what an objectstore sink brings away")

    @model_validator(mode="after")
    def _fits_together(self) -> "ObjectStoreConfig":
        if self.tls.cert_file is not None or self.tls.server_name is not None:
            raise ValueError("no tls.cert_file and tls.server_name: object stores know clients by their keys")
        return self

    @property
    def spools(self) -> bool:
        return False  # the archive is its spool


def build_store(config: ObjectStoreConfig) -> obstore.store.ObjectStore:
    """Give obstore's store, without connecting.

    Raises:
      ConfigError: a secret or a certificate cannot be used, or obstore refuses an option.
    """
    secrets = {name: read_secret(of) for name, of in config.secret_options.items()}
    settings: dict[str, Any] = {**config.options, **secrets}
    folder = folder_of(config)
    if folder is None:
        # What is tried again, and when, is decided here: see the uploader. Each request has its own deadline.
        settings["retry_config"] = {"max_retries": 0}
        timeout = f"{round(config.request_timeout_s * 1000)}ms"
        client = {"timeout": timeout, "connect_timeout": timeout}
        build_context(config.tls)  # its messages name the file that is wrong
        if not config.tls.verify:
            client["allow_invalid_certificates"] = "true"
        if config.tls.ca_file is not None:
            client["root_certificate"] = Path(config.tls.ca_file).read_text()
        if endpoint_of(config).startswith("http://"):
            client["allow_http"] = "true"
        settings["client_options"] = client
    try:
        if folder is not None:
            disk.make_folder(folder)
        return obstore.store.from_url(config.url, **settings)
    except (BaseError, ValueError, TypeError, OSError) as e:
        raise ConfigError(
            f"the object store cannot be used: {mask(explain(e), secrets.values())}",
            where=f"sink {config.title}",
            hint="see url, options and secret_options of [[sinks]]",
        ) from (None if secrets else e)  # its text may quote a secret


def endpoint_of(config: ObjectStoreConfig) -> str:
    """The address that was given for the service; "" for the provider's own."""
    return next((value for name, value in config.options.items() if _ENDPOINT.fullmatch(name.lower())), "")


def folder_of(config: ObjectStoreConfig) -> Path | None:
    """The store's folder where the store is one."""
    parts = urlsplit(config.url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def build(config: ObjectStoreConfig, context: SinkContext) -> Uploader:
    """Give the sink that the settings describe, without connecting.

    Raises:
      ConfigError: a secret or a certificate cannot be used, or obstore refuses an option.
    """
    store = build_store(config)
    return Uploader(
        Place(config.title, context.archive, context.host, f"{endpoint_of(config)} {config.url}".strip()),
        lambda stopped: Store(store, config.part_bytes, config.verify == "read", stopped, folder_of(config)),
        config.scan_interval_s,
        Backoff(config.retry_first_s, config.retry_max_s, 0.5, random.random),
        config.stall_limit_s,
    )


SINK = SinkType(ObjectStoreConfig, build)
