"""What is read from /proc for names."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from collector.capture.host import PROC, parse_comm, read_modules, read_threads, reads_kernel_pids


def make_thread(proc: Path, pid: int, comm: bytes, tgid: int, parent: int = 1, name: bytes = b"escaped") -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "comm").write_bytes(comm + b"\n")
    (folder / "status").write_bytes(b"Name:\t%s\nUmask:\t0022\nTgid:\t%d\nNgid:\t0\nPPid:\t%d\n" % (name, tgid, parent))


def test_threads_that_live_have_a_name_and_a_process(tmp_path: Path) -> None:
    make_thread(tmp_path, 7, b"two words", 5)
    make_thread(tmp_path, 8, b"new\nline\n", 8)
    make_thread(tmp_path, 9, b"kworker/u8:2-events_unbound", 9, parent=2)
    assert read_threads(tmp_path, [7, 8, 9, 10]) == {
        7: (b"two words", 5), 8: (b"new\nline\n", 8), 9: (b"kworker/u8:2", 9),
    }  # fmt: skip
    (tmp_path / "7/status").write_bytes(b"Name:\tx\n")
    assert read_threads(tmp_path, [7]) == {}


@pytest.mark.parametrize(
    ("data", "is_kernel", "comm"),
    [
        (b"kworker/0:1H-kblockd\n", True, b"kworker/0:1H"), (b"kworker/0:1+ext4\n", True, b"kworker/0:1"),
        (b"kworker/R-btrfs-delalloc\n", True, b"kworker/R-btrfs"), (b"kworker/0:1-x\n", False, b"kworker/0:1-x"),
        (b"a_long_kthread_name\n", True, b"a_long_kthread_"), (b"\n", False, b""), (b"\n\n", False, b"\n"),
        (b"\xff\x1b\n", False, b"\xff\x1b"),
    ],
)  # fmt: skip
def test_names_are_those_of_the_records(data: bytes, is_kernel: bool, comm: bytes) -> None:
    assert parse_comm(data, is_kernel=is_kernel) == comm


def test_modules_are_the_same_while_only_their_use_changes(tmp_path: Path) -> None:
    assert read_modules(tmp_path) == frozenset()
    modules = tmp_path / "modules"
    modules.write_text("a 4096 1 - Live 0xffffffffc0000000\nb 8192 0 a, Live 0xffffffffc0010000 (OE)\n")
    before = read_modules(tmp_path)
    modules.write_text("b 8192 7 a, Live 0xffffffffc0010000 (OE)\na 4096 2 b, Live 0xffffffffc0000000\nodd line\n")
    assert read_modules(tmp_path) == before
    modules.write_text("a 4096 1 - Live 0xffffffffc0000000\n")
    assert len(before) == 2
    assert read_modules(tmp_path) < before


def test_this_process_and_its_threads() -> None:
    started, ended = threading.Event(), threading.Event()
    tids: list[int] = []

    def work() -> None:
        Path("/proc/thread-self/comm").write_bytes(b"ftc \x1b[1m\xff\n(")
        tids.append(threading.get_native_id())
        started.set()
        ended.wait()

    thread = threading.Thread(target=work)
    thread.start()
    started.wait()
    try:
        assert read_threads(PROC, tids) == {tids[0]: (b"ftc \x1b[1m\xff\n(", os.getpid())}
    finally:
        ended.set()
        thread.join()


def test_ids_of_another_namespace_are_not_those_of_the_trace(tmp_path: Path) -> None:
    assert not reads_kernel_pids(tmp_path)
    code = "from pathlib import Path; from collector.capture.host import *; print(reads_kernel_pids(PROC))"
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--", sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    if done.returncode:
        pytest.skip(f"no namespace of its own here: {done.stderr.strip()[-80:]}")
    assert done.stdout == "False\n"
