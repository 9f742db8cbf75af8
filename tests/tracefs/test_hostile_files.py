"""Files that no kernel has (a recording is other people's): each parser ends soon, with little memory, and in order."""

import importlib
import inspect
import pkgutil
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import collector.tracefs
from collector.errors import CollectorError
from collector.tracefs.formats import parse_event_format
from collector.tracefs.layout import parse_header_event, parse_header_page
from collector.tracefs.meaning import field_kinds
from tests.tracefs.tree import header_page

MEMORY_BYTES = 400 << 20  # of the whole process
CPU_S = 20  # for all inputs of a parser

LONG = "7" * 5000  # Python itself refuses to read a number of more than 4300 digits
MANY = 200_000

HEAD = """name: made
ID: 5
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""


def fields(*declarations: str, print_fmt: str = '"%d", REC->x') -> str:
    lines = "".join(f"\tfield:{declaration}\tsigned:0;\n" for declaration in declarations)
    return f"{HEAD}{lines}\nprint fmt: {print_fmt}\n"


def parse_format(text: str) -> object:
    return field_kinds(parse_event_format(text, "made", 8))


FORMATS = (
    fields("char x[4294967296];\toffset:8;\tsize:4294967296;"),
    fields("unsigned long x[536870912];\toffset:8;\tsize:4294967296;"),
    fields("__data_loc char[][1073741824] x;\toffset:8;\tsize:4294967296;"),
    fields("__data_loc char[][4000000] x;\toffset:8;\tsize:16000000;"),
    fields("int x;\toffset:4294967296;\tsize:4;"),
    fields(f"int x[{LONG}];\toffset:8;\tsize:4;"),
    fields(f"int x;\toffset:{LONG};\tsize:4;"),
    fields(f"int x;\toffset:8;\tsize:{LONG};"),
    fields(f"int {'x' * (1 << 20)};\toffset:8;\tsize:4;"),
    fields(f"{'long ' * 50_000} x;\toffset:8;\tsize:8;"),
    fields(f"int x{'[2]' * 50_000};\toffset:8;\tsize:4;"),
    fields(*(f"int x{n};\toffset:{8 + 4 * n};\tsize:4;" for n in range(50_000))),
    fields("int x;\toffset:8;\tsize:4;", print_fmt='"' + "%" * MANY + '"'),
    fields("int x;\toffset:8;\tsize:4;", print_fmt='"%s", ' + "(" * MANY),
    fields("int x;\toffset:8;\tsize:4;", print_fmt='"%s", ' + "__print_symbolic(REC->x, " * 20_000),
    fields("int x;\toffset:8;\tsize:4;", print_fmt='"' + "%d" * 20_000 + '"' + ", REC->x" * 20_000),
    HEAD.replace("ID: 5", f"ID: {LONG}"),
    "\n" * (4 << 20),
)

# {parser: what it is given}. Its name; MODULE.NAME where that is no name of its own.
INPUTS: dict[str, tuple[Any, ...]] = {
    "parse_event_format": FORMATS,
    "parse_format_id": (f"name: x\nID: {LONG}\n", "ID: 5" * MANY, ""),
    "parse_header_page": (
        header_page(64).replace("65520", "4294967280"), header_page(64).replace("65520", LONG), "field: " * MANY, "",
    ),
    "parse_header_event": (f"type_len : {LONG} bits\n", "padding: type == " * MANY, ""),
    "parse_cpu_list": ("0-4294967295", f"0-{LONG}", ",".join(["0-8191"] * 50_000), "," * MANY),
    "parse_cpu_mask": (",".join(["ffffffff"] * MANY), "f" * MANY, LONG),
    "parse_functions": ("a" * (8 << 20), "a [b]\n" * MANY, "[" * MANY),
    "parse_cpu_stats": (f"entries: {LONG}\noverrun: 0\n", "entries: 5\n" * MANY, f"now ts: {LONG}.{LONG}\n", ""),
    "parse_printk_formats": ("0x" + "f" * 5000 + ' : "a"\n', "0x1 : \"" * MANY, '0x1 : "' + "\\" * MANY),
    "parse_saved_cmdlines": (f"{LONG} a\n".encode(), b"1 a\n" * MANY, b"1" * MANY, b"\xff" * MANY),
    "parse_saved_tgids": (f"{LONG} {LONG}\n", "1 1\n" * MANY, "1" * MANY),
    "parse_flag_columns": ("#" * MANY, "# / _---=> " * 20_000, "#  |||||" * MANY),
    "parse_dynamic_events": (f"p:a/b c+{LONG}\n", "p:a/b c\n" * MANY, "p" + LONG + ":a/b c\n", ":" * MANY),
    "parse_removal": ("-:" + "a" * MANY, "-:" + "/" * MANY, "-:a/b"),
    "parse_trace_clock": ("[" * MANY, "a " * MANY, f"[{'a' * MANY}]", ""),
    "parse_available_events": ("a:b\n" * MANY, ":" * MANY, "a" * MANY),
    "parse_snapshot_state": ("#" * MANY, "", "# * Snapshot is allocated *"),
}  # fmt: skip
OF_THE_CONFIGURATION = {"parse_probe", "parse_probes"}  # what the operator writes


def parsers() -> Iterator[tuple[str, Callable[..., object]]]:
    for found in pkgutil.iter_modules(collector.tracefs.__path__):
        module = importlib.import_module(f"collector.tracefs.{found.name}")
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if name.startswith("parse_") and function.__module__ == module.__name__:
                yield name, function


def test_each_parser_has_hostile_inputs() -> None:
    assert {name for name, _ in parsers()} == INPUTS.keys() | OF_THE_CONFIGURATION


@pytest.mark.parametrize("name", INPUTS)
def test_a_parser_ends_in_order(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", __name__, name], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-1500:]


def test_a_sub_buffer_larger_than_any_is_refused() -> None:
    with pytest.raises(CollectorError, match="header_page"):
        parse_header_page(header_page(64).replace("65520", "4294967280"))
    parse_header_event("")


def main(name: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    parse = parse_format if name == "parse_event_format" else dict(parsers())[name]
    for number, given in enumerate(INPUTS[name]):
        try:
            parse(given)
        except CollectorError as error:
            if len(str(error)) > 2000:
                sys.exit(f"input {number}: a message of {len(str(error))} characters")
        except BaseException as error:
            sys.exit(f"input {number}, {given[:80]!r}: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
