"""All that the archive does to a disk goes through disk.py, where the crashes come."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [p for folder in ("collector/archive", "sinks/file") for p in sorted((ROOT / folder).glob("*.py"))]

# The lock needs no durability: it lives as long as its process.
FREE = {"disk.py", "lock.py"}

CHANGES = {
    "fsync", "fdatasync", "sync", "rename", "renames", "replace", "unlink", "remove", "mkdir", "makedirs", "rmdir",
    "truncate", "ftruncate", "write", "writev", "pwrite", "pwritev", "link", "symlink", "posix_fallocate",
}  # fmt: skip
PATH_CHANGES = {"unlink", "rename", "mkdir", "rmdir", "touch", "write_bytes", "write_text", "hardlink_to", "symlink_to"}


def changes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if owner == "disk":
            continue
        if (owner in ("os", "shutil") and node.func.attr in CHANGES) or node.func.attr in PATH_CHANGES:
            yield f"line {node.lineno}: {node.func.attr}"


@pytest.mark.parametrize("path", [p for p in FILES if p.name not in FREE], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_disk_is_changed_through_the_seam_alone(path: Path) -> None:
    assert list(changes(ast.parse(path.read_text()))) == []


def test_a_change_would_be_seen() -> None:
    assert list(changes(ast.parse("os.rename(a, b)\nfolder.mkdir()\ndisk.rename(a, b)"))) == [
        "line 1: rename", "line 2: mkdir",
    ]  # fmt: skip
