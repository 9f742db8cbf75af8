"""Names of addresses."""

import bisect
import random

import pytest

from collector.tracefs import symbols as symbols_module
from collector.tracefs.symbols import Symbol, SymbolTable, parse_printk_formats

KALLSYMS = b"""\
0000000000000000 A fixed_percpu_data
0000000000001000 A cpu_debug_store
ffffffff81000000 T _stext
ffffffff81000000 T _text
ffffffff81000010 t do_one
ffffffff81000200 T do_two
ffffffff81000400 T _etext
ffffffff82000000 D jiffies
ffffffffc0201000 t second_fn\t[mod]
ffffffffc0200000 t first_fn\t[mod]
ffffffffc0300000 t bpf_prog_1\t[bpf]
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (0xFFFFFFFF81000000, Symbol("_stext", 0, None)),
        (0xFFFFFFFF8100000F, Symbol("_stext", 15, None)),
        (0xFFFFFFFF81000010, Symbol("do_one", 0, None)),
        (0xFFFFFFFF810003FF, Symbol("do_two", 0x1FF, None)),
        (0xFFFFFFFF82000001, Symbol("jiffies", 1, None)),
        (0xFFFFFFFFC0200FFF, Symbol("first_fn", 0xFFF, "mod")),
        (0xFFFFFFFFC0201004, Symbol("second_fn", 4, "mod")),
        (0xFFFFFFFFC0300000, Symbol("bpf_prog_1", 0, "bpf")),
        (0xFFFFFFFF81000401, None),  # behind the text
        (0xFFFFFFFFB0000000, None),  # between kernel and modules
        (0xFFFFFFFFFFFFFFFF, None),
        (0x0000000000001004, None),  # a small number is no per-CPU variable
        (0x0000000000400000, None),  # user space
        (0, None),
        (-1, None),
    ],
)
def test_lookup(address: int, expected: Symbol | None) -> None:
    assert SymbolTable.parse(KALLSYMS).lookup(address) == expected


def test_a_file_without_modules_or_final_newline() -> None:
    table = SymbolTable.parse(b"ffffffff81000000 T a\nffffffff81000010 T b")
    assert table.lookup(0xFFFFFFFF8100000F) == Symbol("a", 15, None)
    assert table.lookup(0xFFFFFFFF81000012) == Symbol("b", 2, None)


def test_an_unsorted_file() -> None:
    table = SymbolTable.parse(b"ffffffff81000010 T b\nffffffff81000000 T a\nffffffff81000000 T alias\n")
    assert table.lookup(0xFFFFFFFF81000004) == Symbol("a", 4, None)
    assert table.lookup(0xFFFFFFFF81000014) == Symbol("b", 4, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0000000000000000 T a\n0000000000000000 t b\t[m]\n",
        b"0000000000000000 T a\n0000000000000000 T b\n",
        b"rubbish\n",
    ],
)
def test_hidden_addresses(data: bytes) -> None:
    table = SymbolTable.parse(data)
    assert table.hidden
    assert table.lookup(0xFFFFFFFF81000000) is None


def test_shown_addresses_are_not_hidden() -> None:
    assert not SymbolTable.parse(KALLSYMS).hidden
    assert not SymbolTable.parse(b"ffffffffc0200000 t f\t[m]\n").hidden


def test_as_a_plain_parse_finds_it() -> None:
    """Names of all lengths and many aliases, at and around every address, against the obvious way."""
    random_ = random.Random(1)
    address, lines, first = 0xFFFFFFFF81000000, [], {}
    for number in range(2000):
        address += random_.choice([0, 0, 1, 16, 4096])
        name = f"s{number}" + "x" * random_.choice([0, 1, 40, 300])
        lines.append(f"{address:016x} T {name}\n")
        first.setdefault(address, name)
    table = SymbolTable.parse("".join(lines).encode())
    addresses = sorted(first)
    for start in addresses:
        for wanted in (start - 1, start, start + 3):
            index = bisect.bisect_right(addresses, wanted) - 1
            expected = Symbol(first[addresses[index]], wanted - addresses[index], None) if index >= 0 else None
            assert table.lookup(wanted) == expected


@pytest.mark.kernel
def test_the_live_kernels_symbols() -> None:
    with open("/proc/kallsyms", "rb") as file:
        data = file.read()
    table = SymbolTable.parse(data)
    if table.hidden:
        pytest.skip("this kernel shows no addresses (CAP_SYSLOG or kptr_restrict)")
    lines = [line.split() for line in data.splitlines()]
    address = next(int(line[0], 16) for line in lines if line[2] == b"schedule")
    found = table.lookup(address + 1)
    assert found is not None
    assert (found.offset, found.module) == (1, None)


def test_printk_formats_undo_c_escapes() -> None:
    text = (
        '0xffffffff82000000 : "CPU_ON"\n'
        '0xffffffff82000000 : "CPU_ON"\n'
        '0xffffffff82000010 : "line\\n\\ttab \\"quoted\\" back\\\\slash \\033[0m \\x41"\n'
        "no such line\n"
        '0xffffffff82000020 : ""\n'
    )
    assert parse_printk_formats(text) == {
        0xFFFFFFFF82000000: "CPU_ON",
        0xFFFFFFFF82000010: 'line\n\ttab "quoted" back\\slash \x1b[0m A',
        0xFFFFFFFF82000020: "",
    }


def test_what_was_asked_before_is_answered_the_same_however_much_was_asked_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(symbols_module, "_MOST_KNOWN", 8)
    table = SymbolTable.parse(KALLSYMS)
    asked = [0xFFFFFFFF81000000 + at for at in range(0, 0x420, 0x20)]
    first = [table.lookup(address) for address in asked]
    assert [table.lookup(address) for address in asked] == first
    assert first[0] == Symbol("_stext", 0, None)
    assert first[-1] is None
    assert len(table._known) <= 8
