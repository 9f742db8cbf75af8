"""A whole made kernel: an event of each kind of declaration, entries of them, and the recording that holds these."""

import ipaddress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random

from tests import reference
from tests.kernels.formats import MadeFormat, Shape, make_formats
from tests.kernels.generation import HEAD, RHEL_HEAD, RT_HEAD, Generation, HeadField
from tests.kernels.pages import Writer, build_body, header_event, header_page

TGID_HEAD = (*HEAD, HeadField("common_tgid", "int", 8, 4, True))
ODD_HEAD = (
    *HEAD,
    HeadField("common_lock_depth", "int", 8, 4, True),
    HeadField("common_padding", "unsigned short", 12, 2, False),
    HeadField("common_migrate_disable", "unsigned char", 14, 1, False),
)

GENERATIONS = {
    of.name: of
    for of in (
        Generation("today", "6.18.0"),
        Generation("arm64", "5.10.0", machine="aarch64"),
        Generation("i686", "4.13.9", machine="i686", word_size=4, has_time_stamp=False),
        Generation("arm", "4.4.0", machine="armv7l", word_size=4, has_time_stamp=False),
        Generation("rhel9", "5.14.0-427.el9", head=RHEL_HEAD),
        Generation("rt", "5.15.0-rt17", head=RT_HEAD),
        Generation("rt-i686", "6.1.0-rt5", machine="i686", word_size=4, head=RT_HEAD),
        Generation("tgid", "4.9.0-android", machine="aarch64", head=TGID_HEAD, has_time_stamp=False),
        Generation("odd", "3.10.0", head=ODD_HEAD, has_time_stamp=False),
    )
}
BIG_ENDIAN = {
    of.name: of
    for of in (
        Generation("s390x", "6.1.0", machine="s390x", byte_order="big"),
        Generation("ppc", "4.13.9", machine="ppc", word_size=4, byte_order="big", has_time_stamp=False, head=RHEL_HEAD),
    )
}
ENTRIES = 4  # of each event
COMM = b"caf\xe9\\x"  # the name of thread 1
UNKNOWN_ID = 9999  # of records that no format describes

TEXTS = [b"", b"a", b"plain text", b"/no/such/file", "n\u00e4me \u20ac \U0001f600".encode(), b"back\\slash",
         b'"quoted" \t\x01\x7f', b"caf\xe9", b"\xff\xfe\\x", b"\xed\xa0\x80", b"\xe2\x82", b"a\xc3",
         b"\xf4\x90\x80\x80z", b"%d %s", b"100%"]  # fmt: skip


@dataclass(frozen=True)
class MadeEntry:
    """An entry as it was written."""

    ts: int
    cpu: int
    head: dict[str, int]  # the common fields but the type
    made: MadeFormat | None  # None: of an id that has no format
    contents: dict[str, list[bytes]] = field(default_factory=dict)
    record: bytes = b""


@dataclass
class MadeKernel:
    """What one generation of kernels could have recorded."""

    generation: Generation
    seed: int
    formats: list[MadeFormat]
    writers: list[Writer]
    entries: list[MadeEntry]  # by time

    @cached_property
    def layout(self) -> reference.Layout:
        return reference.read_layout(self.header_page, self.generation.byte_order)

    @property
    def header_page(self) -> str:
        return header_page(self.generation, data_offset=self.writers[0].data_offset)

    @cached_property
    def slow_formats(self) -> dict[int, reference.Format]:
        word = self.layout.commit_size
        return {f.id: reference.read_format(f.system, f.text, word) for f in self.formats}

    def decode(self, cpu: int) -> reference.Decoded:
        """What the slow decoder reads."""
        return reference.decode_pages(b"".join(self.writers[cpu].pages), self.layout, self.slow_formats)

    def of_cpu(self, cpu: int) -> list[MadeEntry]:
        return [e for e in self.entries if e.cpu == cpu]

    def write(self, case: Path) -> Path:
        """The recording, as `run --replay` takes it."""
        files = {
            "events/header_page": self.header_page,
            "events/header_event": header_event(self.generation),
            "trace_clock": "local [mono]\n",
            "current_tracer": "nop\n",
            "printk_formats": "",
            **{f"events/{f.system}/{f.name}/format": f.text for f in self.formats},
        }
        for name, text in files.items():
            path = case / "tracefs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (case / "tracefs/saved_cmdlines").write_bytes(b"1 %s\n" % COMM)
        for cpu, writer in enumerate(self.writers):
            folder = case / f"tracefs/per_cpu/cpu{cpu}"
            folder.mkdir(parents=True)
            (folder / "trace_pipe_raw").write_bytes(b"".join(writer.pages))
        of = self.generation
        (case / "uname").write_text(f"Linux {of.release} #1 SMP {of.machine}\n")
        return case


