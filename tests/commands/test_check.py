"""`ftrace-collector check` on [[sinks]]: what would end a start is said before, all of it, without connecting."""

import contextlib
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from collector.cli import main
from collector.config.load import load_config
from collector.errors import EXIT_CONFIG, EXIT_OK, TracefsMissingError
from collector.run.daemon import run
from sinks import registry


@pytest.fixture(autouse=True)
def _no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_tracefs() -> Path:
        raise TracefsMissingError("not looked at")

    monkeypatch.setattr("collector.tracefs.files.find_tracefs", find_tracefs)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


def check(path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["check", "-c", str(path)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err.replace(str(path), "c.toml")


def test_what_ends_a_start_is_said_of_all_sinks_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, """\
[[sinks]]
type = "forward"
servers = [{ host = "127.0.0.1" }]
shared_key = { file = "/nonexistent/key" }
[[sinks]]
type = "stream"
address = "127.0.0.1:9465"
tls = { ca_file = "/nonexistent/ca.pem" }
[[sinks]]
type = "tap"
[[sinks]]
type = "kafka"
name = "central"
brokers = ["127.0.0.1:9092"]
options = { retries = 0 }
[[sinks]]
type = "objectstore"
url = "s3://bucket/prefix"
options = { endpiont = "http://127.0.0.1:9000", region = "x" }
""")  # fmt: skip
    code, out, err = check(path, capsys)
    assert (code, out) == (EXIT_CONFIG, "")
    first, *lines = err.splitlines()
    assert first == "ftrace-collector: error: these sinks cannot be started"
    wanted = [
        "  c.toml:1: sink forward: /nonexistent/key: the secret cannot be read: No such file or directory; .*",
        "  c.toml:5: sink stream: /nonexistent/ca.pem: the authority's certificates cannot be read: No such file.*",
        "  c.toml:11: sink central: librdkafka refuses the settings: .*retries.*",
        "  c.toml:16: sink objectstore: the object store cannot be used: .*endpiont.*",
    ]
    assert [bool(re.match(pattern, line)) for pattern, line in zip(wanted, lines, strict=True)] == [True] * 4, lines


def test_what_a_library_says_of_a_secret_is_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("hunter2")
    path = write(tmp_path, f"""\
[[sinks]]
type = "objectstore"
url = "s3://bucket"
secret_options = {{ skip_signature = {{ file = "{tmp_path}/key" }} }}
[[sinks]]
type = "kafka"
brokers = ["127.0.0.1:9092"]
secret_options = {{ retries = {{ file = "{tmp_path}/key" }} }}
""")  # fmt: skip
    code, _, err = check(path, capsys)
    assert (code, err.count("\n")) == (EXIT_CONFIG, 3)
    assert 'failed to parse "***" as boolean' in err
    assert "hunter2" not in err


@pytest.mark.parametrize("name", ["default.topic.config", "on_delivery", "logger", "delivery.report.only.error"])
def test_what_the_kafka_library_takes_as_objects_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, f'[[sinks]]\ntype = "kafka"\nbrokers = ["h:1"]\noptions = {{ "{name}" = "x" }}\n')
    code, _, err = check(path, capsys)
    assert code == EXIT_CONFIG
    assert f"c.toml:4: sinks[0].options: expected no {name}: " in err


def test_the_start_says_all_of_it_too(tmp_path: Path, recorded_case: Callable[[str], Path]) -> None:
    path = write(tmp_path, f"""\
[archive]
folder = "{tmp_path}/archive"
[[sinks]]
type = "forward"
name = "a"
servers = [{{ host = "h" }}]
shared_key = {{ file = "/no/a" }}
[[sinks]]
type = "forward"
name = "b"
servers = [{{ host = "h" }}]
shared_key = {{ file = "/no/b" }}
""")  # fmt: skip
    with pytest.raises(ExceptionGroup) as caught:
        run(load_config([path], (), registry.models()), replay=recorded_case("6.18/events"))
    found = [str(error).partition(": the secret")[0] for error in _leaves(caught.value)]
    assert found == ["sink a: /no/a", "sink b: /no/b"]


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, ExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def test_checking_connects_to_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        path = write(tmp_path, f"""\
[archive]
folder = "{tmp_path}/archive"
[[sinks]]
type = "forward"
servers = [{{ host = "127.0.0.1", port = {port} }}]
[[sinks]]
type = "stream"
address = "127.0.0.1:{port}"
[[sinks]]
type = "kafka"
brokers = ["127.0.0.1:{port}"]
[[sinks]]
type = "objectstore"
url = "s3://bucket/prefix"
options = {{ endpoint = "http://127.0.0.1:{port}", region = "x" }}
secret_options = {{ access_key_id = {{ file = "{tmp_path}/key" }}, secret_access_key = {{ file = "{tmp_path}/key" }} }}
[[sinks]]
type = "tap"
address = "unix:{tmp_path}/tap.sock"
""")  # fmt: skip
        (tmp_path / "key").write_text("k")
        code, out, err = check(path, capsys)
        assert (code, err) == (EXIT_OK, "")
        assert out.startswith("configuration ok; not compared with this kernel")
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["c.toml", "key"]


@pytest.mark.parametrize(
    ("kind", "library", "keys"),
    [("kafka", "confluent_kafka", 'brokers = ["h:1"]'), ("objectstore", "obstore", 'url = "s3://b"')],
)
def test_a_library_that_is_not_installed_names_its_extra(
    kind: str,
    library: str,
    keys: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library or name.startswith(f"sinks.{kind}")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    code, _, err = check(write(tmp_path, f'[[sinks]]\ntype = "{kind}"\n{keys}\n'), capsys)
    assert code == EXIT_CONFIG
    assert "c.toml:2: sinks[0].type: expected a type whose library is installed" in err
    assert f"pip install 'ftrace-collector[{kind}]'" in err


def test_errors_of_the_sinks_do_not_hide_those_of_the_kernel(
    tmp_path: Path,
    recorded_case: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = recorded_case("6.18/events")
    monkeypatch.setattr("collector.tracefs.files.find_tracefs", lambda: case / "tracefs")
    path = write(tmp_path, """\
[[instances]]
instance = "a"
[[instances]]
instance = "b"
clock = "sundial"
events = ["no:such"]
[[sinks]]
type = "forward"
servers = [{ host = "h" }]
shared_key = { file = "/nonexistent/key" }
""")  # fmt: skip
    code, out, err = check(path, capsys)
    assert (code, out) == (EXIT_CONFIG, "")
    assert "  c.toml:7: sink forward: /nonexistent/key: " in err
    assert "  c.toml:5: trace.clock: expected one of " in err
    assert "  c.toml:6: trace.events: " in err
