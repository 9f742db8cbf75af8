"""`config show` and `config default`: settings that read back as they were, and where each came from."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from collector.cli import main
from collector.config.load import load_layers, parse_config
from collector.config.models import Config
from collector.config.show import format_config, format_defaults
from collector.config.text import Layer, Override
from collector.config.types import Auto, Secret, Section
from collector.errors import EXIT_OK
from collector.run.daemon import SINK_MODELS
from sinks.contract.options import SinkCommon


class HostOptions(Section):
    host: str
    port: Annotated[int | None, Auto] = None


class PostOptions(SinkCommon):
    type: Literal["post"]
    hosts: Annotated[tuple[HostOptions, ...], Field(strict=False)] = ()
    user: str | None = None
    password: Secret | None = None
    options: dict[str, str] = Field(default={})


SAMPLES = sorted(Path(__file__).parents[2].glob("sinks/*/sample.toml"))
MODELS = {"post": lambda: PostOptions}

TEXT = """\
shutdown_timeout_s = 5
[trace]
events = ["irq:*"]
clock = "boot"
[trace.options]
raw = true
[archive]
rotate_at = "hour"
folder = 'a "b" \\ \u00e4'
[[instances]]
[[instances]]
instance = "second"
cpus = "0-1"
buffer_size_kb_per_cpu = { "1" = 64 }
[[sinks]]
type = "post"
password = { file = "/etc/pw" }
filter = { cpus = "3" }
[sinks.options]
api_token = "hunter2"
"a.b" = "c"
[[sinks.hosts]]
host = "h"
"""


def show(text: str, *overrides: Override) -> list[str]:
    return format_config(load_layers([Layer("c.toml", text)], overrides, MODELS)).splitlines()


def test_each_value_has_its_place_behind_it() -> None:
    lines = show(TEXT, Override(("trace", "clock"), "tai", "--clock"))
    for line in [
        "shutdown_timeout_s = 5.0  # c.toml:1",
        'events = ["irq:*"]  # c.toml:3',
        'clock = "tai"  # --clock',
        "options = { raw = true }  # c.toml:5",
        "rotate_at = 3600  # c.toml:8",
        "segment_age_s = 3600.0  # default",
        'instance = "second"  # c.toml:12',
        "cpus = [0, 1]  # c.toml:13",
        'type = "post"  # c.toml:16',
        'password = { file = "/etc/pw" }  # c.toml:17',
        'filter = { instances = ["*"], cpus = [3], events = ["*"] }  # c.toml:18',
        'hosts = [{ host = "h", port = "auto" }]  # c.toml:22',
        "# user is not set",
        'spool_folder = "auto"  # default',
    ]:
        assert line in lines, line
    assert "[trace]" not in lines  # the instances have all that is in it


def test_a_later_file_is_named_for_what_it_sets() -> None:
    layers = [Layer("a", "[trace]\nclock = 'boot'\nbuffer_percent = 1"), Layer("b", "[trace]\nclock = 'tai'")]
    lines = format_config(load_layers(layers)).splitlines()
    assert {'clock = "tai"  # b:2', "buffer_percent = 1  # a:3"} <= set(lines)


def test_values_that_may_be_secrets_are_masked() -> None:
    (line,) = [line for line in show(TEXT) if line.startswith("options = { api")]
    assert line == 'options = { api_token = "***", "a.b" = "c" }  # c.toml:19'


def test_what_is_shown_reads_back_as_it_was() -> None:
    text = TEXT.replace("api_token", "api_user")
    shown = format_config(load_layers([Layer("c", text)], (), MODELS))
    assert parse_config(shown, "c", MODELS) == parse_config(text, "c", MODELS)
    assert parse_config(format_config(load_layers([])), "c") == Config()


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_what_is_shown_of_every_sink_reads_back(path: Path) -> None:
    loaded = load_layers([Layer("c", path.read_text())], (), SINK_MODELS)
    assert parse_config(format_config(loaded), "c", SINK_MODELS) == loaded.config


def test_the_defaults_are_comments_of_the_default_values() -> None:
    text = format_defaults()
    assert parse_config(text, "c") == Config()
    assert '# clock = "auto"\n' in text
    uncommented = text.replace("# ", "")
    assert parse_config(uncommented, "c") == Config()


def test_the_commands_print_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[http]\nlisten = ""\n')
    assert main(["config", "show", "-c", str(path), "--cpu", "0"]) == EXIT_OK
    out = capsys.readouterr().out
    assert f'listen = ""  # {path}:2\n' in out
    assert "cpus = [0]  # --cpu\n" in out
    assert main(["config", "default"]) == EXIT_OK
    assert capsys.readouterr().out == format_defaults()
