"""Kernels of other architectures against the text that they printed themselves: longs of 4 bytes, bitmasks, stacks.

Recorded by tests/guest/record.py from Debian's 6.1 for i386, arm64 and armhf (as it is, and with PREEMPT_RT, which has
another head and other columns of text), each with two CPUs.
"""

import ipaddress
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from collector.cli import main
from tests import reference

CASES = {"6.1/i386": 4, "6.1/arm64": 8, "6.1/armhf": 4, "6.1/armhf-rt": 4}  # {case: bytes of a long}
LINE = re.compile(
    rb"^ *(?P<comm>.+)-(?P<pid>\d+) +\[(?P<cpu>\d+)\] \S{4,8} +[\d.]+: (?P<event>\w+|#|<stack trace>)(?P<rest>.*)$"
)
NAMES = {
    b"<stack trace>": "kernel_stack",
    b"#": "raw_data",
    b"tracing_mark_write": "print",
    b"sys_openat": "sys_enter_openat",
}

Printed = dict[tuple[int, str], list[bytes]]  # {(cpu, event): what the kernel printed of each}


def read_text(case: Path) -> Printed:
    """The kernel's own text; the lines of a stack are joined."""
    found: Printed = defaultdict(list)
    of: list[bytes] | None = None
    for line in (case / "trace.txt").read_bytes().split(b"\n"):
        if m := LINE.match(line):
            name = m["event"]
            of = found[int(m["cpu"]), NAMES.get(name, name.decode())]
            of.append(m["rest"].removeprefix(b": "))
        elif line.startswith(b" => ") and of is not None:
            of[-1] += line
    return found


def bitmask(words: Iterable[int], word_bytes: int) -> str:
    """As %*pb prints it: groups of 32 bits, the highest first."""
    digits = "".join(f"{word:0{2 * word_bytes}x}" for word in reversed(list(words)))
    return ",".join(digits[i : i + 8] for i in range(0, len(digits), 8))


def text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def split_words(raw: bytes, size: int) -> list[int]:
    return [int.from_bytes(raw[i : i + size], "little") for i in range(0, len(raw), size)]


def address(raw: bytes) -> str:
    found = ipaddress.ip_address(raw)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(found)


def hexes(values: Iterable[int]) -> str:
    return "{" + ",".join(f"0x{v:x}" for v in values) + "}"


def said(event: str, f: dict[str, Any], word: int) -> tuple[str, ...]:
    """What the kernel's line has of an entry, from the slow decoder's values."""
    match event:
        case "inet_sock_set_state":
            ips = [address(f[name]) for name in ("saddr", "daddr", "saddr_v6", "daddr_v6")]
            return (
                f"sport={f['sport']} dport={f['dport']} ",
                "saddr={} daddr={} saddrv6={} daddrv6={} ".format(*ips),
            )
        case "ipi_raise":
            return (f"target_mask={bitmask(split_words(f['target_cpus'], word), word)} (",)
        case "opened":
            return (f"dfd={f['dfd']} name=" + (f'"{text(f["name"])}"' if f["name"] else "(fault)"),)
        case "opened_ret":
            return (f" arg1=0x{f['arg1']:x}",)
        case "words":
            return (f"first={hexes(f['first'])} bytes={hexes(f['bytes'])} raw=0x{f['raw']:x}",)
        case "sched_switch":
            about = "{1}_comm={0[0]} {1}_pid={0[1]} {1}_prio={0[2]}"
            return tuple(
                about.format((text(f[f"{of}_comm"]), f[f"{of}_pid"], f[f"{of}_prio"]), of) for of in ("prev", "next")
            )
        case "sched_process_exec":
            return (f"filename={text(f['filename'])} pid={f['pid']} old_pid={f['old_pid']}",)
        case "print":
            return (text(f["buf"]).removesuffix("\n"),)
        case "raw_data":
            return (f" {f['id']:x} buf: {f['buf'].hex(' ')}",)
        case "sys_enter_openat":
            return tuple(f"{key}: {f[key] % (1 << 8 * word):x}" for key in ("dfd", "filename", "flags", "mode"))
        case "softirq_raise":
            return (f"vec={f['vec']} ",)
        case "irq_handler_entry":
            return (f"irq={f['irq']} name={text(f['name'])}",)
    return ()


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_that_the_kernel_printed(name: str, recorded_case: Callable[[str], Path]) -> None:
    case = recorded_case(name)
    layout, formats, pages = reference.read_case(case)
    assert layout.commit_size == CASES[name]
    printed = read_text(case)
    compared: dict[str, int] = defaultdict(int)
    for cpu, data in pages.items():
        numbers: dict[str, int] = defaultdict(int)
        for entry in reference.decode_pages(data, layout, formats).entries:
            event = formats[entry.id].name
            line = printed[cpu, event][numbers[event]].decode("utf-8", "surrogateescape")
            numbers[event] += 1
            assert entry.fields is not None
            for part in said(event, entry.fields, layout.commit_size):
                assert part in line, f"{event} of CPU {cpu} at {entry.ts}: {entry.record.hex(' ', 4)}"
                compared[event] += 1
            if event == "kernel_stack":
                frames = split_words(entry.fields["caller"], layout.commit_size)
                assert len(frames) == entry.fields["size"]
                assert len(frames) - line.count(" => ") in (0, 1), "the kernel ends at an address of all ones"
        assert all(numbers[event] == len(lines) for (of, event), lines in printed.items() if of == cpu)
    assert {
        "inet_sock_set_state",
        "opened_ret",
        "print",
        "raw_data",
        "sched_switch",
        "sys_enter_openat",
    } <= compared.keys()


