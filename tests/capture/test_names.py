"""Names are read when a segment needs them, and again when they may have changed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from collector.archive.objects import build_object
from collector.capture import names as names_module
from collector.capture.formats import FormatBook
from collector.capture.names import (
    GONE_AGE_S,
    MODULES_AGE_S,
    PROC_THREADS,
    SYMBOLS_AGE_S,
    THREADS_AGE_S,
    VOLATILE_AGE_S,
    HostNames,
)
from collector.capture.visit import Ask
from collector.errors import SegmentError
from collector.tracefs.files import TracefsDir
from tests.capture.rig import Rig, blocks_of, page
from tests.pages import as_file


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    time = SimpleNamespace(now_s=1000.0)
    time.monotonic = lambda: time.now_s
    monkeypatch.setattr(names_module, "time", time)
    return time


@pytest.fixture
def case(tmp_path: Path) -> Path:
    (tmp_path / "tracefs").mkdir()
    (tmp_path / "kallsyms").write_text("ffffffff81000000 T start\nffffffff81000100 T other\t[mod]\n")
    (tmp_path / "tracefs/saved_cmdlines").write_text("7 bash\n8 two words\n")
    return tmp_path


def names_of(case: Path, *books: FormatBook) -> HostNames:
    return HostNames(TracefsDir(case / "tracefs"), list(books))


def test_addresses_get_the_symbol_they_are_in(case: Path, time: SimpleNamespace) -> None:
    assert names_of(case).symbols([0xFFFFFFFF81000004, 0xFFFFFFFF81000100]) == {
        0xFFFFFFFF81000004: ("start", 4, ""),
        0xFFFFFFFF81000100: ("other", 0, "mod"),
    }


def test_symbols_of_a_module_that_came_later_are_found_after_a_while(case: Path, time: SimpleNamespace) -> None:
    (case / "kallsyms").write_text("")
    names = names_of(case)
    assert names.symbols([0xFFFFFFFF81000004]) == {}
    (case / "kallsyms").write_text("ffffffff81000000 T late\n")
    assert names.symbols([0xFFFFFFFF81000004]) == {}  # reading them all takes a fifth of a second
    time.now_s += SYMBOLS_AGE_S
    assert names.symbols([0xFFFFFFFF81000004]) == {0xFFFFFFFF81000004: ("late", 4, "")}


def test_threads_are_named_as_the_kernel_has_saved_them(case: Path, time: SimpleNamespace) -> None:
    names = names_of(case)
    assert names.comms([7, 8, 9]) == {7: b"bash", 8: b"two words"}
    (case / "tracefs/saved_cmdlines").write_text("9 new\n")
    assert names.comms([9]) == {}
    time.now_s += THREADS_AGE_S
    assert names.comms([9]) == {9: b"new"}


def test_tree_without_any_names_gives_none(tmp_path: Path, time: SimpleNamespace) -> None:
    (tmp_path / "tracefs").mkdir()
    names = names_of(tmp_path)
    assert (names.symbols([5]), names.comms([5]), names.tgids([5]), names.printk([5])) == ({}, {}, {}, {})


def test_format_is_found_in_the_book_that_made_it(case: Path) -> None:
    with as_file(page(1)) as fd:
        rig, other = Rig(fd), Rig(fd)
        (block,) = blocks_of(rig.visit(Ask.CLOSE))
    format_id = block.kinds[0].format_id
    names = names_of(case, other.book, rig.book)
    assert names.format_object(format_id) == build_object("format", rig.plan.events[505].format_object())[1]
    with pytest.raises(SegmentError, match="a format that nobody has"):
        names.format_object(b"12345678")


MOD = "mod 4096 0 - Live 0xffffffffc0000000\n"
NEW = "new 4096 0 - Live 0xffffffffc0001000\n"
KERNEL = "ffffffff81000000 T start\n"
MOD_SYMBOL = "ffffffffc0000000 t mod_fn\t[mod]\n"
NEW_SYMBOL = "ffffffffc0001000 t new_fn\t[new]\n"
MOD_FN, NEW_FN = 0xFFFFFFFFC0000008, 0xFFFFFFFFC0001008


class Host:
    """A recorded tree that is taken for the live kernel."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "tracefs").mkdir()
        (folder / "proc").mkdir()
        self.names = HostNames(TracefsDir(folder / "tracefs"), [], folder / "proc")

    def load(self, modules: str, kallsyms: str) -> None:
        (self.folder / "proc/modules").write_text(modules)
        (self.folder / "kallsyms").write_text(KERNEL + kallsyms)

    def name(self, *addresses: int) -> list[str | None]:
        found = self.names.symbols(addresses)
        return [found[a][0] if a in found else None for a in addresses]


