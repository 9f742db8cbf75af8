"""Settings of right and wrong kinds, by chance: never a traceback, always messages with file and key, and no secret."""

import random
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from pydantic import BaseModel

import sinks
from collector.config.load import LoadedConfig, load_layers
from collector.config.models import Config
from collector.config.problems import model_in
from collector.config.show import MASK, format_config
from collector.config.text import InvalidConfigError, Layer
from collector.config.types import Secret
from collector.run.daemon import SINK_MODELS, check_sinks

SEEDS = 20

LEAK = "hunter2"
LOGIN = "swordfish"  # of an address

VALUES = (
    "0", "1", "-1", "7", "65536", "1048576", "9223372036854775807", "-9223372036854775808",
    "0.0", "-0.5", "1e308", "1e999", "nan", "-inf", "true", "false",
    '""', '"x"', '"auto"', '"all"', '"0-3"', '"3-1"', '"a:b"', '"sched:*"', '"unix:/x"', '"h:1"', '"[::1]:9"', '"::1"',
    '"s3://b/p"', '"file:///x"', '"az://me:swordfish@b/p?sig=swordfish"', '"\\u0000"', '"\\u007f\\U0001F600"',
    f'"{"y" * 300}"', "1979-05-27", "07:32:00", "1979-05-27T07:32:00Z",
    "[]", "[1]", '["a"]', '["a:b", 1]', "[[]]", "[{}]", '[{host = "h"}]', '[{host = "h", prot = 1}]', "[1979-05-27]",
    "{}", "{x = 1}", '{file = "/x"}', '{file = "/x", credential = "y"}', "{file = 1}", '{"a.b" = "c"}',
    '{"a:b" = ["c"]}', '{"0" = 1}', '{"\\u0660" = 1}', "{a = {b = {c = 1}}}", '{cpus = "0"}', '{verify = false}',
    '{mechanism = "PLAIN"}',
)  # fmt: skip

NO_TOML = ("9" * 30, "1" * 5000, "0x" + "f" * 4000, "[" * 5000, "x")

