"""Reports on a stand-in for the kernel: what is new, what is read, and what the archive says of it."""

import io
import json
from pathlib import Path

import pytest

from collector.archive.info import summarise
from collector.archive.objects import ReportObject
from collector.archive.segment import SegmentWriter, build_header
from collector.archive.verify import verify_paths
from collector.batch import Note, NoteKind
from collector.capture import reports
from collector.capture.pipe import PipeSource
from collector.capture.reports import Watch, build_watches, look_at_all
from collector.capture.source import LiveInstance, LiveSource
from collector.cli import main
from collector.config.load import parse_config
from collector.control.desired import build_spec
from collector.control.feasible import check_desired
from collector.control.instance import Instance
from collector.control.probing import read_probe
from collector.control.wish import InstanceSpec
from collector.errors import TracefsPermissionError, UsageError
from collector.show.reports import as_text, show_reports
from sinks.contract.untold import OF_ARCHIVE, Untold
from tests.capture.rig import RUN
from tests.control.test_desired import set_up, spec_of, undo, writes_of
from tests.tracefs.tree import FakeKernel, event_format, make_fake_kernel, put

TRACE = "# tracer: wakeup\n#\n# latency: 77 us\n  bad\x1b[31m-9  0d... 5us : switch\n"
WAKEUP = 'tracer = "wakeup"'
STACK = "stack_tracer = true\nallow_top_level = true"


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    made = make_fake_kernel(tmp_path / "tracefs", "ours")
    put(made.path, {"stack_max_size": "1800\n", "stack_trace": "        Depth    Size\n  0)     1800      48\n"})
    put(made.instance("ours").path, {
        "available_tracers": "wakeup function nop\n", "tracing_max_latency": "55\n", "trace": TRACE,
        "events/ftrace/print/format": event_format("print", 5),
    })  # fmt: skip
    return made


@pytest.fixture
def held(kernel: FakeKernel) -> Instance:
    return set_up(kernel, WAKEUP)


def reach(instance: Instance, latency_us: int) -> None:
    put(instance.dir.path, {"tracing_max_latency": f"{latency_us}\n"})


def test_the_largest_latency_of_this_run_counts(kernel: FakeKernel, held: Instance) -> None:
    assert writes_of(kernel, "tracing_max_latency") == ["0"]
    (watch,) = build_watches([held])
    assert watch.look() is None
    reach(held, 77)
    report = watch.look()
    assert report is not None
    assert (report.instance, report.kind, report.tracer, report.value, report.unit, report.text) == (
        "ours", "latency", "wakeup", 77, "us", TRACE,
    )  # fmt: skip
    assert watch.look() is None
    reach(held, 30)  # somebody has begun anew
    assert [found.value for found in look_at_all([watch])[0]] == [30]
    undo(held)
    assert writes_of(kernel, "tracing_max_latency") == ["0", "55"]


def test_a_text_of_another_latency_says_so(kernel: FakeKernel, held: Instance) -> None:
    """As when a maximum is reached while the text is read: it never gets one."""
    (watch,) = build_watches([held])
    reach(held, 80)
    (report,) = look_at_all([watch])[0]
    assert (report.value, report.text_value) == (80, 77)
    put(held.dir.path, {"trace": TRACE.replace("77 us", "80 us")})
    reach(held, 80)
    (report,) = look_at_all([watch])[0]
    assert (report.value, report.text_value) == (80, None)
    stored = ReportObject(report.instance, report.kind, report.tracer, 80, "us", 10**18, TRACE, text_value=77, values=3)
    assert "3 new values since the report before; THE TEXT IS OF ANOTHER ONE, of 77 us" in as_text(stored)


def test_where_there_is_a_snapshot_the_text_is_read_there(kernel: FakeKernel, held: Instance) -> None:
    """Reading `trace` would make the tracer blind."""
    put(held.dir.path, {"snapshot": TRACE.replace("77", "90")})
    (watch,) = build_watches([held])
    reach(held, 90)
    (report,) = look_at_all([watch])[0]
    assert (report.value, report.text_value, report.clock) == (90, None, held.spec.clock)