@pytest.fixture
def machine(tmp_path: Path, time: SimpleNamespace) -> Host:
    return Host(tmp_path)


def test_a_module_is_never_named_by_a_table_that_is_older(machine: Host, time: SimpleNamespace) -> None:
    machine.load(MOD, MOD_SYMBOL)
    assert machine.name(MOD_FN) == ["mod_fn"]
    machine.load(MOD + NEW, MOD_SYMBOL + NEW_SYMBOL)
    # The old table would name it mod_fn+0x1008. The kernel itself does not change.
    assert machine.name(NEW_FN, MOD_FN, 0xFFFFFFFF81000004) == [None, None, "start"]
    time.now_s += MODULES_AGE_S
    assert machine.name(NEW_FN, MOD_FN) == ["new_fn", "mod_fn"]


def test_a_module_that_has_just_gone_keeps_its_name_for_a_while(machine: Host, time: SimpleNamespace) -> None:
    machine.load(MOD + NEW, MOD_SYMBOL + NEW_SYMBOL)
    assert machine.name(NEW_FN) == ["new_fn"]
    time.now_s += MODULES_AGE_S
    machine.load(MOD, MOD_SYMBOL)
    assert machine.name(NEW_FN, MOD_FN) == ["new_fn", "mod_fn"]
    time.now_s += GONE_AGE_S
    assert machine.name(NEW_FN) == [None]  # behind the module's end


def test_of_two_modules_that_were_in_one_place_neither_is_named(machine: Host, time: SimpleNamespace) -> None:
    machine.load(MOD, MOD_SYMBOL)
    assert machine.name(MOD_FN) == ["mod_fn"]
    time.now_s += MODULES_AGE_S
    machine.load("other 4096 0 - Live 0xffffffffc0000000\n", "ffffffffc0000000 t other_fn\t[other]\n")
    assert machine.name(MOD_FN) == [None]
    time.now_s += GONE_AGE_S
    assert machine.name(MOD_FN) == ["other_fn"]


def test_bpf_programs_are_named_by_a_fresh_table_only(machine: Host, time: SimpleNamespace) -> None:
    machine.load("", "ffffffffc0000000 t bpf_prog_1\t[bpf]\n")
    assert machine.name(MOD_FN) == ["bpf_prog_1"]
    machine.load("", "ffffffffc0000000 t bpf_prog_2\t[bpf]\n")
    time.now_s += VOLATILE_AGE_S
    assert machine.name(MOD_FN) == ["bpf_prog_2"]


def test_addresses_of_processes_cost_no_reading(machine: Host, time: SimpleNamespace) -> None:
    machine.load("", "")
    assert machine.name(0x401000) == [None]
    (machine.folder / "kallsyms").write_text("0000000000401000 T wrong\n")
    time.now_s += SYMBOLS_AGE_S
    assert machine.name(0x401000) == [None]


def test_proc_is_asked_for_a_bounded_number_of_threads(machine: Host, time: SimpleNamespace) -> None:
    for pid in range(1, PROC_THREADS + 3):
        folder = machine.folder / f"proc/{pid}"
        folder.mkdir()
        (folder / "comm").write_text("x\n")
        (folder / "status").write_text("Name:\tx\nTgid:\t1\nPPid:\t1\n")
    pids = range(1, PROC_THREADS + 3)
    assert len(machine.names.proc_threads(pids)) == PROC_THREADS
    assert machine.names.proc_threads(pids) == {}
    time.now_s += THREADS_AGE_S
    assert machine.names.proc_threads([PROC_THREADS + 2]) == {PROC_THREADS + 2: (b"x", 1)}


def test_a_recorded_tree_has_no_processes(case: Path, time: SimpleNamespace) -> None:
    assert names_of(case).proc_threads([1]) == {}
