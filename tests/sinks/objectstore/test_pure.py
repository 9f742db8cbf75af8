"""Names, manifests and progress: bytes and text in, values out."""

import io
import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.errors import ArchiveError
from sinks.objectstore.digest import count_events, read_digest, read_entry
from sinks.objectstore.manifest import Entry, InstancePart, build_manifest, merge
from sinks.objectstore.names import build_folder, date_of, other_name, quote_part
from sinks.objectstore.progress import Progress, Uploaded, build_progress, parse_progress, read_progress, write_progress
from sinks.objectstore.sink import ObjectStoreConfig, endpoint_of
from sinks.objectstore.store import explain
from tests.sinks.made import make_segment


def with_crc(data: bytes) -> bytes:
    return data + b'{"crc": %d}\n' % zlib.crc32(data)


ENTRY = Entry("a.ftseg", 5, "00" * 32, "0102", 3, "h", 10, 20, 7, {"main": InstancePart("mono", 7, 1, None)})


def test_a_segment_of_one_instance_stands_under_its_name() -> None:
    assert build_folder("h", ["main"], "2026-11-23") == "h/main/2026-11-23"
    assert build_folder("h", ["main", "net"], "2026-11-23") == "h/all/2026-11-23"
    assert build_folder("h", [], "2026-11-23") == "h/all/2026-11-23"


def test_the_date_is_that_of_the_name() -> None:
    assert date_of("20261123T045501.123456Z-0102abcd-000007.ftseg") == "2026-11-23"
    assert date_of("x.ftseg") is None


def test_a_name_that_is_taken_gets_the_content_into_it() -> None:
    assert other_name("a.ftseg", "abcdef0123") == "a.abcdef01.ftseg"


@given(st.text())
def test_any_host_name_is_one_folder(host: str) -> None:
    quoted = quote_part(host)
    assert quoted not in ("", ".", "..")
    assert "/" not in quoted
    assert quoted.isascii()


@given(st.text(), st.text())
def test_different_hosts_are_different_folders(one: str, two: str) -> None:
    assert (quote_part(one) == quote_part(two)) == (one == two)


def test_a_manifest_is_the_same_however_it_came_about() -> None:
    entries = [replace(ENTRY, name=f"{n}.ftseg") for n in "cab"]
    whole = build_manifest(entries)
    grown = b""
    for entry in [*reversed(entries), entries[0]]:
        grown, broken = merge(grown, [entry])
        assert broken == 0
    assert grown == whole
    assert [json.loads(line)["name"] for line in whole.splitlines()] == ["a.ftseg", "b.ftseg", "c.ftseg"]


def test_lines_that_are_none_are_counted_and_stay_as_they_are() -> None:
    """A later version's entry without what this one asks for, and damage: each may be all that somebody has."""
    foreign = b'{"name":"z.ftseg","size":5,"version":2}\n\xff\x85\n[1]\n'
    merged, count = merge(foreign, [ENTRY])
    assert (merged, count) == (build_manifest([ENTRY]) + foreign, 3)
    assert merge(merged + b"[1]\n\n", [ENTRY]) == (merged, 3)


def test_keys_of_a_later_version_stay() -> None:
    line = json.dumps({**json.loads(build_manifest([ENTRY])), "new": 1}).encode() + b"\n"
    assert merge(line, []) == (line, 0)
    assert merge(line, [replace(ENTRY, name="b.ftseg")])[0].startswith(line)
    assert merge(line, [ENTRY]) == (build_manifest([ENTRY]), 0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"endpoint": "http://x"}, "http://x"),
        ({"metadata_endpoint": "http://m", "AWS_Endpoint_URL": "http://x"}, "http://x"),
        ({"azure_storage_endpoint": "http://x"}, "http://x"),
        ({"google_base_url": "http://x"}, "http://x"),
        ({"sts_endpoint": "http://x"}, ""),
        ({}, ""),
    ],
)
def test_the_address_of_a_service_goes_by_several_names(options: dict[str, str], expected: str) -> None:
    settings = {"type": "objectstore", "url": "s3://bucket", "options": options}
    assert endpoint_of(ObjectStoreConfig.model_validate(settings)) == expected


def test_what_a_segment_says_of_itself(tmp_path: Path) -> None:
    path = make_segment(tmp_path, host="web-1")
    with open(path, "rb") as file:
        digest = read_digest(file, 1000)
    entry = read_entry(path, digest, "other")
    assert (entry.host, entry.segment, entry.events, entry.size_bytes) == ("web-1", 0, 200, path.stat().st_size)
    assert entry.instances == {"main": InstancePart("mono", 200, 0, 4019)}
    assert count_events(path) == 200
    assert entry.to_ns is not None
    assert entry.from_ns is not None
    assert entry.to_ns - entry.from_ns == 10**8


