"""Patterns of functions are checked before the kernel is asked."""

import pytest

from collector.errors import UsageError
from collector.tracefs.functions import match_patterns, matching_functions, parse_functions

AVAILABLE = parse_functions(
    "vfs_read\nvfs_write\nvfs_writev\ndo_sys_openat2\next4_sync_file [ext4]\next4_read [ext4]\nnf_hook [nf_tables]\n"
)


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("vfs_read", {"vfs_read"}),
        ("vfs_*", {"vfs_read", "vfs_write", "vfs_writev"}),
        ("*read", {"vfs_read", "ext4_read"}),
        ("vfs_writ?", {"vfs_write"}),
        (":mod:ext4", {"ext4_sync_file", "ext4_read"}),
        ("*sync*:mod:ext4", {"ext4_sync_file"}),
        ("vfs_read:mod:ext4", set()),
        (":mod:nf-tables", {"nf_hook"}),
        ("*:mod:*", {"ext4_sync_file", "ext4_read", "nf_hook"}),
        ("nothing", set()),
    ],
)
def test_patterns_mean_functions(pattern: str, names: set[str]) -> None:
    assert matching_functions(pattern, AVAILABLE) == names


def test_the_filter_file_reads_as_functions_too() -> None:
    assert parse_functions("#### all functions enabled ####\n") == []
    assert parse_functions("vfs_read\next4_read [ext4]\nvfs_write:traceoff:unlimited\n") == [
        ("vfs_read", ""), ("ext4_read", "ext4"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("vfs_raed", r"set_ftrace_filter: .*no such function.*got 'vfs_raed'; did you mean vfs_read"),
        ("openat2", "did you mean do_sys_openat2"),
        (":mod:ext3", r"no function of such a module.*did you mean ext4"),
        ("zzz", "inlined"),
        ("vfs_read:traceoff", "not a pattern"),
        ("vfs_read vfs_write", "not a pattern"),
        ("!vfs_read", "not a pattern"),
        ("", "not a pattern"),
    ],
)
def test_what_means_nothing_is_refused_with_what_comes_near(pattern: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match_patterns(["vfs_write", pattern], AVAILABLE, "set_ftrace_filter")
