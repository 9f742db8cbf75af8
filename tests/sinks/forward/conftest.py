"""Parcels to send, and certificates."""

import pytest

from sinks.contract.base import Parcel
from tests.sinks.forward.rig import Certificates, make_certificates
from tests.sinks.made import make_segment
from tests.sinks.parcels import parcels_of


@pytest.fixture(scope="session")
def parcels(tmp_path_factory: pytest.TempPathFactory) -> list[Parcel]:
    """Header, objects and 10 blocks of 20 entries."""
    return parcels_of(make_segment(tmp_path_factory.mktemp("forward")))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))
