"""collector.cli: words to calls, errors to messages and exit codes. The commands' work is faked."""

import argparse
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from collector.archive.recover import Recovered
from collector.archive.verify import Problem, Report
from collector.cli import build_parser, main
from collector.commands.words import build_overrides
from collector.config.models import Config
from collector.errors import (
    EXIT_CONFIG,
    EXIT_FAILURE,
    EXIT_INCOMPLETE_DRAIN,
    EXIT_OK,
    EXIT_USAGE,
    ArchiveLockedError,
    IncompleteDrainError,
    TracefsMissingError,
)
from collector.read.segments import Shown


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    """fake(module, name, function) puts a module with that function where a command will import it."""

    def put(module: str, **functions: Any) -> None:
        made = types.ModuleType(module)
        for name, function in functions.items():
            setattr(made, name, function)
        monkeypatch.setitem(sys.modules, module, made)

    return put


def raising(error: BaseException) -> Any:
    def function(*args: Any, **kwargs: Any) -> Any:
        raise error

    return function


def test_run_hands_over_config_replay_and_duration(fake: Any, tmp_path: Path) -> None:
    calls: list[Any] = []

    def run(config: Config, *, replay: Path | None, duration_s: float | None) -> int:
        calls.append((config, replay, duration_s))
        return 0

    fake("collector.run.daemon", SINK_MODELS={}, run=run)
    (tmp_path / "c.toml").write_text("[trace]\nclock = 'boot'\nbuffer_percent = 50\n")
    words = ["run", "-c", f"{tmp_path}/c.toml", "-e", "irq:*", "-e", "sched:sched_*", "--cpu", "0-1,3",
             "--clock", "tai", "--buffer-size-kb", "16384", "--subbuf-size-kb", "16", "--duration", "2.5", "--output",
             "/x", "--http", "",
             "--instance", "i", "--keep-instance", "--log-format", "json", "-v"]  # fmt: skip
    assert main(words) == EXIT_OK
    ((config, replay, duration_s),) = calls
    assert (replay, duration_s) == (None, 2.5)
    trace = config.trace
    assert trace.events == ("irq:*", "sched:sched_*")
    assert (trace.cpus, trace.clock, trace.buffer_percent) == ((0, 1, 3), "tai", 50)
    assert (trace.buffer_size_kb, trace.subbuf_size_kb, trace.instance, trace.keep_instance) == (16384, 16, "i", True)
    assert (config.archive.folder, config.http.listen) == ("/x", "")
    assert (config.log.format, config.log.level) == ("json", "debug")


def test_run_without_options_has_the_defaults(fake: Any) -> None:
    calls: list[Any] = []
    fake("collector.run.daemon", SINK_MODELS={}, run=lambda config, **more: calls.append((config, more)) or 0)
    assert main(["run"]) == EXIT_OK
    assert calls == [(Config(), {"replay": None, "duration_s": None})]


def test_a_replay_serves_no_metrics_unless_asked_to() -> None:
    parser = build_parser()
    without = {o.key: o.value for o in build_overrides(parser.parse_args(["run", "--replay", "case"]))}
    asked = {o.key: o.value for o in build_overrides(parser.parse_args(["run", "--replay", "c", "--http", "h:1"]))}
    assert without == {("http", "listen"): ""}
    assert asked == {("http", "listen"): "h:1"}


@pytest.mark.parametrize(("words", "level"), [(["-v"], "debug"), (["-q"], "warning"), (["-qq"], "error"), ([], None)])
def test_verbosity_is_a_level(words: list[str], level: str | None) -> None:
    overrides = {o.key: o.value for o in build_overrides(build_parser().parse_args(["check", *words]))}
    assert overrides.get(("log", "level")) == level


