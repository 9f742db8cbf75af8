"""Format files: fields by offset and size, classes, addresses of code."""

from collections.abc import Callable
from pathlib import Path

import pytest

from collector.errors import TracefsFormatError
from collector.tracefs.formats import (
    EventFormat,
    Field,
    parse_event_format,
    parse_format_id,
)

HEAD = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n"
    "\n"
)


def make(*fields: str, name: str = "ev", print_fmt: str = '"x"', system: str = "sys") -> EventFormat:
    lines = "".join(f"\tfield:{field}\n" for field in fields)
    return parse_event_format(f"name: {name}\nID: 300\nformat:\n{HEAD}{lines}\nprint fmt: {print_fmt}\n", system, 8)


def only(field: str, **keywords: str) -> Field:
    return make(field, **keywords).fields[-1]


def test_a_whole_file() -> None:
    fmt = make(
        "char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;",
        "pid_t prev_pid;\toffset:24;\tsize:4;\tsigned:1;",
        name="sched_switch",
        system="sched",
        print_fmt='"prev_comm=%s",\nREC->prev_comm',
    )
    assert (fmt.id, fmt.name_full) == (300, "sched:sched_switch")
    assert fmt.print_fmt == '"prev_comm=%s",\nREC->prev_comm'
    assert [field.name for field in fmt.fields if field.common] == [
        "common_type",
        "common_flags",
        "common_preempt_count",
        "common_pid",
    ]
    assert fmt.fields[4] == Field("prev_comm", "char[16]", 8, 16, False, False, "chars", 16, 1)
    assert fmt.fields[5] == Field("prev_pid", "pid_t", 24, 4, True, False, "int", 4, 1)
    assert parse_format_id(fmt.text) == 300


@pytest.mark.parametrize(
    ("line", "cls", "element_size", "count"),
    [
        # The C type says 4, the file 8: the file is right.
        ("int fd;\toffset:16;\tsize:8;\tsigned:0;", "int", 8, 1),
        ("const struct __kernel_timespec * rqtp;\toffset:16;\tsize:8;\tsigned:0;", "int", 8, 1),
        ("unsigned flags;\toffset:16;\tsize:4;\tsigned:0;", "int", 4, 1),
        ("enum pm_qos type;\toffset:16;\tsize:4;\tsigned:0;", "int", 4, 1),
        ("unsigned long args[6];\toffset:16;\tsize:48;\tsigned:0;", "int", 8, 6),
        ("u16 a[2][3];\toffset:16;\tsize:12;\tsigned:0;", "int", 2, 6),
        ("__u8 mac[6];\toffset:16;\tsize:6;\tsigned:0;", "chars", 6, 1),
        ("char comm[TASK_COMM_LEN];\toffset:16;\tsize:16;\tsigned:0;", "chars", 16, 1),
        ("u32 words[NR_WORDS];\toffset:16;\tsize:12;\tsigned:0;", "int", 4, 3),
        ("struct thing things[NR];\toffset:16;\tsize:12;\tsigned:0;", "chars", 12, 1),
        ("struct odd odd[2];\toffset:16;\tsize:24;\tsigned:0;", "chars", 24, 1),
        ("cpumask_t mask;\toffset:16;\tsize:1024;\tsigned:0;", "chars", 1024, 1),
        ("__data_loc char[] name;\toffset:16;\tsize:4;\tsigned:0;", "data_loc", 1, 1),
        ("__data_loc char[] synthetic;\toffset:16;\tsize:8;\tsigned:1;", "data_loc", 1, 1),
        ("__data_loc unsigned long[] addrs;\toffset:16;\tsize:4;\tsigned:0;", "data_loc", 8, 1),
        ("__data_loc unsigned int[] lengths;\toffset:16;\tsize:4;\tsigned:0;", "data_loc", 4, 1),
        ("__data_loc cpumask_t mask;\toffset:16;\tsize:4;\tsigned:0;", "data_loc", 8, 1),
        ("__data_loc struct odd[] odd;\toffset:16;\tsize:4;\tsigned:0;", "data_loc", 1, 1),
        ("__rel_loc s64[] deltas;\toffset:16;\tsize:4;\tsigned:1;", "rel_loc", 8, 1),
        ("u32 buf[];\toffset:16;\tsize:0;\tsigned:0;", "tail", 4, 1),
        ("char buf[];\toffset:16;\tsize:0;\tsigned:0;", "tail", 1, 1),
        ("unsigned long args[];\toffset:16;\tsize:0;\tsigned:0;", "tail", 8, 1),
        # What the kernel's own printers make of fields that are defined at run time.
        ("__data_loc unsigned long[] stack;\toffset:24;\tsize:8;\tsigned:1;", "data_loc", 8, 1),
        ("__rel_loc char msg[];\toffset:16;\tsize:4;\tsigned:1;", "rel_loc", 1, 1),
        ("__rel_loc char msg[134705152];\toffset:16;\tsize:4;\tsigned:1;", "rel_loc", 1, 1),
        ("char comm[];\toffset:24;\tsize:16;\tsigned:1;", "chars", 16, 1),
        ("u8 x8a[];\toffset:16;\tsize:4;\tsigned:0;", "chars", 4, 1),
        ("u64 x64a[];\toffset:16;\tsize:32;\tsigned:0;", "int", 8, 4),
        ("u8 raw[20];\toffset:12;\tsize:1;\tsigned:0;", "chars", 1, 1),
        ("struct mystruct s;\toffset:16;\tsize:20;\tsigned:1;", "chars", 20, 1),
        ("struct small s;\toffset:16;\tsize:8;\tsigned:1;", "chars", 8, 1),
        ("const struct small * s;\toffset:16;\tsize:8;\tsigned:0;", "int", 8, 1),
    ],
)
def test_classes(line: str, cls: str, element_size: int, count: int) -> None:
    field = only(line)
    assert (field.cls, field.element_size, field.count) == (cls, element_size, count)
    assert field.signed is ("signed:1" in line)


