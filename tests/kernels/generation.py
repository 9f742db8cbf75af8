"""What a kernel's tracefs is made of, as far as it differs from another's."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class HeadField:
    """One field of the head that all records share."""

    name: str
    type: str  # as the format file prints it
    offset: int  # bytes
    size: int  # bytes
    signed: bool


HEAD = (
    HeadField("common_type", "unsigned short", 0, 2, False),
    HeadField("common_flags", "unsigned char", 2, 1, False),
    HeadField("common_preempt_count", "unsigned char", 3, 1, False),
    HeadField("common_pid", "int", 4, 4, True),
)
RHEL_HEAD = (*HEAD, HeadField("common_preempt_lazy_count", "unsigned char", 8, 1, False))
RT_HEAD = (*HEAD, HeadField("common_migrate_disable", "unsigned char", 8, 1, False),
           HeadField("common_preempt_lazy_count", "unsigned char", 9, 1, False))  # fmt: skip


@dataclass(frozen=True)
class TextColumns:
    """The columns of `trace` and `trace_pipe`."""

    flags: tuple[str, ...] = ("irqs-off", "need-resched", "hardirq/softirq", "preempt-depth", "migrate-disable")
    pid_width: int = 7  # digits that the column has room for
    tgid_width: int = 7


@dataclass(frozen=True)
class Generation:
    """One kind of kernel."""

    name: str
    release: str  # as in uname -r
    machine: str = "x86_64"  # as in uname -m
    word_size: int = 8  # bytes of a long
    byte_order: Literal["little", "big"] = "little"
    head: tuple[HeadField, ...] = HEAD
    has_time_stamp: bool = True  # header_event has the line, since 4.17
    text: TextColumns = field(default_factory=TextColumns)
    absent: frozenset[str] = frozenset()  # files of tracefs that this kernel does not have, relative to its top
