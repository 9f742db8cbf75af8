"""Lines of the configuration become lines of dynamic_events."""

import pytest

from collector.errors import UsageError
from collector.tracefs.dynamic import (
    group_of,
    parse_dynamic_events,
    parse_probe,
    parse_probes,
    removes,
    same_definition,
)


@pytest.mark.parametrize(
    ("line", "definition", "removal"),
    [
        ("p:open do_sys_openat2 dfd=$arg1", "p:ftc_x/open do_sys_openat2 dfd=$arg1", "-:ftc_x/open"),
        ("r:ret do_sys_openat2 $retval", "r:ftc_x/ret do_sys_openat2 $retval", "-:ftc_x/ret"),
        ("r16:ret do_sys_openat2", "r16:ftc_x/ret do_sys_openat2", "-:ftc_x/ret"),
        ("f:fp vfs_read%return", "f:ftc_x/fp vfs_read%return", "-:ftc_x/fp"),
        ("t:tp sched_switch prev", "t:ftc_x/tp sched_switch prev", "-:ftc_x/tp"),
        ("e:ep sched.sched_switch p=$prev_pid", "e:ftc_x/ep sched.sched_switch p=$prev_pid", "-:ftc_x/ep"),
        ("u:up /bin/sh:0x1234 %ip", "p:ftc_x/up /bin/sh:0x1234 %ip", "-:ftc_x/up"),
        ("ur:upr /bin/sh:4660", "r:ftc_x/upr /bin/sh:4660", "-:ftc_x/upr"),
        ("s:lat u64 lat; pid_t pid", "s:synthetic/lat u64 lat; pid_t pid", "-:synthetic/lat"),
        ("user: mine u32 a; char b[8]", "u:mine u32 a; char b[8]", "-:user_events/mine u32 a; char b[8]"),
        ("user:mine u32  a;char b[8] ;", "u:mine u32 a; char b[8]", "-:user_events/mine u32 a; char b[8]"),
    ],
)
def test_each_kind(line: str, definition: str, removal: str) -> None:
    probe = parse_probe(line, "x")
    assert (probe.definition, probe.removal) == (definition, removal)


@pytest.mark.parametrize(
    "line",
    ["", "p:open", "open do_sys_openat2", "p:g/open f", "q:open f", "p: f", "p:o-o f", "p:1a f", "u:up sh:12",
     "u:up /sh", "p:" + "a" * 64 + " f", "p:a f\np:b f"],
)  # fmt: skip
def test_what_is_no_probe(line: str) -> None:
    with pytest.raises(UsageError, match="probes: not a"):
        parse_probe(line, "x")


def test_names_must_differ_within_a_group() -> None:
    with pytest.raises(UsageError, match="same name"):
        parse_probes(["p:a f", "r:a f"], "x")
    assert len(parse_probes(["p:a f", "s:a int x"], "x")) == 2


def test_the_group_is_the_instance_s_name_in_the_kernel_s_letters() -> None:
    assert group_of("ftrace-collector") == "ftc_ftrace_collector"
    assert len(group_of("x" * 200)) == 63


def test_the_kernel_s_list() -> None:
    text = "p:ftc_x/open do_sys_openat2 dfd=$arg1\nr4:ftc_x/ret vfs_read\nu:mine u32 a\ns:synthetic/lat\tu64 lat\n\n#\n"
    found = parse_dynamic_events(text)
    assert [(e.group, e.name) for e in found] == [
        ("ftc_x", "open"), ("ftc_x", "ret"), ("user_events", "mine"), ("synthetic", "lat"),
    ]  # fmt: skip
    assert [e.removal for e in found] == [
        "-:ftc_x/open", "-:ftc_x/ret", "-:user_events/mine u32 a", "-:synthetic/lat",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("removal", "line", "means"),
    [
        ("-:ftc_x/open", "p:ftc_x/open vfs_read", True),
        ("-:ftc_x/open", "p:ftc_y/open vfs_read", False),
        ("-:user_events/mine u32 a; char b[8]", "u:mine u32 a; char b[8]", True),
        ("-:user_events/mine u32 a", "u:mine u32 a; char b[8]", False),  # another one of the name
        ("-:user_events/mine", "u:mine u32 a; char b[8]", True),
        ("-:user_events/mine", "u:mine", True),
        ("-:synthetic/lat", "s:synthetic/lat\tu64 lat", True),
    ],
)
def test_which_event_a_removal_is_meant_for(removal: str, line: str, means: bool) -> None:
    (event,) = parse_dynamic_events(line)
    assert removes(removal, event) is means


@pytest.mark.parametrize(
    ("wished", "listed", "same"),
    [
        ("p:g/u /bin/sh:0x1234", "p:g/u /bin/sh:0x0000000000001234", True),
        ("s:synthetic/lat u64 lat; pid_t pid;", "s:synthetic/lat\tu64 lat; pid_t pid", True),
        ("s:synthetic/x char name[16]; char[] b", "s:synthetic/x\tchar[16] name; char[] b", True),
        ("s:synthetic/x unsigned long st[]", "s:synthetic/x\tunsigned long[] st", True),
        ("s:synthetic/x char name[16]", "s:synthetic/x\tchar[8] name", False),
        ("r:g/a f x=$retval", "r10:g/a f x=$retval", True),
        ("r16:g/a f", "r10:g/a f", False),
        ("f:g/a f%return", "f8:g/a f%return", True),
        ("p:g/a f+0x10", "p:g/a f+16", True),
        ("p:g/u /bin/sh:4660", "p:g/u /bin/sh:0x0000000000001234", True),
        ("u:a u32 a;u8 b", "u:a u32 a; u8 b", True),
        ("p:g/a f x=%di", "p:g/a f x=%si", False),
        ("p:g/a /bin/SH:0x1", "p:g/a /bin/sh:0x1", False),
    ],
)
def test_definitions_compare(wished: str, listed: str, same: bool) -> None:
    assert same_definition(wished, listed) is same
