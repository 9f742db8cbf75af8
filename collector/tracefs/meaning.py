"""What the bytes of a field mean: from its C type and from how the event's print fmt prints it, together. Pure.

The one place that decides it. A format object of a segment has the answer beside its columns, so that whoever reads
says the same: `show`, rows, the tap.

    print fmt  = 1*LITERAL *("," ARGUMENT)     ; adjacent literals are one template, as in C
    ARGUMENT   = C expression in which REC->name is a field, and helpers such as __get_str(name) stand for one

Source: include/trace/stages/stage3_trace_output.h (the helpers), Documentation/core-api/printk-formats.rst.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal, get_args

from collector.tracefs.formats import INTERNAL_SYSTEM, EventFormat, Field, element_type

FieldKind = Literal[
    "plain",  # a number, or several
    "text",  # up to the first NUL
    "bytes",
    "address",  # of kernel code; or several
    "stack",  # addresses of kernel code, the innermost first
    "string",  # the address of a string that printk_formats lists
    "bitmask",  # words of the kernel's long, the lowest first
    "flags",  # a number whose bits the print fmt names
    "enum",  # a number whose values the print fmt names
    "ipv4",  # 4 bytes
    "ipv6",  # 16 bytes
    "mac",  # 6 bytes
    "sockaddr",  # a struct sockaddr_in or sockaddr_in6
]

KINDS: Final[tuple[FieldKind, ...]] = get_args(FieldKind)
ADDRESSES: Final = frozenset({"address", "stack", "string"})  # kinds whose numbers a segment names

# Names under which the tracers' own records keep code addresses. user_stack has `caller` too, but of user space.
_INTERNAL_CODE_FIELDS = frozenset({"ip", "parent_ip", "func"})
# Of kprobes, and of uprobes, where they lie in a process; printed as %lx, which the kernel does not follow.
_PROBE_CODE_FIELDS = frozenset({"__probe_ip", "__probe_func", "__probe_ret_ip"})
# {event of a tracer: {field: kind}}: what their declarations can't say.
_INTERNAL: dict[str, dict[str, FieldKind]] = {
    "kernel_stack": {"caller": "stack"},
    "user_stack": {"caller": "plain"},
    "raw_data": {"buf": "bytes"},
}

_SIZES: dict[FieldKind, int] = {"ipv4": 4, "ipv6": 16, "mac": 6}  # {kind: bytes that it has}
# What fields are called that hold addresses of networks, for print fmts that take them apart or leave them out.
_NETWORK_NAMES = re.compile(r"(^|_)(saddr|daddr|src|dst|addr|address|gw|grp|ip|primary_key[46])(_v[46]|[46])?$")
_MAC_NAMES = re.compile(r"addr|mac|bssid|^sa$|^da$|^ta$|^ra$|^sta$|^peer$|eth|dest|^src$|^dst$")
_SIX_BYTES = re.compile(r"%02x(:%02x){5}", re.IGNORECASE)

_SIGNED_BYTES = frozenset({"s8", "__s8", "int8_t", "signed char", "bool", "_Bool"})
_STRING_POINTER = re.compile(r"(const )?char \*\s*(const)?\s*")

_LITERAL = re.compile(r'\s*"((?:[^"\\]|\\.)*)"', re.DOTALL)
_CONVERSION = re.compile(
    r"%(?:%|[-+ #0]*(?P<width>\*|\d+)?(?:\.(?P<precision>\*|\d+)?)?"
    r"(?:hh|h|ll|l|z|t|j|L|q)?(?P<kind>[a-zA-Z])(?P<ext>\w*))"
)
_POINTERS: tuple[tuple[str, FieldKind], ...] = (
    ("I4", "ipv4"), ("i4", "ipv4"), ("I6", "ipv6"), ("i6", "ipv6"), ("IS", "sockaddr"), ("iS", "sockaddr"),
    ("M", "mac"), ("m", "mac"), ("U", "bytes"), ("h", "bytes"), ("b", "bitmask"), ("s", "address"), ("S", "address"),
    ("B", "address"), ("F", "address"), ("f", "address"),
)  # fmt: skip
# {helper: kind of the field in its first argument}
_HELPERS: dict[str, FieldKind] = {
    "__get_str": "text", "__get_rel_str": "text", "__get_bitmask": "bitmask", "__get_rel_bitmask": "bitmask",
    "__get_cpumask": "bitmask", "__get_rel_cpumask": "bitmask", "__get_sockaddr": "sockaddr",
    "__get_rel_sockaddr": "sockaddr", "__get_stacktrace": "stack", "__print_flags": "flags",
    "__print_flags_u64": "flags", "__print_symbolic": "enum", "__print_symbolic_u64": "enum", "__print_hex": "bytes",
    "__print_hex_str": "bytes", "__print_hex_dump": "bytes", "__print_array": "bytes",
    "__print_dynamic_array": "bytes",
}  # fmt: skip
_CALL = re.compile(r"\b(" + "|".join(map(re.escape, _HELPERS)) + r")\s*\(")
_MEMBER = re.compile(r"\bREC\s*\)?\s*->\s*(\w+)|\b__get_(?:rel_)?(?:dynamic_array|str)\s*\(\s*(\w+)(?:\[\d+\])?\s*\)")
_NAME = re.compile(r"^\s*(\w+)(?:\[\d+\])?\s*$")  # of __get_str(name), whose argument is no expression
# The event's own memory printed as a string: a ternary's condition and what is indexed are not.
_STRINGS = re.compile(
    r"(?:\bREC\s*\)?\s*->\s*(\w+)|\b__get_(?:rel_)?dynamic_array\s*\(\s*(\w+)\s*\))(?!\s*(?:\[|[-+*/%&|^<>=!?]|\w|->))"
)
# Of several prints of a field the one that says most counts.
_PRIORITY: tuple[FieldKind, ...] = (
    "text", "mac", "ipv4", "ipv6", "sockaddr", "stack", "address", "bitmask", "flags", "enum", "bytes",
)  # fmt: skip


def field_kinds(fmt: EventFormat) -> tuple[FieldKind, ...]:
    """What each of the event's columns holds, in their order."""
    printed = _printed_kinds(fmt.print_fmt)
    has_macs = _SIX_BYTES.search(fmt.print_fmt) is not None
    return tuple(_kind_of(field, fmt, printed.get(field.name.partition("[")[0]), has_macs) for field in fmt.columns)


