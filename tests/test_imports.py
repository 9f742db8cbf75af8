"""Who may import whom: the table of rooms in docs/architecture.md, and the few rules that stand below it.

Looks at the source, not at what happens to be loaded: an import inside a function counts too, and so does a cimport.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("collector", "sinks")

# What a pure module has no business with.
IMPURE_IMPORTS = {"asyncio", "datetime", "os", "random", "select", "socket", "subprocess", "threading", "time", "trio"}

# {library: the rooms that may import it}
LIBRARIES = {
    "prometheus_client": ("collector.monitor",),
    "pydantic": ("collector.config", "sinks"),
    "confluent_kafka": ("sinks.kafka",),
    "obstore": ("sinks.objectstore",),
    "hypercorn": ("collector.monitor",),
}

# Where names of files in tracefs may stand.
TRACEFS_ROOMS = ("collector.tracefs", "collector.control", "collector.doctor")
TRACEFS_NAMES = re.compile(
    r"/sys/kernel/(debug/)?tracing|trace_pipe|tracing_on\b|tracing_cpumask|set_event|per_cpu/cpu|saved_cmdlines|saved_tgids"
    r"|available_events|printk_formats"
)
# A file of a TracefsDir, of which there are only so many names, named by its path.
TRACEFS_PATH = re.compile(r"\b(tree|tracefs|top|dir)\.path\s*/")
LOG_CALLS = {"debug", "info", "warning", "error", "exception", "add_argument"}

# Folders of tests that are no room's: what stands beside the tree in tests/ (see CONTRIBUTING.md).
OTHER_TESTS = {"archives", "contract", "crash", "e2e", "fixtures", "guest", "kernel", "kernels", "oracle",
               "project", "situations", "sinks"}  # fmt: skip


class Room(NamedTuple):
    """A row of the table: a package, or modules that stand loose."""

    modules: tuple[str, ...]  # what it is made of, as dotted names
    imports: frozenset[str]  # of the rooms that it may import
    open: frozenset[str] | None  # the modules that others may import; None: all


def dotted(name: str) -> str:
    """`tracefs/` -> collector.tracefs, `sinks/runner.py` -> sinks.runner"""
    name = name.strip().removesuffix(".py").rstrip("/").replace("/", ".")
    return name if name.split(".")[0] in PACKAGES else f"collector.{name}"


def read_rooms() -> dict[str, Room]:
    """{room, or module of a row that has several: its row} from top to bottom of the table."""
    rooms: dict[str, Room] = {}
    text = ARCHITECTURE.read_text().partition("\n## Rooms\n")[2].partition("\n## ")[0]
    for names, imports, open_ in re.findall(r"(?m)^\| (`[^|]*`) \|[^|]*\|([^|]*)\|([^|]*)\|$", text):
        made = tuple(dotted(name) for name in re.findall(r"`([^`]+)`", names))
        words = [word.strip() for word in open_.split(",")]
        room = Room(
            made,
            frozenset(dotted(name) for name in imports.split(",") if name.strip()),
            None if words == ["all"] else frozenset(word for word in words if word),
        )
        rooms.update(dict.fromkeys(made, room))
    return rooms


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def read_sources() -> dict[str, list[Path]]:
    """{module: its files} of all Python and Cython of the project's packages."""
    found: dict[str, list[Path]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.p*")):
            if path.suffix in (".py", ".pyx", ".pxd"):
                found.setdefault(module_name(path), []).append(path)
    return found


ROOMS = read_rooms()
SOURCES = read_sources()
PYTHON = {module: paths[0] for module, paths in SOURCES.items() if paths[0].suffix == ".py"}
TREES = {module: ast.parse(path.read_text()) for module, path in PYTHON.items()}
GROUND = next(iter(ROOMS.values())).modules  # the first row, which all may import


@cache
def imports_of(path: Path) -> frozenset[tuple[str, str]]:
    """(module, name) of each import anywhere in a file; name is "" for `import module`."""
    found: set[tuple[str, str]] = set()
    if path.suffix != ".py":
        for base, names in re.findall(r"(?m)^\s*from ([\w.]+) c?import (\([^)]*\)|.*)$", path.read_text()):
            found.update((base, name) for name in re.findall(r"\w+", names))
        return frozenset(found)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; ours are by full names"
            found.update((node.module or "", alias.name) for alias in node.names)
    return frozenset(found)


@cache
def imported_modules(module: str) -> frozenset[str]:
    """The modules that this one imports; of `from a import b` a.b where that is a module of ours, else a."""
    found = set()
    for path in SOURCES[module]:
        for base, name in imports_of(path):
            found.add(f"{base}.{name}" if f"{base}.{name}" in SOURCES else base)
    return frozenset(found - {module})


def room_of(module: str) -> str:
    """The row's name of a module: its own, or that of the package that it is in."""
    return module if module in ROOMS else ".".join(module.split(".")[:2])


def ours(module: str) -> set[str]:
    return {name for name in imported_modules(module) if name.split(".")[0] in PACKAGES}


def strings(tree: ast.Module) -> Iterator[str]:
    """The text constants of a module, without docstrings and messages of errors."""
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOG_CALLS
        ):
            left_out.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def is_pure(module: str) -> bool:
    """Whether its docstring, or its room's, says "Pure."."""
    docstrings = [ast.get_docstring(TREES[name]) or "" for name in (module, room_of(module)) if name in TREES]
    return any(re.search(r"(?:^|\s)Pure\.(?:\s|$)", text) for text in docstrings)


