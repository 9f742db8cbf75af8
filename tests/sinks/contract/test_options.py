"""[[sinks]] of the configuration: each table by the model of its type, every error with its place."""

import re
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from collector.config.load import parse_config, parse_layers
from collector.config.models import Config, config_keys
from collector.config.text import InvalidConfigError, Layer
from collector.config.types import Secret, Section
from collector.errors import ConfigError
from sinks import registry
from sinks.connect.tls import TlsConfig
from sinks.contract.options import FilterOptions, SinkCommon, SinkType


class HostOptions(Section):
    port: int = 0


class PostOptions(SinkCommon):
    type: Literal["post"]
    address: str
    hops: Annotated[int, Field(ge=1)] = 1
    password: Secret | None = None
    secret_options: dict[str, Secret] = Field(default={})
    options: dict[str, str] = Field(default={})
    hosts: Annotated[tuple[HostOptions, ...], Field(strict=False)] = ()
    tls: TlsConfig | None = None


def missing() -> type[BaseModel]:
    raise ConfigError("sinks of type wire need a library that is not installed")


MODELS = {"post": lambda: PostOptions, "wire": missing}


def parse(text: str) -> Config:
    return parse_config(text, "c.toml", MODELS)


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        parse(text)
    return [str(p) for p in caught.value.problems]


def test_a_table_becomes_the_model_of_its_type() -> None:
    config = parse(
        '[[sinks]]\ntype = "post"\naddress = "a"\n[[sinks]]\ntype = "post"\nname = "second"\naddress = "b"\n'
        'when_full = "drop_newest"\nfilter = {cpus = "0-2", instances = ["sched*"]}\ntls = {ca_file = "ca.pem"}\n'
    )
    first, second = config.sinks
    assert first == PostOptions(type="post", address="a")
    assert isinstance(second, PostOptions)
    assert (second.title, second.when_full, second.spools) == ("second", "drop_newest", False)
    assert second.filter == FilterOptions(cpus=(0, 1, 2), instances=("sched*",))
    assert second.tls == TlsConfig(ca_file="ca.pem")
    assert isinstance(first, PostOptions)
    assert (first.title, first.when_full, first.spools) == ("post", "spool", True)


def test_a_spool_folder_makes_any_policy_spool() -> None:
    (sink,) = parse('[[sinks]]\ntype="post"\naddress="a"\nwhen_full="block"\nspool_folder="s"').sinks
    assert isinstance(sink, SinkCommon)
    assert sink.spools


def test_settings_of_sinks_are_part_of_the_hash() -> None:
    texts = ["", '[[sinks]]\ntype="post"\naddress="a"', '[[sinks]]\ntype="post"\naddress="b"']
    assert len({parse(text).hash() for text in texts}) == 3


def test_all_errors_come_at_once_with_line_key_expected_and_got() -> None:
    text = """\
[[sinks]]
type = "post"
adress = "a"
hops = 0

[sinks.filter]
instances = []
cpu = "1"

[[sinks]]
type = "fax"

[[sinks]]
name = "none"

[[sinks]]
type = "post"
address = 7
when_full = "explode"
password = { file = "a", credential = "b" }
tls = { ca = "x" }

[trace]
clock = 7
"""
    assert sorted(problems_of(text), key=lambda p: int(re.findall(r":(\d+)", p)[0])) == [
        "c.toml:1: sinks[0].address: expected a value, got no such key",
        "c.toml:3: sinks[0].adress: expected a key of sinks[0], got an unknown key; did you mean address?",
        "c.toml:4: sinks[0].hops: expected at least 1, got 0",
        'c.toml:7: sinks[0].filter.instances: expected at least one pattern, such as "*", got []',
        "c.toml:8: sinks[0].filter.cpu: expected a key of sinks[0].filter, got an unknown key; did you mean cpus?",
        'c.toml:11: sinks[1].type: expected one of "post", "wire", got "fax"',
        'c.toml:13: sinks[2].type: expected one of "post", "wire", got None',
        'c.toml:16: sinks[3].name: expected a name of its own for each sink, got "post"',
        "c.toml:18: sinks[3].address: expected a text in quotes, got 7",
        "c.toml:19: sinks[3].when_full: expected one of 'spool', 'block', 'drop_oldest' or 'drop_newest', "
        'got "explode"',
        "c.toml:20: sinks[3].password: expected either file or credential, got this combination",
        "c.toml:21: sinks[3].tls.ca: expected a key of sinks[3].tls, got an unknown key; "
        "keys here: verify, ca_file, cert_file, key_file, server_name",
        "c.toml:24: trace.clock: expected a text in quotes, got 7",
    ]


def test_names_differ() -> None:
    assert problems_of('[[sinks]]\ntype="post"\naddress="a"\n[[sinks]]\ntype="post"\naddress="b"\n') == [
        'c.toml:4: sinks[1].name: expected a name of its own for each sink, got "post"'
    ]


@pytest.mark.parametrize("name", ["archive", "file"])
def test_names_that_the_archive_has_in_the_metrics_are_refused(name: str) -> None:
    (problem,) = problems_of(f'[[sinks]]\ntype="post"\nname="{name}"\naddress="a"')
    assert problem.startswith('c.toml:3: sinks[0].name: expected another name than "archive" and "file"')


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ('type = ["post"]', 'c.toml:2: sinks[0].type: expected one of "post", "wire", got ["post"]'),
        ("type = {}", 'c.toml:2: sinks[0].type: expected one of "post", "wire", got a table'),
        ('type = "post"\naddress = "a"\nname = ["x"]', 'c.toml:4: sinks[0].name: expected a text in quotes, got ["x"]'),
        ('type = "post"\naddress = "a"\nname = {}', "c.toml:4: sinks[0].name: expected a text in quotes, got a table"),
    ],
)
def test_a_type_or_a_name_of_another_kind_is_refused(table: str, problem: str) -> None:
    assert problems_of(f"[[sinks]]\n{table}") == [problem]