def _kind_of(field: Field, fmt: EventFormat, printed: FieldKind | None, has_macs: bool) -> FieldKind:
    if fmt.system == INTERNAL_SYSTEM and field.name in (special := _INTERNAL.get(fmt.name, {})):
        return special[field.name]
    is_wide = field.cls == "int" or (field.cls != "chars" and field.element_size > 1)
    if is_wide:
        return _kind_of_numbers(field, fmt, printed)
    size = field.size if field.cls == "chars" else None  # None: each record has its own
    if printed == "text" or printed == "sockaddr":
        return printed
    if printed in _SIZES and size in (None, _SIZES[printed]):
        return printed
    if printed in _SIZES or printed in ("bytes", "bitmask"):
        return "bytes"
    ctype = element_type(field)
    if ctype == "char":
        return "text"
    if ctype in _SIGNED_BYTES:
        return "plain"
    if size in (4, 16) and _NETWORK_NAMES.search(field.name):
        return "ipv4" if size == 4 else "ipv6"
    if size == 6 and (has_macs or _MAC_NAMES.search(field.name)):
        return "mac"
    return "bytes"


def _kind_of_numbers(field: Field, fmt: EventFormat, printed: FieldKind | None) -> FieldKind:
    if field.element_size >= 4 and (
        field.name in _PROBE_CODE_FIELDS or (fmt.system == INTERNAL_SYSTEM and field.name in _INTERNAL_CODE_FIELDS)
    ):
        return "address"
    is_one = field.cls == "int" and field.count == 1
    if not is_one and element_type(field) == "cpumask_t":
        return "bitmask"
    match printed:
        case "address" | "stack" if field.element_size >= 4:
            return printed
        case "bitmask" if not is_one:
            return printed
        case "flags" | "enum" if is_one:
            return printed
        case "ipv4" if is_one and field.size == 4:
            return printed
    # The string pointers of a system call point into a process instead.
    if is_one and fmt.system != "syscalls" and _STRING_POINTER.fullmatch(field.type):
        return "string"
    return "plain"


