"""Format files with every kind of field declaration that the kernel's printers of fields can write.

What a field means stands beside its declaration, as its author knows it: nothing here reads a declaration.

Source: kernel/trace/trace_events.c, f_show(): a type with a dimension is printed around the name, one that begins with
`__data_loc` as it is; include/trace/stages/stage4_event_fields.h; kernel/trace/trace_probe.c,
traceprobe_define_arg_fields(); trace_events_synth.c, synth_event_define_fields(); trace_events_user.c;
trace_syscalls.c, syscall_enter_define_fields(): a word for each argument, whatever its type.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from tests.kernels.generation import Generation

Place = Literal["fixed", "data_loc", "rel_loc", "tail"]
# mac, ipv4 and ipv6 are bytes with a name; counted is a stack with its number of frames before them, and zeros behind.
Means = Literal["number", "numbers", "stack", "counted", "text", "bytes", "mac", "ipv4", "ipv6"]


@dataclass(frozen=True)
class Shape:
    """One way to declare a field, and what it means."""

    declaration: str  # with {name}
    size: int  # bytes, as the format file says
    signed: bool
    means: Means
    element: int = 1  # bytes
    place: Place = "fixed"
    printed: str = ""  # "CONVERSION|ARGUMENT" in the print fmt, with {name}; "": not printed
    strings: int = 0  # of an array of strings: how many
    takes: int | None = None  # bytes of the record, where they are more than the size
    name: str = ""  # where the declaration has a name of its own


@dataclass(frozen=True)
class MadeField:
    """A shape with a name, at its place in a record."""

    name: str
    shape: Shape
    offset: int

    @property
    def line(self) -> str:
        """As the format file prints it."""
        decl = self.shape.declaration.format(name=self.name)
        return f"\tfield:{decl};\toffset:{self.offset};\tsize:{self.shape.size};\tsigned:{self.shape.signed:d};\n"


@dataclass(frozen=True)
class MadeFormat:
    """One event."""

    id: int
    system: str
    name: str
    fields: tuple[MadeField, ...]
    text: str  # the format file


def all_shapes(word: int) -> list[Shape]:
    """Every declaration, of a kernel whose long has so many bytes."""
    return [*_scalars(word), *_texts(word), *_bytes(), *_arrays(word), *_located(word), *_probes(), *_synthetic(word)]


def tails(word: int) -> list[Shape]:
    """Fields that run to the record's end: the last of their event."""
    return [
        Shape("char {name}[]", 0, False, "text", place="tail", printed="%s|REC->{name}"),
        Shape("char {name}[]", 0, True, "text", place="tail"),
        Shape("u8 {name}[]", 0, False, "bytes", place="tail", printed="%s|__print_hex(REC->{name}, 4)"),
        Shape("unsigned char {name}[]", 0, False, "bytes", place="tail"),
        Shape("u32 {name}[]", 0, False, "numbers", 4, place="tail"),
        Shape("unsigned long {name}[]", 0, False, "numbers", word, place="tail"),
        Shape("__u64 {name}[]", 0, False, "numbers", 8, place="tail"),
    ]


_ONE_BYTE = [("u8", 0), ("__u8", 0), ("unsigned char", 0), ("uint8_t", 0), ("char", 0), ("char", 1), ("bool", 0),
             ("s8", 1), ("signed char", 1), ("int8_t", 1), ("enum xfs_group_type", 0), ("xfs_dqtype_t", 0)]  # fmt: skip
_TWO_BYTES = [("u16", 0), ("s16", 1), ("short", 1), ("unsigned short", 0), ("umode_t", 0), ("__be16", 0), ("__u16", 0),
              ("uint16_t", 0)]  # fmt: skip
_FOUR_BYTES = [("int", 1), ("unsigned", 0), ("unsigned int", 0), ("u32", 0), ("s32", 1), ("pid_t", 1), ("dev_t", 0),
               ("gfp_t", 0), ("enum zone_type", 0), ("__be32", 0), ("uint32_t", 0), ("const int", 1), ("uint", 0),
               ("xfs_extlen_t", 0)]  # fmt: skip
