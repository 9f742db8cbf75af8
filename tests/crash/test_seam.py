"""All that the archive and the sinks do to a disk goes through disk.py, where the crashes come."""

import ast
from collections.abc import Iterator

import pytest

from tests.crash.sites import ROOT, durable_files

FREE = {
    "collector/archive/disk.py",
    "collector/archive/lock.py",  # a lock lives as long as its process
    "sinks/connect/listening.py",  # so does a socket
    "sinks/tap/sink.py",
    "sinks/kafka/consume.py",  # what it writes is in Kafka, and is made again from there
}

CHANGES = {
    "fsync", "fdatasync", "sync", "rename", "renames", "replace", "unlink", "remove", "mkdir", "makedirs", "rmdir",
    "truncate", "ftruncate", "write", "writev", "pwrite", "pwritev", "link", "symlink", "posix_fallocate",
}  # fmt: skip
PATH_CHANGES = {"unlink", "rename", "mkdir", "rmdir", "touch", "write_bytes", "write_text", "hardlink_to", "symlink_to"}


def changes(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name):
            modes = [of.value for of in [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
                     if isinstance(of, ast.Constant)]  # fmt: skip
            if node.func.id == "open" and any(set("wax+") & set(str(mode)) for mode in modes):
                yield f"line {node.lineno}: open"
        if not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
        if owner == "disk":
            continue
        if (owner in ("os", "shutil") and node.func.attr in CHANGES) or node.func.attr in PATH_CHANGES:
            yield f"line {node.lineno}: {node.func.attr}"


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in durable_files()])
def test_the_disk_is_changed_through_the_seam_alone(name: str) -> None:
    found = list(changes(ast.parse((ROOT / name).read_text())))
    assert (found == []) != (name in FREE)


def test_a_change_would_be_seen() -> None:
    assert list(changes(ast.parse(
        "os.rename(a, b)\nfolder.mkdir()\ndisk.rename(a, b)\nopen(a, 'ab')\nopen(a, 'rb')"
    ))) == ["line 1: rename", "line 2: mkdir", "line 4: open"]  # fmt: skip