def _printed_kinds(print_fmt: str) -> dict[str, FieldKind]:
    """{field: kind} of what a print fmt says of the fields that it prints."""
    template, rest = _split_template(print_fmt)
    arguments = list(_split_arguments(rest))
    found: dict[str, set[FieldKind]] = {}
    position = 0
    for match in _CONVERSION.finditer(template):
        conversion = match["kind"]
        if conversion is None:  # "%%"
            continue
        position += (match["width"] == "*") + (match["precision"] == "*")
        if position >= len(arguments):
            break
        argument = arguments[position]
        position += 1
        for name, kind in _kinds_in(argument, conversion, match["ext"]):
            found.setdefault(name, set()).add(kind)
    for argument in arguments:
        for name, kind in _kinds_in(argument, "", ""):
            found.setdefault(name, set()).add(kind)
    return {name: min(kinds, key=_PRIORITY.index) for name, kinds in found.items()}


def _kinds_in(argument: str, conversion: str, extension: str) -> Iterator[tuple[str, FieldKind]]:
    """(field, kind) of what one argument says; without a conversion, of its helpers alone."""
    plain = argument
    while match := _CALL.search(plain):
        inside, end = _balanced(plain, match.end())
        first = next(_split_arguments("," + inside), "")
        kind = _HELPERS[match[1]]
        names = [name for pair in _MEMBER.findall(first) for name in pair if name] or _NAME.findall(first)
        yield from ((name, kind) for name in names)
        plain = plain[: match.start()] + " " + plain[end:]
    if conversion == "s":
        yield from ((name, "text") for pair in _STRINGS.findall(plain) for name in pair if name)
    elif conversion == "p":
        pointed = next((kind for start, kind in _POINTERS if extension.startswith(start)), None)
        if pointed is not None:
            yield from ((name, pointed) for pair in _MEMBER.findall(plain) for name in pair if name)


def _balanced(text: str, at: int) -> tuple[str, int]:
    """What stands between a bracket that was opened before `at` and its end, and the place behind it."""
    depth, start = 1, at
    while at < len(text):
        if text[at] == '"' and (literal := _LITERAL.match(text, at)):
            at = literal.end()
            continue
        depth += (text[at] in "([{") - (text[at] in ")]}")
        at += 1
        if depth == 0:
            return text[start : at - 1], at
    return text[start:], at


def _split_template(print_fmt: str) -> tuple[str, str]:
    """The adjacent string literals at the start, joined, and what follows them."""
    parts: list[str] = []
    at = 0
    while match := _LITERAL.match(print_fmt, at):
        parts.append(match[1])
        at = match.end()
    return "".join(parts), print_fmt[at:]


def _split_arguments(rest: str) -> Iterator[str]:
    """The arguments behind the template: split at the commas outside of brackets and literals."""
    depth = 0
    start: int | None = None
    at = 0
    while at < len(rest):
        char = rest[at]
        if char == '"' and (literal := _LITERAL.match(rest, at)):
            at = literal.end()
            continue
        if char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth == 0:
            if start is not None:
                yield rest[start:at]
            start = at + 1
        at += 1
    if start is not None:
        yield rest[start:]
