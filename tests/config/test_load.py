"""collector.config.load: defaults, overlays, and every error at once with its place."""

import re
from pathlib import Path

import pytest

from collector.config.load import load_config, parse_config, parse_layers
from collector.config.models import Config, config_keys
from collector.config.text import InvalidConfigError, Layer, Override, find_lines, split_listen
from collector.config.types import MIB
from collector.errors import EXIT_CONFIG, ConfigError


def problems_of(text: str) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        parse_config(text, "c.toml")
    return [str(p) for p in caught.value.problems]


def test_empty_text_gives_the_defaults() -> None:
    config = parse_config("", "c.toml")
    assert config == Config()
    assert config.trace.events == ("sched:*",)
    assert config.trace.cpus is None
    assert config.trace.buffer_size_kb is None
    assert config.archive.segment_bytes == 128 * MIB
    assert config.http.listen == "127.0.0.1:9464"
    assert config.shutdown_timeout_s == 30


def test_values_are_taken_and_frozen() -> None:
    config = parse_config(
        'shutdown_timeout_s = 5\n[trace]\nevents = ["irq:*", "sched:sched_switch"]\ncpus = "0-2,5"\n'
        'buffer_size_kb = 4096\n[capture]\nworkers = "auto"\n',
        "c.toml",
    )
    assert config.trace.events == ("irq:*", "sched:sched_switch")
    assert config.trace.cpus == (0, 1, 2, 5)
    assert config.trace.buffer_size_kb == 4096
    assert config.capture.workers is None
    with pytest.raises(ValueError, match="frozen"):
        config.trace.clock = "local"  # type: ignore[misc]


@pytest.mark.parametrize(("value", "cpus"), [('"all"', None), ('"3"', (3,)), ("[5, 1, 1]", (1, 5))])
def test_cpus_are_a_list_an_array_or_all(value: str, cpus: tuple[int, ...] | None) -> None:
    assert parse_config(f"[trace]\ncpus = {value}", "c").trace.cpus == cpus


def test_all_errors_come_at_once_with_line_key_expected_and_got() -> None:
    text = """\
shutdown_timeout = 3

[trace]
buffer_persent = 20
clock = 7
cpus = "3-1"
events = ["sched:"]

[capture]
memory_budget_bytes = 1024
[archive]
compression = "gzip"
sync_interval_s = "often"
[nonsense]
x = 1
"""
    assert sorted(problems_of(text), key=lambda p: int(re.findall(r":(\d+)", p)[0])) == [
        "c.toml:1: shutdown_timeout: expected a key of the top level, got an unknown key; "
        "did you mean shutdown_timeout_s?",
        "c.toml:4: trace.buffer_persent: expected a key of trace, got an unknown key; did you mean buffer_percent?",
        "c.toml:5: trace.clock: expected a text in quotes, got 7",
        'c.toml:6: trace.cpus: expected "all", or CPUs such as "0-3,8", got "3-1"',
        'c.toml:7: trace.events: expected SYSTEM:EVENT such as "sched:sched_switch" or "sched:*", not \'sched:\', '
        'got ["sched:"]',
        "c.toml:10: capture.memory_budget_bytes: expected at least 8388608, got 1024",
        "c.toml:12: archive.compression: expected one of 'zstd', 'lz4' or 'none', got \"gzip\"",
        'c.toml:13: archive.sync_interval_s: expected a number, got "often"',
        "c.toml:14: nonsense: expected a key of the top level, got an unknown key; "
        "keys here: trace, instances, capture, archive, http, log, sinks, shutdown_timeout_s",
    ]


def test_a_key_of_another_section_is_found() -> None:
    (problem,) = problems_of("[trace]\nflush_interval_s = 2\n")
    assert problem.endswith("did you mean capture.flush_interval_s?")


def test_settings_that_contradict_each_other_are_refused() -> None:
    (problem,) = problems_of("[capture]\nblock_bytes = 33554432\n")
    assert "capture.memory_budget_bytes of at least four times block_bytes" in problem
    (problem,) = problems_of("[archive]\nmax_bytes = 2097152\n")
    assert "archive.max_bytes of at least twice segment_bytes" in problem


