"""A folder that goes away, that another process has, or that one left when it died."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from collector.archive.lock import is_locked
from collector.batch import Delivery
from collector.errors import ArchiveFullError, ArchiveLockedError
from sinks.contract.base import Item
from tests.capture.rig import NOISY_ENTRIES
from tests.sinks.file.rig import THREE_BLOCKS, MakeArchive

# ---- it goes away


async def test_folder_removed_while_running_is_made_again_and_the_loss_is_told(make_archive: MakeArchive) -> None:
    async with make_archive().running() as archive:
        await archive.deliver()
        shutil.rmtree(archive.folder)
        await archive.wait(1)
        assert "the folder is gone: create it again" in (archive.suspended or "")
        assert await archive.deliver() is Delivery.REJECTED
        await archive.wait(3)
        assert archive.suspended is None
        await archive.deliver()
        await archive.wait(3)
    assert len(archive.sealed) == 1
    assert archive.gaps() == [("discarded", NOISY_ENTRIES)]
    assert archive.events() == NOISY_ENTRIES


async def test_a_folder_removed_while_a_segment_is_due_is_made_again(make_archive: MakeArchive) -> None:
    async with make_archive(segment_age_s=100.0).running() as archive:
        await archive.deliver()
        await archive.wait(98)
        shutil.rmtree(archive.folder)
        await archive.deliver()
        await archive.wait(5)  # due at the second one: it cannot be sealed
        assert archive.suspended is None
        assert await archive.deliver() is Delivery.DELIVERED


async def test_folder_that_was_made_again_is_locked(make_archive: MakeArchive) -> None:
    """Else `recover` would seal a segment that is being written."""
    async with make_archive().running() as archive:
        await archive.deliver()
        shutil.rmtree(archive.folder)
        await archive.wait(6)
        await archive.deliver()
        assert len(archive.parts) == 1
        assert is_locked(archive.folder)
    assert not is_locked(archive.folder)


async def test_folder_that_cannot_be_made_says_where_and_what_to_do(make_archive: MakeArchive, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveFullError, match=r"file/archive: cannot use the archive folder: .*--output"):
        await make_archive(tmp_path / "file" / "archive").sink.open()


# ---- it is, or was, another's

HOLD = """if True:
    import sys; from pathlib import Path; from collector.archive.lock import ArchiveLock
    lock = ArchiveLock(Path(sys.argv[1]))
    print("held", flush=True)
    sys.stdin.read()"""


async def test_second_process_on_an_archive_is_refused_and_told_who_has_it(make_archive: MakeArchive) -> None:
    archive = make_archive()
    archive.folder.mkdir()
    command = [sys.executable, "-c", HOLD, archive.folder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ArchiveLockedError, match=rf"archive: .*process {holder.pid} .*another --output"):
            await archive.sink.open()
        holder.stdin.close()
    await archive.sink.open()  # the kernel let go of it
    await archive.sink.close()


async def test_crash_loses_nothing_that_was_synced(make_archive: MakeArchive) -> None:
    archive = make_archive(segment_bytes=THREE_BLOCKS)
    items: list[Item] = [archive.make_block() for _ in range(5)]
    child = os.fork()
    if child == 0:  # the daemon, which dies without a word
        try:
            archive.sink._open()
            archive.sink._deliver([*items, archive.sample(keep=True)])
            archive.sink._sync()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert (len(archive.sealed), len(archive.parts)) == (1, 1)
    assert archive.problems() != []
    after = make_archive()
    await after.sink.open()
    assert (len(archive.sealed), archive.parts) == (2, [])
    assert archive.events() == 5 * NOISY_ENTRIES
    after.sink.unlock()
    assert archive.problems() == []