def read_again(event: str, entry: dict[str, Any], line: str) -> Iterator[tuple[str, Any, Any]]:
    """(what, as the kernel printed it, as `show` has it in JSON), each."""
    fields = entry["fields"]
    match event:
        case "kernel_stack":
            frames = re.findall(r" => (\S+)", line)
            names = [str(name).partition("+")[0] for name in entry.get("symbols", {}).get("caller", ())]
            yield "symbols", frames, names[: len(frames)]
            yield "frames", fields["size"], len(fields["caller"])
            yield "unsigned", True, all(address >= 0 for address in fields["caller"])
        case "inet_sock_set_state":
            theirs = dict(re.findall(r"\b([sd]addr(?:v6)?)=(\S+)", line))
            for name in ("saddr", "daddr", "saddr_v6", "daddr_v6"):
                want = ipaddress.ip_address(theirs[name.replace("_", "")])
                yield name, list(want.packed), fields[name]
                got = entry.get("readable", {}).get(name)
                yield f"address {name}", want, got and ipaddress.ip_address(got)
        case "ipi_raise":
            groups = "".join(re.findall(r"[0-9a-f]{8}", line.partition("(")[0]))
            digits = len(groups) // max(len(fields["target_cpus"]), 1)
            want = [int(groups[i : i + digits], 16) for i in range(0, len(groups), digits)][::-1]
            yield "target_cpus", want, fields["target_cpus"]
        case "opened":
            said = line.partition("name=")[2]
            yield "name", None if said == "(fault)" else said.strip('"'), fields["name"]
        case "raw_data":
            yield "buf", list(bytes.fromhex(line.partition("buf: ")[2])), fields["buf"]
        case "words":
            for name in ("first", "bytes"):
                want = [int(v, 16) for v in re.search(rf"{name}={{([^}}]*)", line)[1].split(",")]  # type: ignore[index]
                yield name, want, fields[name]
        case "print":
            is_odd = "\udcff" in line
            yield "buf", (line.replace("\udcff", "\\xff") if is_odd else line) + "\n", fields["buf"]
            yield "escaped", ["buf"] if is_odd else None, entry.get("escaped")


@pytest.mark.parametrize("name", CASES)
def test_show_says_what_the_kernel_printed(
    name: str, recorded_case: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Addresses, stacks with their symbols, bitmasks, bytes, and strings that could not be read."""
    case = recorded_case(name)
    assert main(["run", "--replay", str(case), "--output", str(tmp_path), "-q"]) == 0
    capsys.readouterr()
    assert main(["show", str(tmp_path), "--format", "json"]) == 0
    printed = read_text(case)
    numbers: dict[tuple[int, str], int] = defaultdict(int)
    differences: dict[str, str] = {}
    for shown in capsys.readouterr().out.splitlines():
        entry = json.loads(shown)
        key = entry["cpu"], entry["event"].partition(":")[2]
        line = printed[key][numbers[key]].decode("utf-8", "surrogateescape")
        numbers[key] += 1
        for what, want, got in read_again(key[1], entry, line):
            if want != got:
                about = f"expected {want!r}\ngot      {got!r}\nthe kernel: {line!a}\nshow:       {shown}"
                differences.setdefault(f"{key[1]}, {what}", about)
    if differences:
        pytest.fail("\n".join(f"--- {of} of {name}\n{about}" for of, about in differences.items()), pytrace=False)
    assert all(numbers[key] == len(lines) for key, lines in printed.items())