_EIGHT_BYTES = [("u64", 0), ("s64", 1), ("long long", 1), ("unsigned long long", 0), ("loff_t", 1), ("sector_t", 0),
                ("__u64", 0), ("int64_t", 1), ("time64_t", 1), ("xfs_ino_t", 0)]  # fmt: skip
_WORDS = [("unsigned long", 0), ("long", 1), ("size_t", 0), ("ssize_t", 1), ("void *", 0), ("const char *", 0),
          ("struct sock *", 0), ("const struct __kernel_timespec *", 0), ("fl_owner_t", 0), ("ino_t", 0),
          ("const char *const *", 0), ("const void*", 0)]  # fmt: skip
_OF_A_SYSTEM_CALL = [
    ("int", 0),
    ("unsigned int", 0),
    ("umode_t", 0),
    ("pid_t", 0),
    ("long", 0),
    ("u32", 0),
]  # size: a word


def _scalars(word: int) -> list[Shape]:
    found = []
    for size, types in ((1, _ONE_BYTE), (2, _TWO_BYTES), (4, _FOUR_BYTES), (8, _EIGHT_BYTES), (word, _WORDS),
                        (word, _OF_A_SYSTEM_CALL)):  # fmt: skip
        for number, (kind, signed) in enumerate(types):
            printed = ("%d|REC->{name}", "", "0x%llx|(unsigned long long)REC->{name}")[number % 3]
            found.append(Shape(f"{kind} {{name}}", size, bool(signed), "number", size, printed=printed))
    found += [
        Shape("unsigned int {name}", 4, False, "number", 4,
              printed='%s|__print_flags(REC->{name}, "|", {{ 0x1, "ONE" }}, {{ 0x2, "TWO" }})'),
        Shape("u8 {name}", 1, False, "number", 1,
              printed='%s|__print_symbolic(REC->{name}, {{ 0, "A" }}, {{ 1, "B" }})'),
        Shape("unsigned long {name}", word, False, "number", word, printed="%pS|(void *)REC->{name}"),
        Shape("void * {name}", word, False, "number", word, printed="%ps|REC->{name}"),
    ]  # fmt: skip
    return found


def _texts(word: int) -> list[Shape]:
    """Arrays of fixed size that are text: by the type, or because the event prints them so."""
    by_s = "%s|REC->{name}"
    return [
        Shape("char {name}[16]", 16, False, "text", printed=by_s),
        Shape("char {name}[16]", 16, True, "text", printed=by_s),
        Shape("char {name}[32]", 32, False, "text"),
        Shape("char {name}[10]", 10, True, "text", printed=by_s),
        Shape("char {name}[1]", 1, False, "text", printed=by_s),
        Shape("char {name}[TASK_COMM_LEN]", 16, True, "text", printed=by_s),  # 5.17: an enumerator, not yet a number
        Shape("char {name}[(4 * 4)]", 16, False, "text", printed=by_s),
        Shape("const char {name}[8]", 8, False, "text", printed=by_s),
        Shape("char {name}[32]", 64, False, "text", printed=by_s),  # the two disagree: the type decides
        Shape("char {name}[32]", 64, True, "text"),
        Shape("char {name}[16]", 8, False, "text", printed=by_s),
        Shape("u8 {name}[12]", 12, False, "text", printed=by_s),
        Shape("unsigned char {name}[16]", 16, False, "text", printed="%-16s|REC->{name}"),
        Shape("__u8 {name}[8]", 8, False, "text", printed="%.*s|(int)sizeof(REC->{name}), REC->{name}"),
        Shape("char {name}[20]", 20, word == 4, "text", printed="%s|(char *)REC->{name}"),
    ]