@pytest.mark.parametrize(
    "words",
    [[], ["nonsense"], ["run", "--nonsense"], ["run", "--duration", "0"], ["run", "--duration", "nan"],
     ["run", "--buffer-size-kb", "many"], ["info"], ["show", "p", "--cpu", "x"], ["show", "p", "--cpu", ""],
     ["show", "p", "--limit", "-1"], ["show", "p", "--format", "xml"], ["recover"]],
)  # fmt: skip
def test_a_wrong_command_line_is_64(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == EXIT_USAGE
    assert "error:" in capsys.readouterr().err


def test_wrong_values_of_options_are_64_and_of_files_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--cpu", "3-1", "--subbuf-size-kb", "3", "--http", "9464"]) == EXIT_USAGE
    err = capsys.readouterr().err
    assert err.startswith("ftrace-collector: error: 3 errors in the configuration\n  --")
    (tmp_path / "c.toml").write_text("x = 1")
    assert main(["check", "-c", str(tmp_path / "c.toml"), "--cpu", "z"]) == EXIT_CONFIG
    err = capsys.readouterr().err
    assert f"  {tmp_path}/c.toml:1: x: expected" in err
    assert "  --cpu: trace.cpus: expected" in err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TracefsMissingError("tracefs is not mounted", where="/sys/kernel/tracing", hint="mount it"), EXIT_FAILURE),
        (IncompleteDrainError("5 entries left"), EXIT_INCOMPLETE_DRAIN),
        (ExceptionGroup("x", [ExceptionGroup("y", [ArchiveLockedError("locked by 12")])]), EXIT_FAILURE),
    ],
)
def test_our_errors_are_one_message_without_traceback(
    error: Exception, code: int, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake("collector.run.daemon", SINK_MODELS={}, run=raising(error))
    assert main(["run"]) == code
    err = capsys.readouterr().err
    assert err.startswith("ftrace-collector: error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("oops"), ExceptionGroup("x", [KeyError("oops"), ArchiveLockedError("l")])])
def test_a_defect_is_a_traceback_and_1(error: Exception, fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake("collector.run.daemon", SINK_MODELS={}, run=raising(error))
    assert main(["run"]) == EXIT_FAILURE
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "oops" in err


def test_info_prints_json_or_a_table(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake("collector.archive.info", summarise=lambda paths: {"n": len(paths)}, format_table=lambda s: f"n: {s['n']}")
    assert main(["info", "a", "b"]) == EXIT_OK
    assert capsys.readouterr().out == "n: 2\n"
    assert main(["info", "a", "--json"]) == EXIT_OK
    assert json.loads(capsys.readouterr().out) == {"n": 1}


def test_verify_is_1_when_there_is_any_problem(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    problem = Problem(Path("a"), 12, "checksum")
    fake("collector.archive.verify", verify_archive=lambda paths: Report([problem], ["b.part is open"], 2, 3, 4))
    assert main(["verify", "a"]) == EXIT_FAILURE
    captured = capsys.readouterr()
    assert captured.out == "a at byte 12: checksum\n"
    assert captured.err == "note: b.part is open\n2 segments, 3 blocks, 4 events: 1 problem\n"
    fake("collector.archive.verify", verify_archive=lambda paths: Report())
    assert main(["verify", "a"]) == EXIT_OK


@pytest.mark.parametrize(
    ("reason", "code"),
    [("recovered", EXIT_OK), ("quarantined: no header", EXIT_OK), ("failed: No space", EXIT_FAILURE)],
)
def test_recover_says_what_became_of_each_file(
    reason: str, code: int, fake: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fake("collector.archive.recover", recover_folder=lambda folder: [Recovered(folder / "x", 2, 30, 7, reason)])
    assert main(["recover", "a"]) == code
    assert capsys.readouterr().out == f"a/x: {reason}; 2 blocks, 30 events kept, 7 bytes cut\n"
    fake("collector.archive.recover", recover_folder=lambda folder: [])
    assert main(["recover", "a"]) == EXIT_OK
    assert capsys.readouterr().out == "a: nothing to recover\n"


def test_show_hands_over_every_filter(fake: Any) -> None:
    calls: list[Any] = []
    fake("collector.show.show", show_paths=lambda *args, **kwargs: calls.append((args, kwargs)) or Shown())
    assert main(["show", "a", "--since", "5", "--until", "1.5", "--cpu", "1-2", "-e", "s:*", "--pid", "7", "--pid", "8",
                 "--limit", "3", "--format", "json", "--time", "both"]) == EXIT_OK  # fmt: skip
    ((args, kwargs),) = calls
    assert args[0] == [Path("a")]
    assert kwargs == {
        "since": "5", "until": "1.5", "cpus": (1, 2), "event_globs": ["s:*"], "pids": [7, 8], "limit": 3,
        "format": "json", "time": "both",
    }  # fmt: skip


def test_show_ends_with_1_when_something_could_not_be_read(fake: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fake("collector.show.show", show_paths=lambda *args, **kwargs: Shown(3, ["x.ftseg at byte 9: checksum"]))
    assert main(["show", "a"]) == EXIT_FAILURE
    assert capsys.readouterr().err == "damaged: x.ftseg at byte 9: checksum\n"


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = (
        "import sys, types, collector.cli as cli\n"
        "m = types.ModuleType('collector.show.show')\n"
        "def show_paths(paths, out, **k):\n"
        "    for _ in range(100000): out.write('x' * 99 + chr(10))\n"
        "m.show_paths = show_paths\n"
        "sys.modules['collector.show.show'] = m\n"
        "sys.exit(cli.main(['show', 'a']))\n"
    )
    shown = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert shown.stdout is not None
    assert shown.stderr is not None
    shown.stdout.read(10)
    shown.stdout.close()
    assert shown.stderr.read() == b""
    shown.stderr.close()
    assert shown.wait(20) == EXIT_OK


@pytest.mark.parametrize("command", ["info", "verify", "recover", "show", "version"])
def test_reading_commands_import_neither_trio_nor_pydantic(command: str) -> None:
    code = (
        "import sys, contextlib, io, collector.cli as cli\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):\n"
        f"    cli.main([{command!r}] + [{os.devnull!r}] * ({command!r} != 'version'))\n"
        "print(sorted({'trio', 'pydantic', 'prometheus_client', 'hypercorn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


def test_version_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == EXIT_OK
    assert capsys.readouterr().out.startswith("ftrace-collector 0.")


def test_every_option_of_every_command_has_help() -> None:
    parsers = [build_parser()]
    for parser in parsers:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
            elif action.metavar != "DIR":
                assert action.help, (parser.prog, action.dest)
