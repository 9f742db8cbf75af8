"""Names of addresses, in both formats."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from collector.archive import maps as maps_module
from collector.show.show import show_paths
from tests.read.made import Maps, Row, write_segment

A, B, C = 0xFFFFFFFF81234567, 0xFFFFFFFFC0001004, 0xFFFFFFFF82000000
NAMES = {A: ("vfs_read", 0, ""), B: ("nf_hook", 4, "nf_tables")}
CPU0 = ("main", 0)


def show(path: Path, **how: Any) -> list[str]:
    out = io.StringIO()
    assert show_paths([path], out, **how).damaged == []
    return out.getvalue().splitlines()


def both(tmp_path: Path, rows: list[Row], maps: Maps) -> tuple[list[str], list[dict[str, Any]]]:
    path = write_segment(tmp_path, [(CPU0, rows)], maps)
    return show(path), [json.loads(line) for line in show(path, format="json")]


def test_code_has_its_symbol_beside_the_address(tmp_path: Path) -> None:
    rows: list[Row] = [
        (1, 7, "ftrace:function", {"ip": A, "parent_ip": B}),
        (2, 7, "ftrace:function", {"ip": C, "parent_ip": A}),
        (3, 7, "ftrace:function", {"ip": C, "parent_ip": 0}),
    ]
    lines, entries = both(tmp_path, rows, Maps(code=NAMES))
    assert [line.partition("function: ")[2] for line in lines] == [
        "ip=0xffffffff81234567 vfs_read+0x0 parent_ip=0xffffffffc0001004 nf_hook+0x4 [nf_tables]",
        "ip=0xffffffff82000000 parent_ip=0xffffffff81234567 vfs_read+0x0",
        "ip=0xffffffff82000000 parent_ip=0x0",
    ]
    assert entries[0]["fields"] == {"ip": A, "parent_ip": B}
    assert [e.get("symbols") for e in entries] == [
        {"ip": "vfs_read+0x0", "parent_ip": "nf_hook+0x4 [nf_tables]"}, {"parent_ip": "vfs_read+0x0"}, None,
    ]  # fmt: skip


def test_stacks_and_arrays_have_a_list(tmp_path: Path) -> None:
    rows: list[Row] = [
        (1, 7, "ftrace:kernel_stack", {"size": 3, "caller": [A, C, B]}),
        (2, 7, "made:table", {"entries": [C, B]}),
        (3, 7, "ftrace:kernel_stack", {"size": 0, "caller": []}),
    ]
    lines, entries = both(tmp_path, rows, Maps(code=NAMES))
    assert lines[0].endswith(
        "caller=[0xffffffff81234567 vfs_read+0x0, 0xffffffff82000000, 0xffffffffc0001004 nf_hook+0x4 [nf_tables]]"
    )
    assert lines[1].endswith("entries=[0xffffffff82000000, 0xffffffffc0001004 nf_hook+0x4 [nf_tables]]")
    assert lines[2].endswith("size=0 caller=[]")
    assert [e["fields"].get("caller") for e in entries] == [[A, C, B], None, []]
    assert entries[1]["fields"] == {"entries": [C, B]}
    assert [e.get("symbols") for e in entries] == [
        {"caller": ["vfs_read+0x0", None, "nf_hook+0x4 [nf_tables]"]}, {"entries": [None, "nf_hook+0x4 [nf_tables]"]},
        None,
    ]  # fmt: skip


def test_the_kernels_own_strings_stand_beside_their_address(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 7, "ftrace:bprint", {"ip": A, "fmt": C, "buf": [1]})]
    lines, entries = both(tmp_path, rows, Maps(code=NAMES, texts={C: 'a "%d"\x1b\n'}))
    assert lines[0].endswith(r'ip=0xffffffff81234567 vfs_read+0x0 fmt=0xffffffff82000000 "a \"%d\"\x1b\x0a" buf=[1]')
    assert entries[0]["strings"] == {"fmt": 'a "%d"\x1b\n'}
    assert entries[0]["symbols"] == {"ip": "vfs_read+0x0"}


def test_names_of_symbols_steer_nothing(tmp_path: Path) -> None:
    rows: list[Row] = [(1, 7, "ftrace:print", {"ip": A, "buf": b"text\0"})]
    lines, entries = both(tmp_path, rows, Maps(code={A: ("%s\x1b[2J\n", 1, "m\n")}))
    assert [line.partition("ftrace:print: ")[2] for line in lines] == [
        r"ip=0xffffffff81234567 %s\x1b[2J\x0a+0x1 [m\x0a] buf=text"
    ]
    assert entries[0]["symbols"] == {"ip": "%s\x1b[2J\n+0x1 [m\n]"}


def test_an_address_without_a_name_is_looked_up_again_only_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(maps_module.time, "monotonic", lambda: now[0])
    maps = Maps(code={A: NAMES[A]})

    def streams() -> Any:
        for at_s in (0, 1, 11):
            now[0] = 1000.0 + at_s
            if at_s == 11:
                maps.code[B] = NAMES[B]
            yield CPU0, [(100 + at_s, 7, "ftrace:function", {"ip": A, "parent_ip": B})]

    path = write_segment(tmp_path, streams(), maps)
    assert maps.asked == [{A, B}, {B}]
    # Names hold for the whole segment: an address is one thing while the segment lasts.
    assert all(line.endswith("nf_hook+0x4 [nf_tables]") for line in show(path))
