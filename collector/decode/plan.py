"""From the kernel's format files to what the decoder does with each event: pure values. Pure.

A plan names the columns of an event in the order of their offsets. Four fields of the
common head (type, flags, preempt count, pid) are kept for every entry alike, apart from
these, in `CommonHead`; what else a kernel has in its head is a column of each event.
"""

from dataclasses import dataclass

from collector.errors import TracefsFormatError
from collector.tracefs.formats import HEAD_FIELDS, EventFormat, Field
from collector.tracefs.meaning import ADDRESSES, FieldKind, field_kinds

# Classes of columns; the numbers are shared with ring.pxd.
CLASS_INT = 0
CLASS_CHARS = 1
CLASS_DATA_LOC = 2
CLASS_REL_LOC = 3
CLASS_TAIL = 4
CLASS_NUMBERS = {
    "int": CLASS_INT,
    "chars": CLASS_CHARS,
    "data_loc": CLASS_DATA_LOC,
    "rel_loc": CLASS_REL_LOC,
    "tail": CLASS_TAIL,
}  # {class name: number}

LOC_SIZE = 4  # bytes of a __data_loc or __rel_loc word in the record


@dataclass(frozen=True, slots=True)
class Column:
    """One field of an event."""

    name: str
    cls: str  # a key of CLASS_NUMBERS
    offset: int  # bytes from the record's start
    size: int  # bytes of one element; of all for "chars"
    signed: bool
    count: int  # elements of an "int" array, 1 for a scalar
    kind: FieldKind  # what its values mean

    @property
    def is_address(self) -> bool:
        """Holds addresses of kernel code, or of strings that printk_formats lists."""
        return self.kind in ADDRESSES

    @property
    def number(self) -> int:
        """The class as the decoder knows it."""
        return CLASS_NUMBERS[self.cls]

    def spec(self) -> list[object]:
        """The column as a format object of a segment lists it."""
        return [self.name, self.cls, self.size, self.signed, self.count]


@dataclass(frozen=True, slots=True)
class EventPlan:
    """How one event's records are laid out."""

    event_id: int
    system: str
    name: str
    text: str  # the format file, "" when the kernel has none for this id
    columns: tuple[Column, ...]
    fixed_size: int  # bytes up to the end of the last field of fixed size
    word_size: int = 8  # bytes of the kernel's long
    doubts: tuple[str, ...] = ()  # where the format contradicts itself, and what of it was believed

    @property
    def is_known(self) -> bool:
        """False: the id has no format, its records are kept as bytes."""
        return bool(self.text)

    def format_object(self) -> dict[str, object]:
        """The value of this event's format object in a segment."""
        return {
            "id": self.event_id,
            "system": self.system,
            "name": self.name,
            "columns": [c.spec() for c in self.columns],
            "text": self.text,
            "kinds": [c.kind for c in self.columns],
            "word": self.word_size,
            **({"doubts": list(self.doubts)} if self.doubts else {}),
        }


@dataclass(frozen=True, slots=True)
class CommonHead:
    """Offsets of the fields that start every record, in bytes; read from any format file."""

    type_offset: int = 0
    flags_offset: int = 2
    preempt_offset: int = 3
    pid_offset: int = 4
    size: int = 8


_COMMON = dict(zip(HEAD_FIELDS, (2, 1, 1, 4), strict=True))  # {common field: bytes it must have}


def common_head(event: EventFormat) -> CommonHead:
    """The common head as this format file describes it.

    Raises:
      TracefsFormatError: a common field is missing or has another size.
    """
    offsets = {}
    for name, size in _COMMON.items():
        field = next((f for f in event.fields if f.name == name), None)
        if field is None or field.size != size:
            raise TracefsFormatError(
                f"field {name} is not usable",
                where=f"events/{event.system}/{event.name}/format",
                expected=f"{size} bytes",
                got="none" if field is None else f"{field.size} bytes",
            )
        offsets[name] = field.offset
    end = max(f.offset + f.size for f in event.fields if f.common)
    return CommonHead(
        offsets["common_type"],
        offsets["common_flags"],
        offsets["common_preempt_count"],
        offsets["common_pid"],
        end,
    )


def build_event_plan(event: EventFormat) -> EventPlan:
    """The plan of an event with a format."""
    columns = tuple(_column(f, kind) for f, kind in zip(event.columns, field_kinds(event), strict=True))
    fixed = max((f.offset + _fixed_bytes(f) for f in event.fields), default=0)
    return EventPlan(event.id, event.system, event.name, event.text, columns, fixed, event.word_size, event.doubts)


def build_unknown_plan(event_id: int) -> EventPlan:
    """The plan of an id that no format file describes: its records stay bytes."""
    return EventPlan(event_id, "unknown", f"event_{event_id}", "", (), 0)


def _column(field: Field, kind: FieldKind) -> Column:
    return Column(field.name, field.cls, field.offset, field.element_size, field.signed, field.count, kind)


def _fixed_bytes(field: Field) -> int:
    if field.cls == "tail":
        return 0
    return LOC_SIZE if field.cls in ("data_loc", "rel_loc") else field.size