def _bytes() -> list[Shape]:
    """Arrays of fixed size that are bytes: by the type, or because the event prints nothing else of them."""
    return [
        Shape("__u8 {name}[4]", 4, False, "ipv4", printed="%pI4|REC->{name}", name="saddr"),
        Shape("__u8 {name}[4]", 4, False, "ipv4", printed="%pI4|REC->{name}", name="daddr"),
        Shape("__u8 {name}[16]", 16, False, "ipv6", printed="%pI6c|REC->{name}", name="saddr_v6"),
        Shape("__u8 {name}[16]", 16, False, "ipv6", printed="%pI6c|REC->{name}", name="daddr_v6"),
        Shape("u8 {name}[6]", 6, False, "mac", printed="%pM|REC->{name}", name="addr"),
        Shape("unsigned char {name}[6]", 6, False, "mac", printed="%pM|REC->{name}"),
        Shape("char {name}[6]", 6, False, "mac", printed="%pM|REC->{name}"),
        Shape("char {name}[4]", 4, True, "ipv4", printed="%pI4|REC->{name}"),
        Shape("char {name}[16]", 16, False, "bytes", printed="%pU|REC->{name}"),
        Shape("char {name}[8]", 8, True, "bytes", printed="%*ph|8, REC->{name}"),
        Shape("char {name}[8]", 8, False, "bytes", printed="%s|__print_hex(REC->{name}, 8)"),
        Shape("uint8_t {name}[16]", 16, False, "bytes", printed="%pU|REC->{name}"),
        Shape("__u8 {name}[28]", 28, False, "bytes", printed="%pISpc|REC->{name}"),
        Shape("u8 {name}[5]", 5, False, "bytes", printed="%s|__print_hex(REC->{name}, 5)"),
        Shape("u8 {name}[8]", 8, False, "bytes", printed="%s|__print_array(REC->{name}, 8, 1)"),
        Shape("u8 {name}[32]", 32, False, "bytes"),
        Shape("unsigned char {name}[3]", 3, False, "bytes"),
        Shape("bool {name}[4]", 4, False, "bytes"),
        Shape("u8 {name}[16]", 32, False, "bytes"),  # the two disagree: the type decides
        Shape("u8 {name}[MAX_LEN]", 8, False, "bytes"),
        Shape("struct in6_addr {name}", 16, False, "bytes"),
        Shape("struct timespec {name}", 12, False, "bytes"),
        Shape("struct packed {name}", 3, False, "bytes"),
        Shape("union bpf_attr {name}", 20, False, "bytes"),
        Shape("struct in_addr {name}", 4, False, "bytes"),
        Shape("struct timespec64 {name}[2]", 32, False, "bytes"),
        Shape("const struct pair {name}", 8, False, "bytes"),
        Shape("union one {name}", 1, False, "bytes"),
    ]


def _arrays(word: int) -> list[Shape]:
    found = [
        Shape(f"{kind} {{name}}[{count}]", size * count, bool(signed), "numbers", size)
        for size, kind, signed, count in (
            (2, "u16", 0, 3), (2, "s16", 1, 2), (2, "__be16", 0, 8), (4, "u32", 0, 3), (4, "int", 1, 2),
            (4, "__be32", 0, 4), (4, "unsigned int", 0, 10), (8, "u64", 0, 2), (8, "s64", 1, 3), (word, "long", 1, 2),
            (word, "unsigned long", 0, 6), (word, "void *", 0, 2), (4, "enum zone_type", 0, 3),
            (4, "xfs_agino_t", 0, 2),
        )
    ]  # fmt: skip
    return [
        *found,
        Shape("unsigned long {name}[4]", 4 * word, False, "numbers", word, printed="%pS|(void *)REC->{name}[0]"),
        Shape("s8 {name}[3]", 3, True, "numbers", 1),
        Shape("int8_t {name}[4]", 4, True, "numbers", 1),
        Shape("u32 {name}[2 + 1]", 12, False, "numbers", 4),
        Shape("unsigned long {name}[NR_ARGS]", 6 * word, False, "numbers", word),
        Shape("u16 {name}[4]", 16, False, "numbers", 2),  # the two disagree: the type decides
        Shape("u32 {name}[4]", 16, False, "numbers", 4, printed="%s|__print_array(REC->{name}, 4, 4)"),
    ]