def test_values_between_two_looks_are_counted_where_the_kernel_tells(kernel: FakeKernel, held: Instance) -> None:
    (watch,) = build_watches([held])
    path = held.dir.path / "tracing_max_latency"
    for value in (77, 60, 77):  # with a threshold each that exceeds it is one
        with path.open("r+") as file:
            file.write(f"{value}\n")
        watch.note_change()  # as the daemon does, as soon as it hears of it
    (report,) = look_at_all([watch])[0]
    assert (report.value, report.values) == (77, 3)
    with path.open("r+") as file:
        file.write("77\n")  # as large as the one before, and another one
    (report,) = look_at_all([watch])[0]
    assert (report.value, report.values) == (77, 1)
    watch.close()


def wished(kernel: FakeKernel, keys: str) -> InstanceSpec:
    return build_spec(
        parse_config(f"[trace]\nevents = ['sched:sched_switch']\ninstance = 'ours'\n{keys}\n", "c").trace, kernel
    )


@pytest.mark.parametrize("tracer", ["irqsoff", "wakeup", "wakeup_rt"])
def test_a_tracer_that_dates_by_the_top_levels_clock_has_that_one(kernel: FakeKernel, tracer: str) -> None:
    put(kernel.path, {"trace_clock": "local [boot] mono\n"})
    put(kernel.instance("ours").path, {"trace_clock": "[local] boot mono\n", "available_tracers": f"{tracer} nop\n"})
    assert wished(kernel, f'tracer = "{tracer}"').clock == "boot"
    assert wished(kernel, "").clock == "mono"
    other = wished(kernel, f'tracer = "{tracer}"\nclock = "mono"')
    with pytest.raises(UsageError, match=r"with another clock than the top level's.*expected boot.*leave `clock` out"):
        check_desired(other, read_probe(kernel.instance("ours"), other, existed=True))


@pytest.mark.parametrize("tracer", ["irqsoff", "preemptoff", "preemptirqsoff"])
def test_a_tracer_of_what_readers_of_text_do_is_not_read_as_text(kernel: FakeKernel, tracer: str) -> None:
    put(kernel.instance("ours").path, {"available_tracers": f"{tracer} nop\n"})
    spec = wished(kernel, f'tracer = "{tracer}"\nread = "text"')
    with pytest.raises(UsageError, match="feed on itself"):
        check_desired(spec, read_probe(kernel.instance("ours"), spec, existed=True))


def test_without_mono_the_clock_is_one_that_compares(kernel: FakeKernel) -> None:
    put(kernel.path, {"trace_clock": "[local] global counter\n"})
    assert wished(kernel, "").clock == "global"


def test_a_latency_that_an_adopted_run_has_reached_stays(kernel: FakeKernel) -> None:
    put(kernel.instance("ours").path, {"current_tracer": "wakeup\n"})
    made = set_up(kernel, WAKEUP)
    assert writes_of(kernel, "tracing_max_latency") == []
    assert [found.value for found in look_at_all(build_watches([made]))[0]] == [55]
    made.close()


def test_the_stack_tracer_is_watched_once_and_only_on_request(kernel: FakeKernel, held: Instance) -> None:
    held.spec = spec_of(kernel, STACK)
    (watch,) = build_watches([held, held])
    report = watch.look()
    assert report is not None
    assert (report.kind, report.tracer, report.value, report.unit) == ("stack", "stack", 1800, "bytes")
    assert report.text.startswith("        Depth")
    held.spec = spec_of(kernel, "")
    assert build_watches([held]) == []
    held.close()


