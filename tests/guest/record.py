"""Record a case on a kernel of another architecture: Debian's own, under emulation, with nothing but busybox in it.

    python tests/guest/record.py i386 tests/fixtures    # also arm64, armhf, armhf-rt; these need qemu-system-arm

The machine's own file system is of no use to a foreign processor, so the guest is an initramfs that sets up an
instance, makes a small load, and prints what tracefs then has on its console. Packages come from Debian's mirror by an
apt whose state is a folder of its own: the host's is left alone. What is written is laid out as the other fixtures are.
"""

import argparse
import base64
import io
import json
import lzma
import os
import re
import subprocess
import sys
import tarfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("GUEST_CACHE") or Path.home() / ".cache/ftrace-guest") / "foreign"
TIMEOUT_S = 600


@dataclass(frozen=True)
class Machine:
    """How an architecture is fetched and booted."""

    package: str  # names of kernels, of which the last one that apt knows is taken
    qemu: tuple[str, ...]
    console: str


MACHINES = {
    "i386": Machine(r"linux-image-6\.1\.[^ ]*(?<!-rt)-686$", ("qemu-system-i386", "-cpu", "max"), "ttyS0"),
    "arm64": Machine(
        r"linux-image-6\.1\.[^ ]*(?<!-rt)(?<!-cloud)-arm64$",
        ("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57"),
        "ttyAMA0",
    ),
    "armhf": Machine(
        r"linux-image-6\.1\.[^ ]*(?<!-rt)-armmp$", ("qemu-system-arm", "-M", "virt", "-cpu", "cortex-a15"), "ttyAMA0"
    ),
    "armhf-rt": Machine(
        r"linux-image-6\.1\.[^ ]*-rt-armmp$", ("qemu-system-arm", "-M", "virt", "-cpu", "cortex-a15"), "ttyAMA0"
    ),
}
BEGIN, END = "-----BEGIN CASE-----", "-----END CASE-----"

INIT = f"""#!/bin/busybox sh
PATH=/bin; /bin/busybox mkdir -p /proc /sys /dev /case; /bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing; mount -t tmpfs case /case; ip link set lo up
T=/sys/kernel/tracing; R=$T/instances/rec; mkdir $R; cd $T
echo 1 >options/record-tgid
echo mono >$R/trace_clock; echo 512 >$R/buffer_size_kb
for p in "p:probes/opened do_sys_openat2 dfd=\\$arg1:s32 name=+0(\\$arg2):ustring" \\
  "r:probes/opened_ret do_sys_openat2 \\$retval" \\
  "p:probes/words vfs_read first=+0(\\$arg1):x32[3] bytes=+0(\\$arg1):x8[5] raw=+0(\\$arg1)"; do
  echo "$p" >>kprobe_events || echo "no probe: $p"; done
for e in sched/sched_switch sched/sched_process_fork sched/sched_process_exec sched/sched_process_exit \\
  irq/softirq_raise irq/irq_handler_entry raw_syscalls/sys_exit syscalls/sys_enter_openat sock/inet_sock_set_state \\
  ipi/ipi_raise task/task_newtask timer/timer_start workqueue/workqueue_queue_work probes/opened probes/opened_ret \\
  probes/words; do
  [ -d $R/events/$e ] && echo $e >>/events || echo "no event: $e"; done
for e in softirq_raise timer_start workqueue_queue_work; do
  for f in $R/events/*/$e/filter; do echo "common_pid > 0" >$f; done; done
echo "ret < 0" >$R/events/raw_syscalls/sys_exit/filter
echo "stacktrace:3" >$R/events/sched/sched_process_exec/trigger
while read e; do echo 1 >$R/events/$e/enable; done </events
echo "a line of text" >$R/trace_marker; printf '\\7\\0\\0\\0\\1\\0\\377\\200abc' >$R/trace_marker_raw
nc -l -p 77 >/dev/null & sleep 1; echo hello | nc 127.0.0.1 77
cat /no/such/file 2>/dev/null; for i in 1 2 3 4; do ls /bin >/dev/null; done
printf 'n\\303\\244me \\377\\n' >$R/trace_marker
echo 0 >$R/tracing_on
C=/case/tracefs; mkdir -p $C/events; for f in header_page header_event; do cat events/$f >$C/events/$f; done
(cat /events; ls -d events/ftrace/*/format | cut -d/ -f2,3) | while read e; do
  mkdir -p $C/events/$e; cat events/$e/format >$C/events/$e/format; done
cat $R/trace >/case/trace.txt; echo 1 >$R/options/raw; cat $R/trace >/case/trace.raw.txt; echo 0 >$R/options/raw
for f in printk_formats saved_cmdlines saved_tgids; do cat $f >$C/$f; done
for f in current_tracer trace_clock trace_options timestamp_mode; do cat $R/$f >$C/$f; done
for c in $(cd $R/per_cpu; ls); do
  mkdir -p $C/per_cpu/$c; timeout 4 dd bs=4096 if=$R/per_cpu/$c/trace_pipe_raw of=$C/per_cpu/$c/trace_pipe_raw
  cat $R/per_cpu/$c/stats >$C/per_cpu/$c/stats; done 2>/dev/null
uname -srvm >/case/uname; grep -i " t " /proc/kallsyms >/case/kallsyms
cd /case; echo; echo {BEGIN}; tar cz . | base64; echo {END}; sync; poweroff -f
"""


