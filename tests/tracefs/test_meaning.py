"""What fields mean: by their C types and by how their events print them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from collector.tracefs.formats import parse_event_format
from collector.tracefs.meaning import field_kinds
from tests.tracefs.test_formats import make

IP = "unsigned long ip;\toffset:8;\tsize:8;\tsigned:0;"
PTR = "const void * ptr;\toffset:16;\tsize:8;\tsigned:0;"
NAME = "__data_loc char[] name;\toffset:24;\tsize:4;\tsigned:0;"


def kind_of(declaration: str, size: int, print_fmt: str = '"x"', **keywords: str) -> str:
    return field_kinds(make(f"{declaration};\toffset:8;\tsize:{size};\tsigned:0;", print_fmt=print_fmt, **keywords))[-1]


@pytest.mark.parametrize(
    ("declaration", "size", "print_fmt", "kind"),
    [
        # The C type decides ...
        ("char comm[16]", 16, '"x"', "text"),
        ("const char comm[16]", 16, '"x"', "text"),
        ("__data_loc char[] name", 4, '"x"', "text"),
        ("__data_loc const char[] name", 4, '"x"', "text"),
        ("__rel_loc char name[]", 4, '"x"', "text"),
        ("__data_loc char[][2] names", 8, '"x"', "text"),
        ("char buf[]", 0, '"x"', "text"),
        ("char name[32]", 64, '"x"', "text"),
        ("u8 raw[20]", 20, '"x"', "bytes"),
        ("__u8 raw[5]", 5, '"x"', "bytes"),
        ("unsigned char raw[5]", 5, '"x"', "bytes"),
        ("uint8_t raw[5]", 5, '"x"', "bytes"),
        ("__data_loc u8[] raw", 4, '"x"', "bytes"),
        ("__data_loc unsigned char[] raw", 4, '"x"', "bytes"),
        ("__rel_loc u8 raw[]", 4, '"x"', "bytes"),
        ("struct in6_addr raw", 16, '"x"', "bytes"),
        ("s8 v[3]", 3, '"x"', "plain"),
        ("signed char v[3]", 3, '"x"', "plain"),
        ("bool v[3]", 3, '"x"', "plain"),
        # ... but what the event prints as a string is one, and what it prints as bytes is none.
        ("u8 name[16]", 16, '"%s", REC->name', "text"),
        ("__data_loc u8[] name", 4, '"%s", __get_str(name)', "text"),
        ("unsigned char name[16]", 16, '"%.*s", 4, REC->name', "text"),
        ("u8 name[16]", 16, '"%s", (char *)REC->name', "text"),
        ("u8 name[16]", 16, '"%s", REC->found ? (char *)REC->name : "none"', "text"),
        ("u8 name[16]", 16, '"%s", REC->name[0] ? "yes" : "no"', "bytes"),
        ("u8 name[16]", 16, '"%s", REC->name == 3 ? "yes" : "no"', "bytes"),
        ("char guid[16]", 16, '"%pUl", REC->guid', "bytes"),
        ("char data[8]", 8, '"%*ph", 8, REC->data', "bytes"),
        ("__data_loc char[] data", 4, '"%s", __print_hex(__get_dynamic_array(data), 3)', "bytes"),
        ("char data[8]", 8, '"%s", __print_hex_str(REC->data, 8)', "bytes"),
        ("char data[8]", 8, '"%s", __print_array(REC->data, 8, 1)', "bytes"),
        ("char data[8]", 8, '"%s %s", REC->data, __print_hex_str(REC->data, 8)', "text"),
        # Addresses: by the print fmt, or by their names.
        ("__u8 from[4]", 4, '"%pI4", REC->from', "ipv4"),
        ("char from[4]", 4, '"%pI4", REC->from', "ipv4"),
        ("__be32 from", 4, '"%pI4", &REC->from', "ipv4"),
        ("__u8 from[16]", 16, '"%pI6c", REC->from', "ipv6"),
        ("struct in6_addr from", 16, '"%pI6c", &REC->from', "ipv6"),
        ("__u8 from[28]", 28, '"%pISpc", REC->from', "sockaddr"),
        ("__data_loc u8[] from", 4, '"%pISpc", __get_sockaddr(from)', "sockaddr"),
        ("u8 from[6]", 6, '"%pM", REC->from', "mac"),
        ("u8 from[8]", 8, '"%pM", REC->from', "bytes"),  # not of that size
        ("__u8 saddr[4]", 4, '"x"', "ipv4"),
        ("__u8 daddr[4]", 4, '"x"', "ipv4"),
        ("__u8 saddr_v6[16]", 16, '"x"', "ipv6"),
        ("__u8 saddr[28]", 28, '"x"', "bytes"),
        ("u8 fsid[16]", 16, '"x"', "bytes"),
        ("unsigned char addr[6]", 6, '"x"', "mac"),
        ("u8 who[6]", 6, '"%02x:%02x:%02x:%02x:%02x:%02x", REC->who[0]', "mac"),
        # Numbers.
        ("unsigned long args[6]", 48, '"x"', "plain"),
        ("u32 flags", 4, '"%s", __print_flags(REC->flags, "|", { 1, "A" })', "flags"),
        ("u32 state", 4, '"%s", __print_symbolic(REC->state & 3, { 1, "%s, (" })', "enum"),
        ("__data_loc unsigned long[] mask", 4, '"%s", __get_bitmask(mask)', "bitmask"),
        ("__data_loc cpumask_t mask", 4, '"%s", __get_cpumask(mask)', "bitmask"),
        ("__data_loc cpumask_t mask", 4, '"x"', "bitmask"),
        ("unsigned long mask[2]", 16, '"%*pbl", 128, REC->mask', "bitmask"),
        ("__data_loc unsigned long[] stack", 8, '"%s", __get_stacktrace(stack)', "stack"),
        ("const char * name", 8, '"%s", REC->name', "string"),
        ("char * name", 8, '"%s", REC->name', "string"),
        ("const char * name", 8, '"%pS", REC->name', "address"),
        ("u64 v", 8, '"%s", REC->v ? "a" : "b"', "plain"),
    ],
)
def test_kinds(declaration: str, size: int, print_fmt: str, kind: str) -> None:
    assert kind_of(declaration, size, print_fmt) == kind


def test_string_pointers_of_system_calls_point_into_processes() -> None:
    assert kind_of("const char * filename", 8, system="syscalls") == "plain"


@pytest.mark.parametrize(
    ("print_fmt", "expected"),
    [
        ('"call_site=%pS ptr=%p name=%s", (void *)REC->ip, REC->ptr, __get_str(name)', ("address", "plain", "text")),
        ('"%p %ps", REC->ip, REC->ptr', ("plain", "address", "text")),
        ('"100%% %.*s %pS", 4, __get_str(name), REC->ip', ("address", "plain", "text")),
        ('"%*d %pB" " and %pSR", 3, 4, REC->ip, REC->ptr', ("address", "address", "text")),
        (
            '"%s %ps", __print_symbolic(REC->ptr, { 1, "a, (b" }, { 2, "c\\"" }), (void *)REC->ip',
            ("address", "enum", "text"),
        ),
        ('"%ps", __builtin_extract_return_addr((REC)->ptr)', ("plain", "address", "text")),
        # Fewer arguments than conversions, and a text that is no literal: nothing is known.
        ('"%ps %ps", REC->ip', ("address", "plain", "text")),
        ("fmt, REC->ip", ("plain", "plain", "text")),
        # A name is no address.
        ('"%ps", __get_str(name)', ("plain", "plain", "text")),
        ('"%ps", REC->name', ("plain", "plain", "text")),
    ],
)
def test_addresses_are_what_is_printed_as_symbols(print_fmt: str, expected: tuple[str, ...]) -> None:
    assert field_kinds(make(IP, PTR, NAME, print_fmt=print_fmt)) == expected


def test_addresses_of_probes() -> None:
    fields = [
        f"unsigned long {name};\toffset:{8 + 8 * at};\tsize:8;\tsigned:0;"
        for at, name in enumerate(("__probe_func", "__probe_ret_ip", "ret"))
    ]
    fmt = make(*fields, print_fmt='"(%lx <- %lx) ret=%ld", REC->__probe_func, REC->__probe_ret_ip')
    assert field_kinds(fmt) == ("address", "address", "plain")


def test_the_tracers_records() -> None:
    caller = "unsigned long caller[8];\toffset:16;\tsize:64;\tsigned:0;"
    parent = "unsigned long parent_ip;\toffset:16;\tsize:8;\tsigned:0;"
    assert field_kinds(make(IP, parent, system="ftrace", name="function")) == ("address", "address")
    assert field_kinds(make(caller, system="ftrace", name="kernel_stack")) == ("stack",)
    assert field_kinds(make(caller, system="ftrace", name="user_stack", print_fmt='"%ps", REC->caller[0]')) == (
        "plain",
    )
    func = "char func[31];\toffset:12;\tsize:31;\tsigned:0;"
    assert field_kinds(make(func, system="ftrace", name="branch")) == ("text",)
    assert kind_of("char buf[]", 0, system="ftrace", name="raw_data") == "bytes"
    assert kind_of("char buf[]", 0, system="ftrace", name="print") == "text"


@pytest.mark.parametrize("case", ["6.1/kprobe", "6.12/module_events", "6.18/mix"])
def test_every_recorded_field_has_a_kind(recorded_case: Callable[[str], Path], case: str) -> None:
    for path in sorted(recorded_case(case).glob("**/tracefs/events/*/*/format")):
        fmt = parse_event_format(path.read_text(), path.parts[-3], 8)
        assert len(field_kinds(fmt)) == len(fmt.columns)