@pytest.mark.parametrize(
    ("text", "line"), [("a = 1\nb = = 2\n", 2), ("[trace\n", 1), ('x = "abc', 1), ("x = 1\nx = 2", 2)]
)
def test_text_that_is_not_toml_names_its_line(text: str, line: int) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(f"c.toml:{line}: expected TOML, got ")


@pytest.mark.parametrize(
    ("text", "got"),
    [
        ("x = " + "1" * 5000, "a number of too many digits"),
        ("x = [{y = 0x" + "f" * 5000 + "}]", "a whole number of more than 64 bits"),
        ("x = " + "[" * 5000 + "]" * 5000, "too many tables or arrays in one another"),
    ],
    ids=["decimal", "hexadecimal", "deep"],
)
def test_numbers_and_tables_that_toml_does_not_promise_are_refused(text: str, got: str) -> None:
    assert problems_of(text) == [f"c.toml: expected TOML, got {got}"]


@pytest.mark.parametrize(
    "text",
    [
        "trace = 3",
        "[trace]\nevents = 'sched:*'",
        "[trace]\noverwrite = 1",
        "[trace]\nbuffer_percent = 2.5",
        "[trace]\nbuffer_percent = true",
        "[trace]\ninstance = '../x'",
        "[trace]\ncpus = [-1]",
        "[trace]\ncpus = []",
        "[trace]\ncpus = ''",
        "[trace]\ncpus = '0-9999999'",
        "[http]\nlisten = '9464'",
        "[trace]\nevents = []",
        "[capture]\nflush_interval_s = nan",
        "[capture]\nflush_interval_s = inf",
        "shutdown_timeout_s = 0",
        "[archive]\nfolder = ''",
    ],
)
def test_wrong_types_and_values_are_refused(text: str) -> None:
    assert len(problems_of(text)) == 1


def test_each_instance_takes_from_trace_what_it_leaves_out() -> None:
    config = parse_config(
        '[trace]\nclock = "boot"\nevents = ["irq:*"]\noptions = {raw = true}\n[[instances]]\ninstance = "a"\n'
        '[[instances]]\ninstance = "b"\nclock = "tai"\n[instances.options]\nhex = true\n',
        "c",
    )
    found = [(t.instance, t.clock, t.events, t.options) for t in config.instances()]
    assert found == [("a", "boot", ("irq:*",), {"raw": True}), ("b", "tai", ("irq:*",), {"hex": True})]
    assert config.trace == config.instances()[0]
    alone = parse_config("[trace]\nclock = 'boot'", "c")
    assert alone.instances() == (alone.trace,)


def test_the_command_line_goes_before_instances_and_a_later_layer_replaces_them() -> None:
    first = Layer("a", '[[instances]]\ninstance = "a"\nclock = "tai"\n')
    second = Layer("b", '[[instances]]\ninstance = "b"\n')
    assert [t.instance for t in parse_layers([first, second]).instances()] == ["b"]
    config = parse_layers([first], [Override(("trace", "clock"), "boot", "--clock")])
    assert [(t.instance, t.clock) for t in config.instances()] == [("a", "boot")]


def test_what_is_no_table_is_refused_beside_instances_too() -> None:
    assert problems_of('trace = 3\n[[instances]]\ninstance = "a"\n') == ["c.toml:1: trace: expected a table, got 3"]


def test_errors_of_instances_have_their_lines_and_those_of_trace_come_once() -> None:
    text = """\
[trace]
clock = 7
[[instances]]
instance = "a"
buffer_persent = 3
[[instances]]
instance = "b"
[instances.options]
raw = "yes"
"""
    assert sorted(problems_of(text)) == [
        "c.toml:2: trace.clock: expected a text in quotes, got 7",
        "c.toml:5: instances[0].buffer_persent: expected a key of trace, got an unknown key; "
        "did you mean buffer_percent?",
        'c.toml:9: instances[1].options.raw: expected true or false, got "yes"',
    ]
    (problem,) = problems_of('[[instances]]\ninstance = "a"\n[[instances]]\ninstance = "a"\n')
    assert "a name of its own for each instance" in problem