@pytest.mark.parametrize(
    ("key", "where"),
    [
        ('password = "hunter2"', "password"),
        ('password = ["hunter2"]', "password"),
        ('password = { file = ["hunter2"] }', "password.file"),
        ('password = { credential = "hunter2!" }', "password"),
        ('secret_options = "hunter2"', "secret_options"),
        ('secret_options = { pin = "hunter2" }', "secret_options.pin"),
        ('options = { api_token = ["hunter2"] }', "options.api_token"),
        ('hops = ["hunter2", {}]', "hops"),
        ('hops = "azure://me:hunter2@host/x?sig=hunter2"', "hops"),
        ('hosts = [{ port = 1, password = "hunter2" }]', "hosts[0].password"),
    ],
)
def test_no_message_has_a_secret_in_it(key: str, where: str) -> None:
    (problem,) = problems_of(f'[[sinks]]\ntype = "post"\naddress = "a"\n{key}')
    assert problem.startswith(f"c.toml:4: sinks[0].{where}: expected ")
    assert "hunter2" not in problem


def test_no_message_has_the_contents_of_what_should_be_tables() -> None:
    (problem,) = problems_of('sinks = [{ password = "hunter2" }, 1]')
    assert problem == "c.toml:1: sinks: expected tables [[sinks]], got an array"


def test_an_unknown_key_in_an_array_or_a_table_of_tables_has_its_place() -> None:
    text = """\
[[sinks]]
type = "post"
address = "a"
[[sinks.hosts]]
port = 1
[[sinks.hosts]]
prot = 2
[sinks.secret_options]
"a.pin" = { fiel = "x" }
"""
    assert sorted(p for p in problems_of(text) if "unknown key" in p) == [
        "c.toml:7: sinks[0].hosts[1].prot: expected a key of sinks[0].hosts[1], got an unknown key; did you mean port?",
        "c.toml:9: sinks[0].secret_options.a.pin.fiel: expected a key of sinks[0].secret_options.a.pin, "
        "got an unknown key; did you mean file?",
    ]


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        (['name = "a"\nspool_folder = "s"', 'name = "b"\nspool_folder = "./s/"'], "5: sinks[1].spool_folder: expected "
         'a folder of its own, other than that of sinks[0], got "s"'),
        (['name = "a"\nspool_folder = "arch/spool/b"', 'name = "b"'], "5: sinks[1].spool_folder: expected a folder of "
         'its own, other than that of sinks[0], got "arch/spool/b"'),
        (['when_full = "block"\nspool_folder = "x/../arch"'], "1: sinks[0].spool_folder: expected a folder of its own, "
         'other than that of the archive, got "x/../arch"'),
    ],
)  # fmt: skip
def test_a_spool_is_no_other_sinks_and_not_the_archive(tables: list[str], problem: str) -> None:
    sinks = "".join(f'[[sinks]]\ntype = "post"\naddress = "a"\n{table}\n' for table in tables)
    (found,) = problems_of(f'{sinks}[archive]\nfolder = "arch"')
    assert re.sub(r"^c.toml:\d+: ", "", found) == re.sub(r"^\d+: ", "", problem)


def test_sinks_without_a_spool_have_no_folder_in_common() -> None:
    table = '[[sinks]]\ntype = "post"\naddress = "a"\nwhen_full = "block"\n'
    assert len(parse(f'{table}name = "a"\n{table}name = "b"').sinks) == 2


def test_a_missing_library_is_a_problem_of_the_configuration() -> None:
    (problem,) = problems_of('[[sinks]]\ntype = "wire"')
    assert problem.startswith("c.toml:2: sinks[0].type: expected a type whose library is installed: sinks of type wire")


@pytest.mark.parametrize("text", ["sinks = 3", "[sinks]\nx = 1", "sinks = [1]"])
def test_sinks_are_tables(text: str) -> None:
    (problem,) = problems_of(text)
    assert "sinks: expected tables [[sinks]], got " in problem


def test_a_later_file_replaces_all_sinks() -> None:
    layers = [
        Layer("a", '[[sinks]]\ntype="post"\naddress="a"\n[[sinks]]\ntype="post"\nname="x"\naddress="a"'),
        Layer("b", '[[sinks]]\ntype="post"\naddress=1'),
    ]
    with pytest.raises(InvalidConfigError) as caught:
        parse_layers(layers, (), MODELS)
    assert [(p.where, p.line) for p in caught.value.problems] == [("b", 3)]


def test_without_models_there_is_no_sink() -> None:
    with pytest.raises(InvalidConfigError, match="this program has none"):
        parse_config('[[sinks]]\ntype = "post"', "c.toml")
    assert ("sinks",) not in config_keys()


def test_every_registered_type_can_be_imported_and_names_itself() -> None:
    for name, model in registry.models().items():
        assert model().model_fields["type"].annotation == Literal[name]  # type: ignore[valid-type]


def test_a_type_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> SinkType:
        raise ModuleNotFoundError("No module named 'wirelib'", name="wirelib")

    monkeypatch.setattr(registry, "LOADERS", {"wire": load})
    with pytest.raises(ConfigError, match=r"no module wirelib; pip install 'ftrace-collector\[wire\]'"):
        registry.load_type("wire")


def test_a_module_of_ours_that_is_missing_is_not_taken_for_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> SinkType:
        raise ModuleNotFoundError("No module named 'collector.read.rows'", name="collector.read.rows")

    monkeypatch.setattr(registry, "LOADERS", {"wire": load})
    with pytest.raises(ModuleNotFoundError):
        registry.load_type("wire")
