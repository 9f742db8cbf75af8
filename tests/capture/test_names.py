"""Names are read when a segment needs them, and again when they may have changed."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from collector.archive.objects import build_object
from collector.capture import names as names_module
from collector.capture.formats import FormatBook
from collector.capture.names import SYMBOLS_AGE_S, THREADS_AGE_S, HostNames
from collector.capture.stream import Ask
from collector.errors import SegmentError
from collector.tracefs.files import TracefsDir
from tests.capture.rig import Rig, as_file, blocks_of, page


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