# Somebody writes a secret itself where the place of one belongs.
SECRETS = (
    '"hunter2"', '["hunter2"]', '{file = "/x", password = "hunter2"}', '{credential = "hunter2 !"}',
    '[{p = "hunter2"}]',
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's certificates take 0.1 s to load, for each sink with TLS."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@cache
def keys_of(model: type[BaseModel]) -> tuple[tuple[str, bool], ...]:
    """Each setting, as `tls.verify` where it is in a table, and whether it is a secret."""
    found = []
    for name, field in model.model_fields.items():
        inner = model_in(field.annotation)
        found.append((name, inner is Secret))
        if inner is not None and inner is not Secret and not str(field.annotation).startswith("tuple"):
            found += [(f"{name}.{below}", secret) for below, secret in keys_of(inner)]
    return tuple(found)


SECTIONS = {name: model for name, field in Config.model_fields.items() if (model := model_in(field.annotation))}
ONCE = ("trace", "capture", "archive", "http", "log")


def a_table(rng: random.Random, model: type[BaseModel], share: float) -> str:
    """A share of the keys, one that is unknown at times."""
    lines, taken = [], set()
    for key, secret in keys_of(model):
        top = key.partition(".")[0]
        if rng.random() < share and top not in taken:
            taken.add(top)
            value = rng.choice(SECRETS if secret and rng.random() < 0.5 else VALUES)
            lines.append(f"{key} = {value}")
    if rng.random() < 0.2:
        lines.append(f"{rng.choice(('evnts', 'tokn', 'x y', 'type', 'name'))!r} = {rng.choice(VALUES)}")
    rng.shuffle(lines)
    return "".join(f"{line}\n" for line in lines)


def a_text(rng: random.Random) -> str:
    """A configuration of any sections; a text of keys that TOML has twice is one too."""
    texts = [f"{name} = {rng.choice(VALUES)}\n" for name in (*ONCE, "instances", "sinks") if rng.random() < 0.02]
    if rng.random() < 0.2:
        texts.append(f"shutdown_timeout_s = {rng.choice(VALUES)}\n")
    share = rng.choice((0.03, 0.1, 0.5))
    for name in ONCE:
        if rng.random() < 0.3:
            texts.append(f"[{name}]\n{a_table(rng, SECTIONS[name], share)}")
    for _ in range(rng.choice((0, 0, 1, 2))):
        texts.append(f"[[instances]]\n{a_table(rng, SECTIONS['trace'], share)}")
    for _ in range(rng.choice((0, 1, 1, 2))):
        kind = rng.choice(list(SINK_MODELS))
        start = rng.choice((f"type = '{kind}'\n",) * 9 + ("type = ['x']\n", "type = {}\n", "", "type = 'fax'\n"))
        texts.append(f"[[sinks]]\n{start}{NEEDED[kind] if rng.random() < 0.7 else ''}")
        texts.append(a_table(rng, SINK_MODELS[kind](), share))
    return "".join(texts)


def needed_by(kind: str) -> str:
    """What a sink of this type cannot be without: what its sample has beside comments."""
    sample = Path(sinks.__file__).parent / kind / "sample.toml"
    lines = [line for line in sample.read_text().split("\n") if line and line[0] not in "#[" and line[:6] != "type ="]
    return "".join(f"{line}\n" for line in lines)


NEEDED = {kind: needed_by(kind) for kind in SINK_MODELS}


def load(text: str) -> LoadedConfig | None:
    """The settings, or None after a look at what is said of them."""
    try:
        return load_layers([Layer("fuzz.toml", text)], (), SINK_MODELS)
    except InvalidConfigError as e:
        problems = e.problems
    for problem in problems:
        assert problem.where == "fuzz.toml", text
        assert (problem.key and problem.line) or problem.expected == "TOML", text
        assert problem.expected, text
        assert problem.got, text
        assert not re.search(f"{LEAK}|{LOGIN}", str(problem)), text
        assert len(str(problem)) < 1500, text
    return None


def try_out(found: LoadedConfig, text: str) -> None:
    """Does with accepted settings what commands do with them."""
    found.config.hash()
    for error in check_sinks(found.config).values():
        assert str(error).startswith("sink "), text
    shown = format_config(found)
    assert LEAK not in shown, text
    if MASK not in shown:
        assert load_layers([Layer("shown", shown)], (), SINK_MODELS).config == found.config, text


@pytest.mark.parametrize("seed", range(SEEDS))
def test_any_settings_are_loaded_or_refused_with_words(seed: int) -> None:
    rng = random.Random(seed)
    loaded = 0
    for _ in range(150):
        text = a_text(rng)
        if (found := load(text)) is not None:
            loaded += 1
            try_out(found, text)
    assert loaded


def every_key() -> Iterator[tuple[str, str, bool]]:
    """(what stands before the key, the key, whether it is a secret) of every section and every type of sink."""
    yield "", "shutdown_timeout_s", False
    for name, field in Config.model_fields.items():
        yield "", field.alias or name, False
    for name in ONCE:
        yield from ((f"[{name}]\n", key, secret) for key, secret in keys_of(SECTIONS[name]))
    for kind in SINK_MODELS:
        head = f"[[sinks]]\ntype = '{kind}'\n"
        needed = NEEDED[kind].partition(" ")[0]
        for key, secret in keys_of(SINK_MODELS[kind]()):
            yield head + ("" if key == needed else NEEDED[kind]), key, secret


def test_every_value_of_every_key_is_taken_or_refused_at_its_line() -> None:
    for head, key, secret in every_key():
        for value in (*VALUES, *NO_TOML, *(SECRETS if secret else ())):
            text = f"{head}{key} = {value}\n"
            if key == "type":  # the head has another
                text = f"[[sinks]]\ntype = {value}\n"
            if (found := load(text)) is not None:
                try_out(found, text)