def apt(machine: str, *command: str, cwd: Path | None = None) -> str:
    """What an apt of this architecture says, which knows nothing of the host's packages."""
    arch = machine.partition("-")[0]
    state = CACHE / f"apt-{arch}"
    conf = state / "apt.conf"
    if not conf.exists():
        for folder in ("state/lists/partial", "cache/archives/partial", "sources"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        (state / "sources/debian.sources").write_text(
            "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm\nComponents: main\n"
            "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        )
        conf.write_text(
            f'APT::Architecture "{arch}";\nAPT::Architectures {{ "{arch}"; }};\nAPT::Sandbox::User "root";\n'
            f'Acquire::Languages "none";\nDir::State "{state}/state";\nDir::State::status "{state}/status";\n'
            f'Dir::Cache "{state}/cache";\nDir::Etc::sourcelist "/dev/null";\n'
            f'Dir::Etc::sourceparts "{state}/sources";\n'
        )
        apt(machine, "apt-get", "-q", "update")
    env = {**os.environ, "APT_CONFIG": str(conf)}
    return subprocess.run(command, env=env, cwd=cwd, check=True, stdout=subprocess.PIPE, text=True).stdout


def fetch(arch: str) -> Path:
    """The folder with an unpacked kernel and busybox."""
    folder = CACHE / arch
    if not (folder / "boot").is_dir():
        names = [line.split(" ")[0] for line in apt(arch, "apt-cache", "search", "^linux-image-6").splitlines()]
        kernel = sorted(name for name in names if re.fullmatch(MACHINES[arch].package, name))[-1]
        folder.mkdir(parents=True, exist_ok=True)
        apt(arch, "apt-get", "-q", "download", kernel, "busybox-static", cwd=folder)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder], check=True)
            package.unlink()
    return folder