def test_there_is_something_to_look_at() -> None:
    assert {"collector.cli", "collector.archive.frame", "collector.decode.ring", "sinks.registry"} <= set(SOURCES)
    assert {"collector.archive", "collector.run", "sinks.wire", "collector.cli"} <= set(ROOMS)
    assert "collector.config.load" in imported_modules("collector.commands.words")  # inside a function
    assert "collector.decode.msg" in imported_modules("collector.read.unfold")  # a cimport
    assert set(GROUND) == {"collector.errors", "collector.version", "collector.batch"}


def test_each_room_has_its_row_in_the_architecture_page_and_no_more() -> None:
    assert {room_of(module) for module in SOURCES} - set(PACKAGES) == set(ROOMS)
    assert ours("sinks") == set()


def imports_between_rooms() -> Iterator[tuple[str, Room, str, str]]:
    """(module, its row, what it imports, that one's room), where the room is another and not the ground."""
    for module in SOURCES:
        here = ROOMS.get(room_of(module))
        for name in ours(module) if here is not None else ():
            there = room_of(name)
            if here is not None and there not in here.modules and there not in GROUND:
                yield module, here, name, there


def test_a_module_imports_what_its_rooms_row_allows() -> None:
    assert [
        f"{module}: {name}" for module, here, name, there in imports_between_rooms() if there not in here.imports
    ] == []


def test_a_module_imports_through_the_doors_of_other_rooms() -> None:
    around = []
    for module, _, name, there in imports_between_rooms():
        door = ROOMS[there].open
        if door is not None and name != there and name.split(".")[-1] not in door:
            around.append(f"{module}: {name}")
    assert around == []


def test_a_room_imports_only_rooms_above_it_in_the_table() -> None:
    above: set[str] = set()
    for room in dict.fromkeys(ROOMS.values()):
        assert room.imports <= above, room.modules
        above.update(room.modules)


def test_the_table_allows_nothing_that_nobody_needs() -> None:
    used = {(room_of(module), room_of(name)) for module in SOURCES for name in ours(module)}
    entered = {name for module in SOURCES for name in ours(module) if room_of(module) != room_of(name)}
    for room in dict.fromkeys(ROOMS.values()):
        needed = {there for here, there in used if here in room.modules}
        assert room.imports <= needed, f"{room.modules}: imports"
        opened = {name.split(".")[-1] for name in entered if room_of(name) in room.modules and name not in room.modules}
        assert (room.open or frozenset()) <= opened, f"{room.modules}: open"


def test_a_name_is_imported_from_where_it_is_made() -> None:
    for module, path in PYTHON.items():
        for base, name in imports_of(path):
            if name and base in PYTHON and module != "collector" and f"{base}.{name}" not in SOURCES:
                passed_on = {each for _, each in imports_of(PYTHON[base])}
                assert name not in passed_on or base == "collector", f"{module}: {name} is only passed on by {base}"


def test_pure_modules_do_no_input_or_output_and_have_no_clock() -> None:
    found = {module: {name.split(".")[0] for name in imported_modules(module)} for module in filter(is_pure, PYTHON)}
    assert {module: names & IMPURE_IMPORTS for module, names in found.items() if names & IMPURE_IMPORTS} == {}


def test_the_rooms_of_parsers_and_protocols_have_pure_modules() -> None:
    rooms = {room_of(module) for module in PYTHON if is_pure(module)}
    assert {"collector.tracefs", "collector.archive", "collector.control", "collector.doctor", "sinks.kafka"} <= rooms


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_stays_in_its_rooms(library: str) -> None:
    users = {module for module in SOURCES if any(within(name, library) for name in imported_modules(module))}
    assert users
    assert {module for module in users if not any(within(module, room) for room in LIBRARIES[library])} == set()


def test_tracefs_files_are_opened_in_one_place() -> None:
    found = [module for module, path in PYTHON.items() if TRACEFS_PATH.search(path.read_text())]
    assert found == ["collector.tracefs.files"]


def test_tracefs_files_are_named_in_three_rooms() -> None:
    others = [module for module in PYTHON if not any(within(module, room) for room in TRACEFS_ROOMS)]
    named = {module: [text for text in strings(TREES[module]) if TRACEFS_NAMES.search(text)] for module in others}
    assert {module: texts for module, texts in named.items() if texts} == {}


def test_the_packages_door_is_light() -> None:
    for node in TREES["collector"].body:
        if isinstance(node, ast.ImportFrom):
            assert node.module in ("importlib", "typing")


def test_inner_loops_make_no_python_objects() -> None:
    """Every `cdef` function of a .pyx that is declared nogil is noexcept too: an exception needs the GIL."""
    for path in sorted(ROOT.glob("collector/**/*.pyx")):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if re.match(r"\s*cdef .*\) (.*\b)?nogil:", line):
                assert "noexcept nogil" in line, f"{path}:{number}"


@pytest.mark.parametrize("package", sorted(name for name, path in PYTHON.items() if path.name == "__init__.py"))
def test_each_room_says_what_it_is(package: str) -> None:
    text = ast.get_docstring(TREES[package]) or ""
    assert 5 <= len(text.split("\n")) <= 15
    named = set(re.findall(r"\b(\w+)\.(?:pyx?|pxd)\b", text))
    assert named, "it says in what order to read its files"
    assert named <= {path.stem for paths in SOURCES.values() for path in paths} | {"__init__"}


def test_tests_mirror_the_tree() -> None:
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")} - {Path()}
    for folder in folders:
        if folder.parts[0] not in OTHER_TESTS or (folder.parts[0] == "sinks" and len(folder.parts) > 1):
            name = ".".join(folder.parts) if folder.parts[0] == "sinks" else f"collector.{folder.parts[0]}"
            assert name in ROOMS, f"tests/{folder}"
