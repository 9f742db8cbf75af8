"""Where the code syncs: the calls that a test leaves out in turn."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("collector/archive", "sinks")  # all that writes what must be durable

SYNCS = ("fdatasync", "fsync", "fsync_folder")  # of disk.py

# What comes to one of these in the end: such a call is a site of its own, and without it none below it is done.
LEADING_TO_SYNCS = ("sync", "_sync", "replace_file", "write_cursor")

# Not modelled here, for what is synced there is written past disk.py; {module: why}.
ELSEWHERE = {
    "sinks/kafka/consume.py": "what it writes is in Kafka, and is made again from there",
    "sinks/objectstore/durable.py": "obstore writes the files; tests/sinks/objectstore/test_stores.py takes each away",
    "sinks/objectstore/store.py": "as durable.py",
}


def durable_files() -> list[Path]:
    """The modules that may write durable files."""
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def sync_sites() -> list[str]:
    """Every place of the code that syncs, or has something synced, as "module:line"."""
    return [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in durable_files()
        if str(path.relative_to(ROOT)) not in ELSEWHERE
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and (called(node.func) in SYNCS or name_of(node.func) in LEADING_TO_SYNCS)
    ]


def called(function: ast.expr) -> str:
    """The name of a function of disk.py that is called, inside of it or from outside."""
    if isinstance(function, ast.Attribute):
        return function.attr if isinstance(function.value, ast.Name) and function.value.id == "disk" else ""
    return name_of(function)


def name_of(function: ast.expr) -> str:
    """The last name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def sites_above() -> set[str]:
    """The lines of the code that the caller's step comes from, as sync_sites() names them."""
    found = set()
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        path = frame.f_code.co_filename
        if path.startswith(f"{ROOT}/"):
            found.add(f"{path[len(str(ROOT)) + 1 :]}:{frame.f_lineno}")
    return found