def _located(word: int) -> list[Shape]:
    by_str = "%s|__get_str({name})"
    by_hex = "%s|__print_hex(__get_dynamic_array({name}), __get_dynamic_array_len({name}))"
    data = [
        ("char", 0, "text", 1, by_str), ("char", 1, "text", 1, by_str), ("char", 0, "text", 1, ""),
        ("u8", 0, "bytes", 1, by_hex), ("__u8", 0, "bytes", 1, ""), ("unsigned char", 0, "bytes", 1, by_hex),
        ("uint8_t", 0, "bytes", 1, ""), ("u8", 0, "text", 1, by_str),
        ("unsigned char", 0, "text", 1, "%s|(char *)__get_dynamic_array({name})"), ("u16", 0, "numbers", 2, ""),
        ("u32", 0, "numbers", 4, "%s|__print_array(__get_dynamic_array({name}), 2, 4)"), ("s32", 1, "numbers", 4, ""),
        ("s8", 1, "numbers", 1, ""),
        ("unsigned int", 0, "numbers", 4, ""), ("u64", 0, "numbers", 8, ""), ("s64", 1, "numbers", 8, ""),
        ("unsigned long", 0, "numbers", word, "%s|__get_bitmask({name})"), ("unsigned long", 0, "numbers", word, ""),
        ("unsigned long", 0, "stack", word, "%s|__get_stacktrace({name})"), ("long", 1, "numbers", word, ""),
    ]  # fmt: skip
    found = []
    for kind, signed, means, size, printed in data:
        found.append(Shape(f"__data_loc {kind}[] {{name}}", 4, bool(signed), means, size, "data_loc", printed))  # type: ignore[arg-type]
        rel = printed.replace("__get_", "__get_rel_")
        # f_show() takes a __rel_loc for any other type with brackets.
        found.append(Shape(f"__rel_loc {kind} {{name}}[]", 4, bool(signed), means, size, "rel_loc", rel))  # type: ignore[arg-type]
    return [
        *found,
        Shape("__rel_loc char[] {name}", 4, False, "text", 1, "rel_loc", "%s|__get_rel_str({name})"),
        Shape("__data_loc cpumask_t {name}", 4, False, "numbers", word, "data_loc", "%s|__get_cpumask({name})"),
        Shape("__data_loc cpumask_t[] {name}", 4, False, "numbers", word, "data_loc", "%s|__get_cpumask({name})"),
        Shape("__rel_loc cpumask_t {name}", 4, False, "numbers", word, "rel_loc", "%s|__get_rel_cpumask({name})"),
    ]


def _probes() -> list[Shape]:
    """6.1 and others print `[]` for any array of a probe, newer ones its dimension."""
    by_str = '\\"%s\\"|__get_str({name})'
    return [
        Shape("__data_loc char[][3] {name}", 12, True, "text", 1, "data_loc", strings=3),
        Shape("__data_loc char[][2] {name}", 8, False, "text", 1, "data_loc", strings=2),
        Shape("__data_loc char[][1] {name}", 4, True, "text", 1, "data_loc", strings=1),
        Shape("__data_loc char[] {name}", 4, True, "text", 1, "data_loc", by_str),
        Shape("x8 {name}[5]", 5, False, "bytes"),
        Shape("u8 {name}[]", 5, False, "bytes", printed="0x%x|REC->{name}[0]"),
        Shape("u32 {name}[]", 12, False, "numbers", 4, printed="0x%x,0x%x|REC->{name}[0], REC->{name}[1]"),
        Shape("x32 {name}[3]", 12, False, "numbers", 4),
        Shape("x64 {name}[2]", 16, False, "numbers", 8),
        Shape("s16 {name}[]", 6, True, "numbers", 2),
        Shape("x16 {name}", 2, False, "number", 2, printed="0x%x|REC->{name}"),
        Shape("char {name}[4]", 4, True, "text", printed="'%c'|REC->{name}[0]"),
    ]


def _synthetic(word: int) -> list[Shape]:
    """Each field of a synthetic event takes slots of 8 bytes; a location says that it has all of its slot."""
    return [
        Shape("pid_t {name}", 4, True, "number", 4, printed="%d|REC->{name}", takes=8),
        Shape("bool {name}", 1, False, "number", 1, printed="%d|REC->{name}", takes=8),
        Shape("char {name}[]", 16, True, "text", printed="%s|REC->{name}", takes=256),
        Shape("__data_loc char[] {name}", 8, True, "text", 1, "data_loc", "%s|__get_str({name})", takes=8),
        Shape(
            "__data_loc unsigned long[] {name}",
            8,
            True,
            "counted",
            word,
            "data_loc",
            "%s|__get_stacktrace({name})",
            takes=8,
        ),
    ]


