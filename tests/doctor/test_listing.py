"""`list` and `doctor`: rows to tables, lines and JSON; the kernel is a tree of files."""

import io
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from collector.archive.lock import ArchiveLock
from collector.cli import main
from collector.config.load import parse_config
from collector.doctor import examine, listing
from collector.doctor.findings import REFUSED_FUNCTIONS, Finding
from collector.doctor.judge import Report
from collector.errors import EXIT_FAILURE, EXIT_OK, TracefsMissingError, TracefsPermissionError
from collector.show.tables import Column, cell, write_rows
from collector.tracefs import files
from collector.tracefs.files import TracefsDir
from tests.tracefs.tree import event_format, make_fake_kernel, put

COLUMNS = (Column("name", "name"), Column("n", "count", right=True), Column("in", "in"))
ROWS: list[dict[str, Any]] = [
    {"name": "a", "n": 1, "in": ["x", "y"]},
    {"name": "long name", "n": 1234, "in": []},
    {"name": "evil\x1b[2J\nforged", "n": None, "in": [True, False]},
]


def written(style: Any, rows: list[dict[str, Any]] = ROWS) -> str:
    out = io.StringIO()
    assert write_rows(COLUMNS, iter(rows), out, style) == len(rows)
    return out.getvalue()


def test_a_table_is_aligned_and_harmless() -> None:
    assert written("table") == (
        "name             count  in\n"
        "a                    1  x, y\n"
        "long name         1234  -\n"
        "evil?[2J?forged      -  yes, no\n"
    )


def test_lines_are_separated_by_tabs_and_have_no_head() -> None:
    assert written("lines") == "a\t1\tx, y\nlong name\t1234\t-\nevil?[2J?forged\t-\tyes, no\n"


def test_json_has_an_object_a_line_with_the_values_as_they_are() -> None:
    assert [json.loads(line) for line in written("json").splitlines()] == ROWS


def test_nothing_has_no_head() -> None:
    assert written("table", []) == ""


def test_a_long_list_flows() -> None:
    """The first rows set the widths: a generator is not read to its end before something is printed."""
    seen = 0

    def rows() -> Any:
        nonlocal seen
        for seen in range(20_000):
            yield {"name": "x", "n": seen, "in": None}

    class Watching(io.StringIO):
        first_write_at: int | None = None

        def write(self, text: str) -> int:
            if self.first_write_at is None:
                self.first_write_at = seen
            return super().write(text)

    out = Watching()
    assert write_rows(COLUMNS, rows(), out, "table") == 20_000
    assert out.first_write_at is not None
    assert out.first_write_at < 6_000


@pytest.mark.parametrize(("value", "text"), [(None, "-"), ("", "-"), (0, "0"), (True, "yes"), (("a", 1), "a, 1")])
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TracefsDir:
    """A top level and an instance `mine`."""
    tracefs = make_fake_kernel(tmp_path, "mine", entries=3)
    put(
        tmp_path,
        {
            "trace_clock": "[local] mono x86-tsc odd\n",
            "tracing_on": "1\n",
            "current_tracer": "blk\n",
            "available_tracers": "blk function nop\n",
            "instances/mine/available_tracers": "function nop\n",
            "instances/mine/current_tracer": "nop\n",
            "instances/mine/set_event": "sched:sched_switch\n",
            "set_event": "sched:sched_waking\nsched:sched_switch\n",
            "buffer_size_kb": "X\n",
            "per_cpu/cpu0/buffer_size_kb": "7\n",
            "trace_options": "overwrite\nnoraw\nblk_classic\nnoblk_cgroup\n",
            "options/overwrite": "1\n", "options/raw": "0\n", "options/blk_classic": "1\n",
            "options/func_stack_trace": "0\n", "options/unheard-of": "0\n",
            "events/header_page": (tmp_path / "instances/mine/events/header_page").read_text(),
            "events/sched/sched_switch/id": "300\n",
            "events/sched/sched_waking/format": event_format("sched_waking", 301),
            "available_filter_functions": "vfs_read\nvfs_write\nkvm_init [kvm]\n",
        },
    )  # fmt: skip
    monkeypatch.setattr(files, "find_tracefs", lambda: tmp_path)
    return tracefs


