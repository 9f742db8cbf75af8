"""What somebody needs who comes in the middle: the last HEADER, and the OBJECTs behind it. Pure."""

from collections.abc import Sequence

from collector.archive.frame import Kind
from collector.archive.objects import object_key
from sinks.contract.base import Parcel


class Preamble:
    """Each object once, in the order of their last coming."""

    def __init__(self) -> None:
        self._header: Parcel | None = None
        self._objects: dict[bytes, Parcel] = {}  # {id: parcel}

    @property
    def parcels(self) -> Sequence[Parcel]:
        """As of now; empty without a header, for nothing can be read then."""
        return () if self._header is None else (self._header, *self._objects.values())

    def add(self, parcel: Parcel) -> None:
        """Take the next parcel; most are passed over."""
        if parcel.kind == Kind.HEADER:
            self._header = parcel
            self._objects.clear()
        elif parcel.kind == Kind.OBJECT:
            key = object_key(parcel.body)
            self._objects.pop(key, None)
            self._objects[key] = parcel

    def forget(self, parcel: Parcel) -> None:
        """Leave one out from now on; with a header goes what stands behind it."""
        if parcel.kind == Kind.HEADER:
            self._header = None
            self._objects.clear()
        else:
            self._objects.pop(object_key(parcel.body), None)