def test_a_damaged_segment_has_a_line_too(tmp_path: Path) -> None:
    path = tmp_path / "20261123T000000.000000Z-aaaaaaaa-000000.ftseg"
    path.write_bytes(b"nothing of a segment")
    with open(path, "rb") as file:
        entry = read_entry(path, read_digest(file, 8), "h")
    assert (entry.events, entry.run, entry.host, entry.size_bytes) == (None, "", "h", 20)
    assert count_events(path) == 0


def test_etags_of_whole_objects_and_of_parts() -> None:
    """The values are those that SeaweedFS gives."""
    whole = read_digest(io.BytesIO(b"hello"), 1 << 20)
    assert whole.matches('"5d41402abc4b2a76b9719d911017c592"')
    parts = read_digest(io.BytesIO(b"z" * (12 << 20)), 5 << 20)
    assert parts.matches('"0512cff0afd7ab00341c7a1aed08bf29-3"')
    assert not parts.matches('"0512cff0afd7ab00341c7a1aed08bf29-4"')
    assert not parts.matches(None)


def test_progress_is_read_as_it_was_written(tmp_path: Path) -> None:
    progress = Progress("s3://b", {"f": Uploaded("f", "h/main/d", ENTRY)}, {"h/main/d"})
    write_progress(tmp_path / "p", progress)
    assert read_progress(tmp_path / "p", "s3://b") == (progress, None)
    assert read_progress(tmp_path / "p", "s3://other") == (Progress("s3://other"), None)
    assert read_progress(tmp_path / "none", "s3://b") == (Progress("s3://b"), None)


def test_a_line_goes_with_its_segment_once_the_manifest_has_it() -> None:
    one, two = (Uploaded(name, f"h/main/{name}", ENTRY) for name in "ab")
    progress = Progress("u", {"a": one, "b": two}, {"h/main/b"})
    progress.prune(())
    assert list(progress.uploaded) == ["b"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"{}\n",
        b"[]\n",
        b'{"version": 1}\n',
        with_crc(b'{"version": 2}\n'),
        with_crc(b"[]\n"),
        with_crc(b""),
    ],
)
def test_progress_that_does_not_read_is_set_aside(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError):
        parse_progress(data)
    (tmp_path / "p").write_bytes(data)
    progress, doubt = read_progress(tmp_path / "p", "u")
    assert progress == Progress("u")
    assert "p.bad" in (doubt or "")
    assert (tmp_path / "p.bad").read_bytes() == data
    assert not (tmp_path / "p").exists()


@given(st.binary(max_size=40), st.integers(0, 300))
def test_damaged_progress_is_never_believed(noise: bytes, at: int) -> None:
    data = build_progress(Progress("u", {"f": Uploaded("f", "d", ENTRY)}, {"d"}))
    damaged = data[:at] + noise + data[at + len(noise) :]
    if damaged == data:
        return
    with pytest.raises(ArchiveError):
        parse_progress(damaged)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"url": "http://x/y"}, "s3://, gs:// or az://"),
        ({"url": "s3:///prefix"}, "a bucket behind"),
        ({"url": "file://host/x"}, "a folder behind"),
        ({"url": "s3://key:secret@bucket"}, "no secrets in the url"),
        ({"options": {"secret_access_key": "x"}}, "in secret_options"),
        ({"options": {"aws_session_token": "x"}}, "in secret_options"),
        ({"part_bytes": 1000}, "greater than or equal to 5242880"),
        ({"when_full": "block"}, "no when_full"),
        ({"tls": {"server_name": "x"}}, "no tls.cert_file"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        ObjectStoreConfig.model_validate({"type": "objectstore", "url": "s3://bucket", **settings})


def test_an_access_key_id_is_no_secret() -> None:
    settings = {"type": "objectstore", "url": "s3://b", "options": {"access_key_id": "a", "aws_access_key_id": "a"}}
    assert ObjectStoreConfig.model_validate(settings).options


def test_errors_are_worded_in_a_line() -> None:
    page = (
        "Generic S3 error: Error performing PUT http://x in 1ms - Server returned non-2xx status code: 403 Forbidden: "
    )
    page += (
        "<?xml?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature\n is not</Message></Error>"
    )
    assert explain(ValueError(page)) == "403 Forbidden: SignatureDoesNotMatch: The request signature is not"
    assert explain(ValueError("x\n\nDebug source:\nGeneric { kind: Timeout }")) == "no answer in time"
    assert "UnknownIssuer" in explain(ValueError("InvalidCertificate(\n   UnknownIssuer,\n )"))
    assert explain(ValueError('Os { message: "Connection refused" }')) == "Connection refused"
    assert explain(ValueError("plain\n\nDebug source:\n")) == "plain"