def test_a_text_is_the_one_of_its_value(kernel: FakeKernel, held: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    """A larger maximum comes while the text is read: it is read again."""
    (watch,) = build_watches([held])
    reach(held, 77)
    texts = iter([b"of 77", b"of 99"])

    def read(name: str, max_bytes: int) -> bytes:
        reach(held, 99)
        return next(texts)

    monkeypatch.setattr(held.dir, "read_up_to", read)
    report = watch.look()
    assert report is not None
    assert (report.value, report.text) == (99, "of 99")
    held.close()


def test_a_long_text_is_cut_with_a_mark(held: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_TEXT_BYTES", 10)
    (watch,) = build_watches([held])
    reach(held, 77)
    report = watch.look()
    assert report is not None
    assert report.text == TRACE[:10] + reports.CUT_MARK
    held.close()


def test_an_instance_that_goes_has_no_report(held: Instance) -> None:
    (held.dir.path / "tracing_max_latency").unlink()
    assert look_at_all([Watch(held.dir, "ours", "latency", "wakeup", "us", "tracing_max_latency", "trace")]) == ([], [])
    held.close()


def test_one_that_cannot_be_read_does_not_take_another_with_it(held: Instance, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Watch(held.dir, "ours", "stack", "stack", "bytes", "tracing_max_latency", "stack_trace")
    read = held.dir.read_up_to

    def refuse(name: str, max_bytes: int) -> bytes:
        if name == "stack_trace":
            raise TracefsPermissionError("can't be read", where=name, got="EPERM")
        return read(name, max_bytes)

    monkeypatch.setattr(held.dir, "read_up_to", refuse)
    reach(held, 77)
    reports, problems = look_at_all([broken, *build_watches([held]), broken])
    assert [report.value for report in reports] == [77]
    assert [problem.where for problem in problems] == ["stack_trace"] * 2
    held.close()


def test_of_an_archive_that_takes_nothing_the_last_report_stays(held: Instance) -> None:
    untold = Untold(OF_ARCHIVE)
    for value in (5, 7):
        untold.keep(note_of(value))
        untold.keep(note_of(value, "stack"))
    assert [(note.body["kind"], note.body["value"]) for note in untold.take_notes()] == [("latency", 7), ("stack", 7)]
    held.close()


def note_of(value: int, kind: str = "latency") -> Note:
    report = reports.Report("ours", "latency", "wakeup", value, "us", 1_700_000_000_000_000_000 + value, TRACE)
    note = report.note(RUN)
    note.body["kind"] = kind
    return note


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A segment with two reports."""
    header = build_header(
        run=RUN, segment=0, host="h", boot_id="b", kernel="k", created_ns=1_700_000_000_000_000_000, tool="t",
        config_hash="c", instances={"ours": {"clock": "mono", "clock_unit": "ns", "header_page": "", "subbuf_size": 1}},
        opening={},
    )  # fmt: skip
    folder = tmp_path / "archive"
    writer = SegmentWriter.create(folder, header)
    for value in (77, 99):
        note = note_of(value)
        assert note.kind is NoteKind.REPORT
        writer.write_note(note)
    writer.seal({}, "shutdown", True)
    return folder


def test_reports_are_counted_checked_and_shown(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_paths([archive]) == []
    summary = summarise([archive])
    assert (summary["reports"], summary["runs"][0]["reports"]) == (2, 2)
    assert main(["show", "--reports", "--json", str(archive)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row.pop("realtime_ns") for row in rows] == [1_700_000_000_000_000_077, 1_700_000_000_000_000_099]
    assert rows[0] == {
        "instance": "ours", "kind": "latency", "tracer": "wakeup", "value": 77, "unit": "us", "values": 1,
        "text": TRACE,
    }  # fmt: skip


def test_no_name_in_a_report_steers_a_terminal(archive: Path) -> None:
    out = io.StringIO()
    assert show_reports([archive], out) == []
    first, *lines = out.getvalue().splitlines()
    assert first == "latency 77 us, wakeup, instance ours, 2023-11-14T22:13:20Z"
    assert lines[:2] == ["# tracer: wakeup", "#"]
    assert "\x1b" not in out.getvalue()


def test_a_report_of_no_time_that_can_be(archive: Path) -> None:
    """A damaged or made-up archive ends no command with a traceback."""
    assert "s since 1970" in as_text(ReportObject("ours", "latency", "wakeup", 7, "us", 2**62 * 1000, "text"))


@pytest.mark.parametrize("text", [False, True])
def test_a_tracer_that_swaps_the_rings_has_no_ledger(kernel: FakeKernel, held: Instance, text: bool) -> None:
    """Its counters are of this ring or of that one."""
    source = (PipeSource if text else LiveSource)(LiveInstance(held.dir, "ours", (0,)), RUN)
    assert source.base == {}
    assert source.header()["kernel_counts"] == "none"
    assert source._stats_reader(0) is None
    source.close()
    held.close()