def make_kernel(generation: Generation, seed: int) -> MadeKernel:
    random = Random(f"{generation.name} {seed}")
    formats = make_formats(generation, random)
    aligned = generation.word_size == 4 and seed % 2 == 1  # as machines have it that want longs of 8 bytes aligned
    writers = [Writer(generation, random, data_offset=16 if aligned else None) for _ in range(2)]
    todo: list[MadeFormat | None] = [*formats * ENTRIES, None, None]
    random.shuffle(todo)
    ts, entries = random.choice((10**9, 1 << 58, 1_700_000_000_000_000_000)), []
    for made in todo:
        cpu = random.randrange(2)
        ts += random.choice((1, 2, 500, 10**6, (1 << 27) + 5, 1 << 34))
        head = {f.name: draw_integer(random, f.size, f.signed) for f in generation.head if f.name != "common_type"}
        writer = writers[cpu]
        if random.random() < 0.03:
            writer.lose(random.choice((None, 1, 77, 1 << 31)))
        if made is None:
            record = writer.record(UNKNOWN_ID, random.randbytes(12), head)
            entry = MadeEntry(ts, cpu, head, None, record=record.ljust(-(-len(record) // 4) * 4, b"\0"))
        else:
            contents = {f.name: draw_contents(random, f.shape, generation) for f in made.fields}
            body, contents = build_body(writer, made, contents, random.choice((0, 0xAA)))
            record = writer.record(made.id, body, head)
            entry = MadeEntry(ts, cpu, head, made, contents, record)
        writer.add(ts, record)
        entries.append(entry)
    for writer in writers:
        writer.end_page()
    return MadeKernel(generation, seed, formats, writers, entries)


def draw_integer(random: Random, size: int, signed: bool) -> int:
    low = -(1 << 8 * size - 1) if signed else 0
    high = low + (1 << 8 * size) - 1
    return random.choice((0, 1, low, high, random.randint(low, high)))


def draw_contents(random: Random, shape: Shape, generation: Generation) -> list[bytes]:
    """The bytes of a field; of an array of strings those of each."""
    if shape.means in ("stack", "counted"):
        return [draw_stack(random, shape, generation)]
    if shape.means == "text":
        return [draw_text(random, shape) for _ in range(shape.strings or 1)]
    if shape.place == "fixed":
        size = shape.size
    elif random.random() < 0.1:
        size = random.randint(0, 9)  # a location says any length, whole elements or not
    else:
        size = shape.element * random.randint(0, 5)
    fill = random.choice((b"\0", b"\xff", b""))
    content = fill * size if fill else random.randbytes(size)
    if shape.means == "bytes" and size > 2 and random.random() < 0.5:
        content = content[0:1] + b"\0" + content[2:]  # what a string would be cut at
    if shape.means in ("ipv4", "ipv6") and random.random() < 0.5:
        content = ipaddress.ip_address("127.0.0.1" if size == 4 else "::1").packed
    return [content]


def draw_stack(random: Random, shape: Shape, generation: Generation) -> bytes:
    """Frames of a stack: no address of code is near zero."""
    word = shape.element
    frames = [random.randint(1 << 8 * word - 1, (1 << 8 * word) - 1) for _ in range(random.randint(0, 6))]
    words = [len(frames), *frames, *[0] * random.randint(0, 2)] if shape.means == "counted" else frames
    return b"".join(v.to_bytes(word, generation.byte_order) for v in words)


def draw_text(random: Random, shape: Shape) -> bytes:
    text = random.choice(TEXTS)
    if shape.place != "fixed":
        return random.choice((b"", b"\0", text, text + b"\0", text + b"\0more"))
    room = shape.size
    return random.choice((text[:room].ljust(room, b"\0"), (text + b"\0" + b"old memory" * 7)[:room], (b"x" * room)))
