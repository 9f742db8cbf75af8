"""Records whose checksums hold, with content that nobody of ours sends: refused for themselves, or read by all."""

import random
from contextlib import closing
from pathlib import Path

import pytest

from collector.archive.fields import pack
from collector.archive.frame import Kind
from collector.archive.objects import build_object
from collector.errors import SegmentError
from sinks.contract.base import Parcel
from sinks.stream.host import HostArchive, MalformedError
from sinks.stream.policy import HostPolicy
from sinks.wire.messages import WireRecord, parse_parcel
from tests.archive.hostile import BODIES, CASES, WRONG, kinds_of_bodies, make_hostile, read_all, run

POLICY = HostPolicy(min_free_bytes=0)


def take(folder: Path, bodies: list[tuple[int, bytes]]) -> int:
    """Gives how many were refused."""
    refused = 0
    with closing(HostArchive(folder, POLICY)) as archive:
        for kind, body in bodies:
            try:
                archive.take([parse_parcel(WireRecord(kind, memoryview(body)))])
            except SegmentError:
                refused += 1
    return refused


@pytest.mark.parametrize("kind", kinds_of_bodies())
def test_what_is_taken_is_read(kind: str, tmp_path: Path) -> None:
    for seed in range(CASES):
        rng = random.Random(f"{kind}, {seed}, sent")
        take(tmp_path / str(seed), make_hostile(rng, rng.choice(kinds_of_bodies()[kind])))
        read_all(tmp_path / str(seed), f"{kind}, seed {seed}")


@pytest.mark.parametrize(("kind", "value"), WRONG)
def test_names_of_a_wrong_type_are_refused_and_cost_themselves(kind: str, value: object, tmp_path: Path) -> None:
    body = build_object(kind, value)[1]
    assert take(tmp_path, [BODIES[0], (Kind.OBJECT, body), *BODIES[1:]]) == 1
    code, out, _ = run("show", tmp_path)
    assert (code, out.count(b"\n") > 50) == (0, True)


def test_an_object_larger_than_any_of_ours_is_refused(tmp_path: Path) -> None:
    body = build_object("printk", {1: "x" * (6 << 20)})[1]
    with closing(HostArchive(tmp_path, POLICY)) as archive:
        archive.take([parse_parcel(WireRecord(*BODIES[0][:1], memoryview(BODIES[0][1])))])
        with pytest.raises(MalformedError, match="object printk that is too large"):
            archive.take([Parcel(Kind.OBJECT, body, b"")])


def test_objects_of_a_later_version_are_taken(tmp_path: Path) -> None:
    body = build_object("later", {1: [pack(None)]})[1]
    assert take(tmp_path, [BODIES[0], (Kind.OBJECT, body), *BODIES[1:]]) == 0