def build_cpio(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """A newc archive of (path, mode, bytes)."""
    blob = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        head = [number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0]
        for part in (b"070701" + b"".join(b"%08X" % v for v in head) + name, data):
            blob += part + b"\0" * (-(len(blob) + len(part)) % 4)
    return bytes(blob)


def boot(arch: str, folder: Path) -> bytes:
    """The case as the guest printed it, a tar.gz."""
    machine = MACHINES[arch]
    busybox = next(path for path in (folder / "bin/busybox", folder / "usr/bin/busybox") if path.exists())
    initrd = folder / "initrd"
    initrd.write_bytes(
        build_cpio([("bin", 0o40755, b""), ("dev", 0o40755, b""), ("bin/busybox", 0o100755, busybox.read_bytes()),
                    ("init", 0o100755, INIT.encode())])
    )  # fmt: skip
    command = [
        *machine.qemu, "-smp", "2", "-m", "512", "-nographic", "-no-reboot", "-nic", "none", "-accel", "tcg",
        "-kernel", str(next((folder / "boot").glob("vmlinuz-*"))), "-initrd", str(initrd),
        "-append", f"console={machine.console} quiet nokaslr panic=-1",
    ]  # fmt: skip
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=TIMEOUT_S)
    said = done.stdout.decode(errors="replace").replace("\r", "")
    found = re.search(f"{BEGIN}\n(.*?)\n{END}", said, re.DOTALL)
    if found is None:
        sys.exit(f"record: the guest printed no case; the end of its console:\n{said[-3000:]}")
    print(said[: found.start()], file=sys.stderr)
    return base64.b64decode("".join(line for line in found[1].splitlines() if re.fullmatch(r"[\w+/=]+", line)))


def used_symbols(kallsyms: str, pages: Iterable[bytes], word_bytes: int) -> str:
    """The lines of kallsyms for what the pages may point to: any word of them, wherever it begins."""
    words = {int.from_bytes(page[i : i + word_bytes], "little") for page in pages for i in range(len(page) - 7)}
    symbols = sorted((int(line.split(" ")[0], 16), line) for line in kallsyms.splitlines())
    addresses = [address for address, _ in symbols]
    wanted = set()
    for at in {bisect_right(addresses, word) for word in words}:
        if 0 < at < len(symbols):
            wanted |= {at - 1, at}  # the next one tells where it ends
    return "".join(f"{symbols[at][1]}\n" for at in sorted(wanted))


def describe(case: Path) -> dict[str, object]:
    """What is in it, as meta.json of a case says; counts are of the slow decoder."""
    sys.path.insert(0, str(ROOT))
    from tests import reference

    layout, formats, pages = reference.read_case(case)
    decoded = [reference.decode_pages(data, layout, formats) for data in pages.values()]
    entries = [e for d in decoded for e in d.entries]
    gaps = [count for d in decoded for _, count in d.gaps]
    stats = "".join(path.read_text() for path in case.glob("tracefs/per_cpu/*/stats"))

    def total(key: str) -> int:
        return sum(map(int, re.findall(rf"^{key}: (\d+)$", stats, re.MULTILINE)))

    return {
        "kernel": (case / "uname").read_text().strip(),
        "records": len(entries),
        "records_by_event": dict(sorted(Counter(formats[e.id].name for e in entries).items())),
        "overrun": total("overrun"),
        "dropped": total("dropped events"),
        "missed_pages": len(gaps),
        "missed_pages_with_count": sum(count is not None for count in gaps),
        "missed_sum": sum(count or 0 for count in gaps),
        "kernel_text_time_errors": 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("arch", choices=MACHINES)
    parser.add_argument("output", type=Path, help="folder for 6.1-ARCH.tar.xz")
    args = parser.parse_args()
    folder = fetch(args.arch)
    name = f"6.1/{args.arch}"
    case = folder / "cases" / name
    subprocess.run(["rm", "-rf", case], check=True)
    case.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(boot(args.arch, folder))) as found:
        found.extractall(case, filter="data")
    for unused in case.glob("tracefs/per_cpu/cpu*/trace_pipe_raw"):
        if not unused.stat().st_size:
            unused.unlink()
    pages = [path.read_bytes() for path in case.glob("tracefs/per_cpu/*/trace_pipe_raw")]
    kallsyms = case / "kallsyms"
    kallsyms.write_text(used_symbols(kallsyms.read_text(), pages, 8 if args.arch == "arm64" else 4))
    (case / "meta.json").write_text(json.dumps(describe(case), indent=1) + "\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for child in sorted(case.iterdir()):
            archive.add(child, arcname=child.name)
    file = args.output / f"{name.replace('/', '-')}.tar.xz"
    file.write_bytes(lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