@pytest.mark.parametrize(
    "text",
    [
        'filters = {"sched:*" = "x"}',
        'triggers = {"sched" = ["x"]}',
        'triggers = {"sched:sched_switch" = "stacktrace"}',
        'functions = ["a:traceoff"]',
        'probes = ["open do_sys_open"]',
        'probes = ["p:a f", "p:a g"]',
        "event_pids = [0]",
        'event_pids = ["1"]',
        'buffer_size_kb_per_cpu = {"x" = 1}',
        'buffer_size_kb_per_cpu = {"0" = 0}',
        'options = {"../x" = true}',
        "options = {raw = 1}",
        "max_graph_depth = -1",
        'read = "both"',
        'on_interference = "ignore"',
        'event_fork = "yes"',
        "events = []\nprobes = []",
    ],
)
def test_wrong_values_of_the_desired_state_are_refused(text: str) -> None:
    assert len(problems_of(f"[trace]\n{text}")) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('functions = ["vfs_*"]', 'functions only with tracer = "function" or .*: "nop" ignores it'),
        ('tracer = "osnoise"\nnotrace_functions = ["vfs_*"]', "notrace_functions only with"),
        ('tracer = "blk"\nblock_devices = ["sda"]\nfunction_pids = [1]', "function_pids only with"),
        ('tracer = "hwlat"\nnotrace_function_pids = [1]', "notrace_function_pids only with"),
        ("options = {func_stack_trace = false}", r'options\.func_stack_trace only with tracer = "function"'),
        (
            'tracer = "function"\noptions = {funcgraph-irqs = true}',
            'funcgraph-irqs only with tracer = "function_graph"',
        ),
        ('tracer = "function"\noptions = {display-graph = true}', "display-graph only with"),
        ("event_fork = true\nexclude_self = false", "event_fork only with event_pids"),
    ],
)
def test_what_the_tracer_ignores_is_refused(text: str, said: str) -> None:
    (problem,) = problems_of(f"[trace]\n{text}")
    assert re.search(said, problem)


@pytest.mark.parametrize(
    "text",
    [
        'tracer = "function"\nfunctions = ["vfs_*"]\noptions = {func_stack_trace = true}',
        'tracer = "function_graph"\nfunctions = ["vfs_*"]\noptions = {funcgraph-irqs = true}',
        'tracer = "irqsoff"\nfunctions = ["vfs_*"]\noptions = {function-trace = true}',
        'tracer = "of_another_kernel"\nfunctions = ["vfs_*"]\noptions = {func_stack_trace = true}',
        "options = {stacktrace = true, test_nop_accept = true}",
        "max_graph_depth = 3\ntracing_thresh_us = 5\nallow_top_level = true",  # shared: it may be meant for others
        "event_fork = true\nexclude_self = false\nevent_pids = [1]",
    ],
)
def test_what_it_heeds_is_not(text: str) -> None:
    parse_config(f"[trace]\n{text}", "c")


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ('tracer = "irqsoff"', 'tracer = "preemptoff"', '"a" has irqsoff, "b" has preemptoff'),
        ('tracer = "wakeup"', 'tracer = "wakeup"', "one of the tracers wakeup, wakeup_dl, wakeup_rt at a time"),
        ('tracer = "osnoise"', 'tracer = "timerlat"', '"a" has osnoise, "b" has timerlat'),
        ('probes = ["s:lat u64 a"]', 'probes = ["s:lat u64 a"]', 'synthetic:lat, not both "a" and "b"'),
        ('probes = ["user:x u32 a"]', 'probes = ["p:x f", "user:x u32 a"]', "one instance that makes user_events:x"),
        ('instance = "c-1"\nprobes = ["p:x f"]', 'instance = "c.1"', 'not "c-1" and "c.1"'),
    ],
)
def test_instances_that_can_not_be_beside_each_other(one: str, other: str, said: str) -> None:
    tables = ""
    for name, keys in (("a", one), ("b", other)):
        named = keys if "instance =" in keys else f'instance = "{name}"\n{keys}'
        tables += f"[[instances]]\n{named}\n"
    (problem,) = problems_of(tables)
    assert said in problem


def test_an_instance_of_another_tracer_empties_what_it_inherits() -> None:
    text = '[trace]\ntracer = "function"\nfunctions = ["vfs_*"]\noptions = {func_stack_trace = true}\n[[instances]]\n' \
           '[[instances]]\ninstance = "b"\ntracer = "nop"\n'  # fmt: skip
    (problem,) = problems_of(text)
    assert "functions only with tracer" in problem
    one, other = parse_config(f"{text}functions = []\noptions = {{}}\n", "c").instances()
    assert (one.functions, other.functions, other.options) == (("vfs_*",), (), {})


