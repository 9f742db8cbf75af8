"""Who may import whom: the rules that keep the difficult parts pure and the parts apart.

Looks at the source, not at what happens to be loaded: an import inside a function counts too.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bytes or text in, values out: tested without root, network or sleep.
PURE = {
    "collector.archive.bodies", "collector.archive.columns", "collector.archive.fields", "collector.archive.frame",
    "collector.archive.objects", "collector.archive.tally", "collector.archive.totals", "collector.batch",
    "collector.capture.filters", "collector.decode.plan", "collector.errors", "collector.ledger",
    "collector.snapshot", "collector.status",
    "collector.tracefs.capabilities", "collector.tracefs.demands", "collector.tracefs.doctor",
    "collector.tracefs.facts", "collector.tracefs.findings", "collector.tracefs.kconfig", "collector.view.tables",
    "collector.clockwatch",
    "collector.config_text", "collector.tracefs.dynamic", "collector.tracefs.feasible", "collector.tracefs.functions",
    "collector.tracefs.planner", "collector.tracefs.restoring", "collector.tracefs.snapshots", "collector.tracefs.wish",
    "sinks.file.notes", "sinks.file.retention", "sinks.file.rotation",
    "collector.tracefs.clocks", "collector.tracefs.cmdlines", "collector.tracefs.cpus", "collector.tracefs.events",
    "collector.tracefs.formats", "collector.tracefs.layout", "collector.tracefs.stats", "collector.tracefs.symbols",
    "sinks.retry",
    "sinks.forward.chunks", "sinks.forward.protocol", "sinks.forward.records",
    "sinks.objectstore.manifest", "sinks.objectstore.names",
    "sinks.stream.checks",
    "sinks.kafka.properties", "sinks.kafka.records", "sinks.kafka.rebuild",
}  # fmt: skip
IMPURE_IMPORTS = {"asyncio", "datetime", "os", "random", "select", "socket", "subprocess", "threading", "time", "trio"}

# Where the parts are put together.
ROOTS = {"collector.daemon", "collector.receive", "collector.tap"}

# What a sink may know of the collector.
SINKS_MAY_IMPORT = (
    "collector.batch",
    "collector.config_types",
    "collector.errors",
    "collector.metrics",
    "collector.snapshot",
    "collector.archive",
    "collector.decode.lookup",
    "collector.decode.rows",  # and what names times and addresses, for a sink that sends entries one by one
    "collector.view.symbols",
    "collector.view.walltime",
)

TRACEFS_NAMES = re.compile(
    r"/sys/kernel/(debug/)?tracing|trace_pipe|tracing_on\b|tracing_cpumask|set_event|per_cpu/cpu|saved_cmdlines|saved_tgids"
    r"|available_events|printk_formats"
)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def sources() -> dict[str, tuple[Path, ast.Module]]:
    """{module: (file, syntax tree)} of all Python of the project's packages."""
    files = [path for package in ("collector", "sinks") for path in sorted((ROOT / package).rglob("*.py"))]
    return {module_name(path): (path, ast.parse(path.read_text())) for path in files}


SOURCES = sources()


def imports(module: str) -> Iterator[str]:
    """The modules that this one imports anywhere; for `from a import b` both a and a.b."""
    path, tree = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def strings(module: str) -> Iterator[str]:
    """The text constants of a module, without docstrings and messages of errors."""
    tree = SOURCES[module][1]
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            left_out.add(id(node.value))
        elif isinstance(node, ast.Raise) or (
            isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LOG_CALLS
        ):
            left_out.update(id(inner) for inner in ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value


LOG_CALLS = {"debug", "info", "warning", "error", "exception", "add_argument"}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def test_there_is_something_to_look_at() -> None:
    assert {"collector.cli", "collector.archive.frame", "sinks"} <= set(SOURCES)
    assert "collector.config" in set(imports("collector.commands"))  # inside a function
    assert "collector.errors" in set(imports("collector.archive.recover"))  # relative


@pytest.mark.parametrize("module", sorted(m for m in SOURCES if within(m, "collector") and m not in ROOTS))
def test_only_the_commands_that_put_parts_together_import_sinks(module: str) -> None:
    assert [name for name in imports(module) if within(name, "sinks")] == []


@pytest.mark.parametrize("module", sorted(m for m in SOURCES if within(m, "sinks")))
def test_a_sink_knows_little_of_the_collector_and_nothing_of_other_sinks(module: str) -> None:
    allowed = SINKS_MAY_IMPORT
    known = [n for n in imports(module) if within(n, "collector") and n != "collector"]
    assert [n for n in known if not any(within(n, a) for a in allowed)] == []
    parts = module.split(".")
    if len(parts) > 1 and (ROOT / "sinks" / parts[1]).is_dir():
        others = [p.name for p in (ROOT / "sinks").iterdir() if p.is_dir() and p.name not in (parts[1], "__pycache__")]
        assert [n for n in imports(module) if any(within(n, f"sinks.{other}") for other in others)] == []


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_do_no_input_or_output_and_have_no_clock(module: str) -> None:
    assert {name.split(".")[0] for name in imports(module)} & IMPURE_IMPORTS == set()


def test_only_metrics_and_http_import_the_prometheus_client() -> None:
    users = {m for m in SOURCES if any(within(name, "prometheus_client") for name in imports(m))}
    assert users == {"collector.metrics", "collector.metrics_receive", "collector.http"}


def test_only_config_and_the_sinks_import_pydantic() -> None:
    users = {m for m in SOURCES if any(within(name, "pydantic") for name in imports(m))}
    names = ("models", "problems", "show", "sinks", "trace", "types")
    configs = {"collector.config", *(f"collector.config_{name}" for name in names)}
    assert {m for m in users if not within(m, "sinks")} == configs


@pytest.mark.parametrize("module", sorted(m for m in SOURCES if not within(m, "collector.tracefs")))
def test_only_tracefs_names_a_tracefs_file(module: str) -> None:
    assert [text for text in strings(module) if TRACEFS_NAMES.search(text)] == []


def test_inner_loops_make_no_python_objects() -> None:
    """Every `cdef` function of a .pyx that is declared nogil is noexcept too: an exception needs the GIL."""
    for path in sorted(ROOT.glob("collector/**/*.pyx")):
        for number, line in enumerate(path.read_text().split("\n"), 1):
            if re.match(r"\s*cdef .*\) (.*\b)?nogil:", line):
                assert "noexcept nogil" in line, f"{path}:{number}"