@pytest.fixture
def listed(kernel: TracefsDir, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """listed(words...) -> the objects that `list words... --json` prints."""

    def run(*words: str) -> list[dict[str, Any]]:
        assert main(["list", *words, "--json"]) == EXIT_OK
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


Listed = Callable[..., list[dict[str, Any]]]


def test_tracers_and_where_they_run(listed: Listed) -> None:
    blk, function, nop = listed("tracers")
    assert blk == {
        "tracer": "blk", "in_instances": False, "used_in": ["(top level)"], "configs": ["CONFIG_BLK_DEV_IO_TRACE"],
    }  # fmt: skip
    assert (function["in_instances"], function["used_in"]) == (True, [])
    assert nop["used_in"] == ["mine"]
    assert [row["tracer"] for row in listed("tracers", "--instance", "mine")] == ["function", "nop"]


def test_events_with_numbers_and_where_they_are_on(listed: Listed) -> None:
    assert listed("events") == [
        {"event": "sched:sched_switch", "id": 300, "enabled_in": ["(top level)", "mine"]},
        {"event": "sched:sched_waking", "id": 301, "enabled_in": ["(top level)"]},
    ]
    assert [row["enabled_in"] for row in listed("events", "*:*", "--instance", "mine")] == [["mine"], []]
    assert [row["id"] for row in listed("events", "sched:*_wak*")] == [301]


def test_functions_and_their_modules(listed: Listed) -> None:
    assert listed("functions", "*_[ri]*") == [
        {"function": "vfs_read", "module": None}, {"function": "kvm_init", "module": "kvm"},
    ]  # fmt: skip


def test_options_and_whose_they_are(listed: Listed) -> None:
    by_name = {row.pop("option"): row for row in listed("options")}
    assert by_name == {
        "overwrite": {"value": True, "tracer": None, "in_effect": True},
        "raw": {"value": False, "tracer": None, "in_effect": True},
        "blk_classic": {"value": True, "tracer": "blk", "in_effect": True},
        "func_stack_trace": {"value": False, "tracer": "function", "in_effect": False},
        "unheard-of": {"value": False, "tracer": "another", "in_effect": False},
    }


def test_clocks_and_what_they_count(listed: Listed) -> None:
    local, mono, tsc, odd = listed("clocks")
    assert local == {
        "clock": "local", "unit": "ns", "comparable": False, "wall_time": True, "used_in": ["(top level)", "mine"],
    }  # fmt: skip
    assert (mono["comparable"], mono["used_in"]) == (True, [])
    assert (tsc["unit"], tsc["wall_time"]) == ("cycles", False)
    assert (odd["unit"], odd["comparable"], odd["wall_time"]) == (None, None, False)


def test_instances_and_what_is_in_them(listed: Listed) -> None:
    top, mine = listed("instances")
    assert (top["instance"], top["tracer"], top["events_on"], top["buffer_kb"]) == ("(top level)", "blk", 2, None)
    assert mine == {
        "instance": "mine", "tracer": "nop", "clock": "local", "recording": True, "events_on": 1, "buffer_kb": 1410,
        "subbuf_kb": 4, "unread": 3, "held_by": None,
    }  # fmt: skip
    assert [row["instance"] for row in listed("instances", "m*")] == ["mine"]


def test_a_pipe_gets_plain_lines(kernel: TracefsDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "clocks", "mono"]) == EXIT_OK
    assert capsys.readouterr().out == "mono\tns\tyes\tyes\t-\n"


def test_a_glob_that_matches_nothing_is_said(kernel: TracefsDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tracers", "wake*"]) == EXIT_FAILURE
    assert "none of the tracers matches 'wake*'" in capsys.readouterr().err


def test_an_instance_that_is_not_there(kernel: TracefsDir, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "options", "--instance", "other"]) == EXIT_FAILURE
    assert "expected mine; got other" in capsys.readouterr().err


def test_functions_that_the_host_keeps_to_itself(kernel: TracefsDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: object, **kwargs: object) -> Any:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TracefsPermissionError) as caught:
        list(listing.list_functions(kernel, "*", None))
    assert caught.value.hint == REFUSED_FUNCTIONS


