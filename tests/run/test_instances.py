"""The instances of a run together, on a stand-in for the kernel."""

import errno
from pathlib import Path

import pytest

from collector.config.load import parse_config
from collector.control.desired import build_spec
from collector.control.journal import Journals
from collector.errors import InstanceBusyError
from collector.run import instances
from collector.run.instances import InstanceGroup
from tests.tracefs.tree import SECOND_RING, make_fake_kernel, put

KEYS = """\
[trace]
instance = "ours"
events = ["sched:sched_switch"]
max_graph_depth = 3
allow_top_level = true
exclude_self = false
"""


def test_one_that_stays_does_not_keep_the_others_from_being_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything of it touched once more."""
    monkeypatch.setattr(instances, "REMOVE_TIMEOUT_S", 0)
    kernel = make_fake_kernel(tmp_path / "tracefs", "ours")
    (make_fake_kernel(tmp_path / "more/tracefs", "theirs").path / "instances/theirs").rename(
        kernel.path / "instances/theirs"
    )
    group = InstanceGroup(Journals(tmp_path / "run", "boot-1"))
    for keys in (
        KEYS,
        KEYS.replace("ours", "theirs").replace("max_graph_depth = 3\n", 'probes = ["p:open vfs_read"]\n'),
    ):
        config = parse_config(keys, "c")
        group.open(kernel, config, build_spec(config.trace, kernel))
    group.configure()
    kernel.refused[("dynamic_events", "-:ftc_theirs/open")] = errno.EBUSY
    monkeypatch.setattr("os.rmdir", lambda path: None)
    with pytest.raises(InstanceBusyError, match=r"theirs: the instance can't be removed.*dynamic_events.*EBUSY"):
        group.undo(complete=True)
    assert (kernel.path / "max_graph_depth").read_text() == "0\n"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["theirs.undo"]
    kernel.written.clear()
    group.give_up(collected=True)
    assert kernel.written == []


def test_what_no_time_was_left_to_read_of_a_recorder_is_counted_of_both_rings(tmp_path: Path) -> None:
    kernel = make_fake_kernel(tmp_path / "tracefs", "ours", entries=4)
    put(kernel.instance("ours").path, {"snapshot": SECOND_RING["full"]})
    config = parse_config(KEYS, "c")
    group = InstanceGroup(Journals(tmp_path / "run", "boot-1"))
    group.open(kernel, config, build_spec(config.trace, kernel))
    group.configure()
    (held,) = group
    assert held.cleared == {0: 8}
    assert [value for name, value in kernel.written if name == "snapshot"] == ["1", "1", "0"]
    held.instance.close()