@pytest.mark.parametrize("tracers", [("osnoise", "osnoise"), ("irqsoff", "wakeup"), ("function", "function")])
def test_instances_that_can(tracers: tuple[str, str]) -> None:
    tables = (f'[[instances]]\ninstance = "{n}"\ntracer = "{t}"\nprobes = ["p:x f"]\n' for n, t in enumerate(tracers))
    assert len(parse_config("".join(tables), "c").instances()) == 2


def test_no_events_are_needed_beside_a_tracer_or_a_probe() -> None:
    assert parse_config("[trace]\nevents = []\ntracer = 'function'", "c").trace.events == ()
    assert parse_config("[trace]\nevents = []\nprobes = ['p:a f']", "c").trace.events == ()


def test_later_layers_and_the_command_line_win_key_by_key() -> None:
    config = parse_layers(
        [Layer("a", '[trace]\nclock = "boot"\nbuffer_percent = 10\n'), Layer("b", "[trace]\nbuffer_percent = 90\n")],
        [Override(("archive", "folder"), "/x", "--output"), Override(("trace", "clock"), "tai", "--clock")],
    )
    assert (config.trace.clock, config.trace.buffer_percent, config.archive.folder) == ("tai", 90, "/x")


def test_an_error_names_the_layer_it_came_from() -> None:
    with pytest.raises(InvalidConfigError) as caught:
        parse_layers(
            [Layer("a.toml", "[trace]\nclock = 'mono'\n"), Layer("b.toml", "\n[trace]\nbuffer_percent = 101\n")],
            [Override(("trace", "cpus"), "x", "--cpu")],
        )
    places = {(p.where, p.line, p.key) for p in caught.value.problems}
    assert places == {("b.toml", 3, "trace.buffer_percent"), ("--cpu", None, "trace.cpus")}
    assert caught.value.exit_code == EXIT_CONFIG


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read.*No such file"):
        load_config([tmp_path / "none.toml"])
    (tmp_path / "latin.toml").write_bytes(b'x = "\xe4"')
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_config([tmp_path / "latin.toml"])


def test_lines_are_found_in_every_way_to_write_a_key() -> None:
    text = 'top = 1\ntrace.clock = "x"\n["http"]  # note\n "listen" = ""\n[trace]\nevents = [\n  "a:b",\n]\n'
    assert find_lines(text) == {
        ("top",): 1,
        ("trace", "clock"): 2,
        ("http",): 3,
        ("http", "listen"): 4,
        ("trace",): 5,
        ("trace", "events"): 6,
    }


def test_the_packaged_file_documents_every_key_with_its_default() -> None:
    path = Path(__file__).parents[2] / "systemd" / "config.toml"
    text = path.read_text()
    as_shipped = parse_config(text, str(path))
    assert as_shipped == Config().model_copy(
        update={"archive": Config().archive.model_copy(update={"folder": "/var/lib/ftrace-collector/archive"})}
    )
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", text)
    assert parse_config(uncommented, str(path)) == as_shipped
    assert set(config_keys()) <= set(find_lines(uncommented))


def test_the_hash_follows_the_settings() -> None:
    assert Config().hash() == parse_config("[trace]\nclock = 'auto'", "c").hash()
    assert Config().hash() != parse_config("[trace]\nclock = 'boot'", "c").hash()
    assert re.fullmatch(r"[0-9a-f]{16}", Config().hash())


def test_min_free_is_bounded_by_the_size_of_the_filesystem() -> None:
    archive = Config().archive
    assert archive.min_free_of(1 << 40) == 1 << 30
    assert archive.min_free_of(1000 * MIB) == 50 * MIB


@pytest.mark.parametrize(
    ("listen", "parts"),
    [("127.0.0.1:9464", ("127.0.0.1", 9464)), ("[::1]:0", ("::1", 0)), ("localhost:80", ("localhost", 80))],
)
def test_listen_addresses_are_split(listen: str, parts: tuple[str, int]) -> None:
    assert split_listen(listen) == parts


@pytest.mark.parametrize("listen", ["x", ":1", "h:", "h:65536", "::1:9", "h:1x", "[]:3"])
def test_wrong_listen_addresses_are_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        split_listen(listen)