def test_a_kernel_that_cannot_filter_functions(kernel: TracefsDir) -> None:
    (kernel.path / "available_filter_functions").unlink()
    with pytest.raises(TracefsMissingError, match="CONFIG_DYNAMIC_FTRACE"):
        list(listing.list_functions(kernel, "*", None))


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """report(status) makes `doctor` find one thing that is needed, with that status."""

    def put_report(status: Any) -> None:
        finding = Finding("rings", "instances", status, "instances/: EPERM", "be root", needed=True)
        monkeypatch.setattr(examine, "examine", lambda config: Report("Linux 6.12", (finding,)))

    return put_report


def test_doctor_is_1_when_something_is_in_the_way(
    report: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    report("missing")
    assert main(["doctor"]) == EXIT_FAILURE
    assert capsys.readouterr().out == (
        "Linux 6.12\n\nrings\n  missing  instances  instances/: EPERM\n                      -> be root\n\n"
        "The configuration cannot run here: 1 obstacle.\n  rings: instances: instances/: EPERM\n"
    )
    assert main(["doctor", "--json"]) == EXIT_FAILURE
    assert json.loads(capsys.readouterr().out)["obstacles"] == ["rings: instances"]


def test_doctor_is_0_when_the_configuration_can_run(
    report: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    report("ok")
    assert main(["doctor", "-e", "irq:*"]) == EXIT_OK
    assert "The configuration can run here." in capsys.readouterr().out


def test_what_a_configuration_needs() -> None:
    (wanted,) = examine.wants_of(parse_config("[trace]\nevents = ['irq:*']\nclock = 'boot'\ncpus = '0-1'\n", "c.toml"))
    assert (wanted.events, wanted.clock, wanted.cpus, wanted.buffer_kb) == (("irq:*",), "boot", (0, 1), None)


def test_what_single_settings_need() -> None:
    (wanted,) = examine.wants_of(
        parse_config(
            """
            [trace]
            tracer = "function"
            read = "text"
            functions = ["vfs_*"]
            function_pids = [1]
            max_graph_depth = 3
            options = {func_stack_trace = true}
            probes = ["p:a do_exit", "r8:b do_exit", "u:c /bin/sh:0x10", "s:d int x"]
            triggers = {"sched:sched_switch" = ["hist:keys=pid", "stacktrace:5", "snapshot"]}
            stack_tracer = true
            tracing_thresh_us = 5
            """,
            "c.toml",
        )
    )
    assert wanted.needs == (
        "function filters", "graph filters", "function threads", "stack tracer", "kprobe", "kprobe", "uprobe",
        "synthetic", "histogram triggers", "snapshot",
    )  # fmt: skip
    assert (wanted.tracer, wanted.text, wanted.options) == ("function", True, ("func_stack_trace",))
    assert wanted.shared == ("tracing_thresh_us", "stack_tracer")


def test_every_instance_of_a_configuration_is_wanted() -> None:
    text = "[trace]\nclock = 'boot'\n[[instances]]\ninstance = 'a'\n[[instances]]\ninstance = 'b'\nread = 'text'\n"
    wants = examine.wants_of(parse_config(text, "c.toml"))
    assert [(w.instance, w.clock, w.text) for w in wants] == [("a", "boot", False), ("b", "boot", True)]


def test_the_places_of_a_configuration(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = parse_config(f"[archive]\nfolder = '{tmp_path}/a/b'\n[http]\nlisten = '127.0.0.1:{port}'\n", "c.toml")
        place = examine.read_place(config)
    assert (place.folder, place.folder_access, place.locked_by) == (f"{tmp_path}/a/b", "ok", None)
    assert place.size_bytes >= place.free_bytes > 0
    assert place.listen_access == "EADDRINUSE"
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    config = parse_config(f"[archive]\nfolder = '{tmp_path}/file/x'\n[http]\nlisten = ''\n", "c.toml")
    assert examine.read_place(config).folder_access == "ENOTDIR"


def test_a_signal_to_end_does_so_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught, examine._exit_on_terminate():
        os.kill(os.getpid(), signal.SIGTERM)
    assert caught.value.code == 143
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_archive_that_is_being_written(tmp_path: Path) -> None:
    config = parse_config(f"[archive]\nfolder = '{tmp_path}'\n", "c.toml")
    with ArchiveLock(tmp_path):
        assert examine.read_place(config).locked_by == os.getpid()
    assert examine.read_place(config).locked_by is None