_NAMES = ("pid", "comm", "cpu", "ts", "flags", "event", "name", "fields", "buf", "prev_comm", "raw", "len", "symbols")


def make_formats(generation: Generation, random: Random, first_id: int = 300) -> list[MadeFormat]:
    """Events in which each shape of this generation stands once, in random company."""
    word = generation.word_size
    shapes = all_shapes(word)
    random.shuffle(shapes)
    formats = []
    while shapes:
        some = [shapes.pop() for _ in range(min(random.randint(1, 5), len(shapes)))]
        formats.append(make_format(generation, random, first_id + len(formats), some))
    fixed = [shape for shape in all_shapes(word) if shape.place == "fixed"]
    for shape in tails(word):
        some = [*random.sample(fixed, random.randint(0, 2)), shape]
        formats.append(make_format(generation, random, first_id + len(formats), some))
    return [*formats, *_internal(generation, random)]


def _internal(generation: Generation, random: Random) -> list[MadeFormat]:
    """Records of tracers and markers, of which the format does not say all."""
    word = generation.word_size
    ip = Shape("unsigned long {name}", word, False, "number", word, printed="%ps|(void *)REC->{name}", name="ip")
    size = Shape("int {name}", 4, True, "number", 4, name="size")
    # The format says 8 of them, the record has as many as there were.
    caller = Shape("unsigned long {name}[8]", 8 * word, False, "stack", word, "tail", name="caller")
    text = Shape("char {name}[]", 0, True, "text", place="tail", printed="%s|REC->{name}", name="buf")
    number = Shape("unsigned int {name}", 4, False, "number", 4, printed="%04x|REC->{name}", name="id")
    # Declared as char, and whatever user space wrote.
    raw = Shape("char {name}[]", 0, False, "bytes", place="tail", printed="%08x|(int)REC->{name}[0]", name="buf")
    of = {4: ("kernel_stack", size, caller), 5: ("print", ip, text), 19: ("raw_data", number, raw)}
    return [
        make_format(generation, random, event_id, shapes, ("ftrace", name)) for event_id, (name, *shapes) in of.items()
    ]


def make_format(
    generation: Generation, random: Random, event_id: int, shapes: Sequence[Shape], names: tuple[str, str] | None = None
) -> MadeFormat:
    """An event with fields of these shapes, one behind the other as the kernel's structs have them.

    Args:
      names: of the system and the event.
    """
    at = max(f.offset + f.size for f in generation.head)
    fields: list[MadeField] = []
    used: set[str] = set()
    conversions, arguments = [], []
    for number, shape in enumerate(shapes):
        name = shape.name or random.choice(_NAMES)
        if name in used:
            name = f"{name}{number}"
        used.add(name)
        shape = replace(shape, name=name)
        step = 8 if shape.takes else min(_alignment(shape), generation.word_size)
        at = -(-at // step) * step
        fields.append(MadeField(name, shape, at))
        at += shape.takes or shape.size
        if shape.printed:
            conversion, _, argument = shape.printed.format(name=name).partition("|")
            conversions.append(f"{name}={conversion}")
            arguments.append(argument)
    system, event = names or ("made", f"event_{event_id}")
    common = "".join(
        f"\tfield:{f.type} {f.name};\toffset:{f.offset};\tsize:{f.size};\tsigned:{f.signed:d};\n"
        for f in generation.head
    )
    print_fmt = ", ".join([f'"{" ".join(conversions)}"', *arguments])
    text = (
        f"name: {event}\nID: {event_id}\nformat:\n{common}\n{''.join(f.line for f in fields)}\nprint fmt: {print_fmt}\n"
    )
    return MadeFormat(event_id, system, event, tuple(fields), text)


def _alignment(shape: Shape) -> int:
    if shape.place in ("data_loc", "rel_loc"):
        return 4
    return shape.element if shape.means in ("number", "numbers", "stack") else 1