def test_a_32_bit_kernel_has_words_of_4_bytes() -> None:
    text = f'name: e\nID: 1\nformat:\n{HEAD}\tfield:long a[];\toffset:8;\tsize:0;\tsigned:0;\n\nprint fmt: ""\n'
    assert parse_event_format(text, "s", word_size=4).fields[-1].element_size == 4


def test_an_array_of_strings_is_a_field_per_string() -> None:
    fmt = make("__data_loc char[] arg1[2];\toffset:16;\tsize:8;\tsigned:0;")
    assert [(f.name, f.offset, f.size, f.cls) for f in fmt.fields[4:]] == [
        ("arg1[0]", 16, 4, "data_loc"),
        ("arg1[1]", 20, 4, "data_loc"),
    ]


def test_an_array_of_strings_with_its_number_in_the_type_is_one_too() -> None:
    fmt = make("__data_loc char[][3] names;\toffset:16;\tsize:12;\tsigned:1;",
               "__data_loc char[][1] one;\toffset:28;\tsize:4;\tsigned:1;")  # fmt: skip
    assert [(f.name, f.offset, f.size, f.cls) for f in fmt.fields[4:]] == [
        ("names[0]", 16, 4, "data_loc"), ("names[1]", 20, 4, "data_loc"), ("names[2]", 24, 4, "data_loc"),
        ("one[0]", 28, 4, "data_loc"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "cls", "element_size", "count", "doubt"),
    [
        ("char name[32];\toffset:16;\tsize:64;\tsigned:0;", "chars", 64, 1, "name: 32 elements of 1 bytes"),
        ("char b[136808104];\toffset:16;\tsize:8;\tsigned:1;", "chars", 8, 1, "b: 136808104 elements of 1 bytes"),
        ("u32 v[4];\toffset:16;\tsize:8;\tsigned:0;", "int", 4, 2, "v: 4 elements of 4 bytes"),
        ("u64 v[3];\toffset:16;\tsize:12;\tsigned:0;", "int", 4, 3, "v: elements of 8 bytes do not fill 12 bytes"),
        ("__data_loc char[][3] n;\toffset:16;\tsize:8;\tsigned:1;", "data_loc", 1, 1, "n[0]: 3 locations"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_told(
    line: str, cls: str, element_size: int, count: int, doubt: str
) -> None:
    fmt = make(line)
    assert (fmt.fields[-1].cls, fmt.fields[-1].element_size, fmt.fields[-1].count) == (cls, element_size, count)
    assert fmt.doubts[0].startswith(doubt)
    assert "believed" in fmt.doubts[0]


def test_what_else_stands_in_the_head_is_a_column_of_each_event() -> None:
    lazy = "\tfield:unsigned char common_preempt_lazy_count;\toffset:8;\tsize:1;\tsigned:0;\n"
    text = f"name: e\nID: 1\nformat:\n{HEAD[:-1]}{lazy}\n\tfield:int common;\toffset:12;\tsize:4;\tsigned:1;\n"
    fmt = parse_event_format(text, "s", 8)
    assert [field.name for field in fmt.columns] == ["common_preempt_lazy_count", "common"]


def test_kernel_stack_runs_to_the_end_of_the_record_but_user_stack_does_not() -> None:
    caller = "unsigned long caller[8];\toffset:16;\tsize:64;\tsigned:0;"
    kernel = only(caller, name="kernel_stack", system="ftrace")
    user = only(caller, name="user_stack", system="ftrace")
    assert (kernel.cls, kernel.element_size, kernel.count) == ("tail", 8, 1)
    assert (user.cls, user.element_size, user.count) == ("int", 8, 8)


def test_fields_come_by_offset() -> None:
    fmt = make("u32 b;\toffset:12;\tsize:4;\tsigned:0;", "u32 a;\toffset:8;\tsize:4;\tsigned:0;")
    assert [field.name for field in fmt.fields[4:]] == ["a", "b"]


def test_a_format_without_fields_of_its_own() -> None:
    assert len(make().fields) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u32 a;\toffset:x;\tsize:4;\tsigned:0;", r"line 9.*not a field line"),
        ("a;\toffset:8;\tsize:4;\tsigned:0;", r"line 9.*not a field line"),
        ("__data_loc char[] a;\toffset:8;\tsize:3;\tsigned:0;", r"line 9.*wrong size"),
    ],
)
def test_a_wrong_field_names_its_line(line: str, message: str) -> None:
    with pytest.raises(TracefsFormatError, match=message):
        make(line)


def test_a_tail_that_is_not_last_is_refused() -> None:
    with pytest.raises(TracefsFormatError, match="not the last"):
        make("char a[];\toffset:8;\tsize:0;\tsigned:0;", "u32 b;\toffset:12;\tsize:4;\tsigned:0;")


@pytest.mark.parametrize("text", ["", "name: x\n", "name: x\nID: 70000\nformat:\n", "ID: y\n", "rubbish\n"])
def test_a_file_that_is_no_format(text: str) -> None:
    with pytest.raises(TracefsFormatError):
        parse_event_format(text, "s", 8)


@pytest.mark.parametrize("case", ["6.1/kprobe", "6.12/module_events", "6.18/mix"])
def test_recorded_formats_cover_their_records(recorded_case: Callable[[str], Path], case: str) -> None:
    paths = sorted(recorded_case(case).glob("**/tracefs/events/*/*/format"))
    assert paths
    for path in paths:
        fmt = parse_event_format(path.read_text(), path.parts[-3], 8)
        assert fmt.name == path.parts[-2]
        assert [field.offset for field in fmt.fields if field.common] == [0, 2, 3, 4]
        assert all(field.cls == "tail" or field.size > 0 for field in fmt.fields)


@pytest.mark.kernel
def test_every_format_of_the_live_kernel(tracefs: Path) -> None:
    paths = sorted(tracefs.glob("events/*/*/format"))
    assert len(paths) > 100
    for path in paths:
        try:
            text = path.read_text()
        except FileNotFoundError:  # an event of a probe that was removed meanwhile
            continue
        fmt = parse_event_format(text, path.parts[-3], 8)
        assert fmt.id == parse_format_id(text)
        assert fmt.fields[0].name == "common_type"
