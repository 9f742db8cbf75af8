"""What stands between a configuration and this kernel: facts to findings, and findings to a report. Pure.

`survey.py` gathers the facts; here nothing is read, so that any kernel can be judged from a description.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from collector.doctor.capabilities import ROOT_REMEDY, judge_kernel
from collector.doctor.demands import judge_memory, judge_wanted
from collector.doctor.findings import FUNCTION_FILES, REFUSED, REFUSED_FUNCTIONS, Finding
from collector.errors import CollectorError
from collector.tracefs.facts import (
    CAP_SYSLOG,
    OK,
    Facts,
    HostFacts,
    Leftover,
    MountFacts,
    NeighbourFacts,
    PlaceFacts,
    TracingState,
    Wanted,
)

_MOUNT = "mount -t tracefs nodev /sys/kernel/tracing"
_LONG_REMEDY = 80  # characters; longer ones are said once
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph")
_MEMORY_FILESYSTEMS = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, for one kernel and one configuration."""

    kernel: str
    findings: tuple[Finding, ...]

    @property
    def can_run(self) -> bool:
        """Nothing that the configuration needs is missing."""
        return not self.obstacles

    @property
    def obstacles(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.is_obstacle)

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "kernel": self.kernel,
            "can_run": self.can_run,
            "obstacles": [f"{finding.group}: {finding.name}" for finding in self.obstacles],
            "findings": [finding.summary() for finding in self.findings],
        }


def judge(facts: Facts, wants: Sequence[Wanted] = ()) -> Report:
    """Everything that the facts say about the kernel, the others on it, and what is wanted of it."""
    capabilities = tuple(judge_kernel(facts))
    by_name = {finding.name: finding for finding in capabilities}
    findings = [
        *_judge_host(facts.host),
        *_judge_mount(facts.host, facts.mount),
        *capabilities,
        *(_judge_neighbours(facts.neighbours, wants) if facts.tree is not None else ()),
    ]
    if wants:
        findings.append(judge_memory(facts, wants))
        findings += _judge_place(facts)
    for wanted in wants:
        findings += judge_wanted(facts, by_name, wanted)
    return Report(f"Linux {facts.host.release} {facts.host.machine}", tuple(findings))


def explain(error: CollectorError) -> str | None:
    """What `doctor` would say about an error of a tracefs file; None where the message says it all."""
    where, got = error.where or "", error.got or ""
    name = where.rpartition("/")[2]
    refused = got.startswith("EPERM")
    if refused and (name in FUNCTION_FILES or (name == "current_tracer" and "'function" in got)):
        return REFUSED_FUNCTIONS
    if name == "current_tracer" and "/instances/" in where and got.startswith("EINVAL"):
        return (
            "some tracers run at the top level only (blk, mmiotrace, function_graph on kernels such as 6.1): "
            "`ftrace-collector list tracers` says which, top_level_buffer = true collects from there"
        )
    return None


def format_report(report: Report) -> str:
    """The report for people: a block per group, what to do below each line that asks for it, the verdict last."""
    lines = [report.kernel]
    width = max((len(finding.name) for finding in report.findings), default=0)
    group = ""
    said: dict[str, str] = {}  # {long remedy: the first finding that has it}
    for finding in report.findings:
        if finding.group != group:
            group = finding.group
            lines += ["", group]
        lines.append(f"  {finding.status:<8} {_clean(finding.name):<{width}}  {_clean(finding.evidence)}".rstrip())
        if finding.remedy and finding.status != "ok":
            first = said.setdefault(finding.remedy, finding.name)
            again = len(finding.remedy) > _LONG_REMEDY and first != finding.name
            text = f"as for {first}, above" if again else finding.remedy
            lines.append(f"  {'':<8} {'':<{width}}  -> {_clean(text)}")
    lines += ["", _verdict(report)]
    return "\n".join(lines) + "\n"


def _verdict(report: Report) -> str:
    obstacles = report.obstacles
    if not obstacles:
        return "The configuration can run here."
    number = "1 obstacle" if len(obstacles) == 1 else f"{len(obstacles)} obstacles"
    return "\n".join(
        [f"The configuration cannot run here: {number}."]
        + [f"  {_clean(f'{finding.group}: {finding.name}: {finding.evidence}')}" for finding in obstacles]
    )


def _judge_host(host: HostFacts) -> Iterator[Finding]:
    group = "host"
    if host.kconfig is not None:
        yield Finding(group, "kernel configuration", "ok", f"{host.kconfig_path}, {len(host.kconfig)} symbols")
    else:
        yield Finding(group, "kernel configuration", "unknown", "no /proc/config.gz, nothing for it in /boot",
                      "only needed to say what a missing capability comes from")  # fmt: skip
    yield Finding(group, "user", "ok" if host.uid == 0 else "note", f"uid {host.uid}",
                  "" if host.uid == 0 else ROOT_REMEDY)  # fmt: skip
    yield _judge_lockdown(host)
    if host.initial_pid_namespace:
        yield Finding(group, "pid namespace", "ok", "the initial one")
    else:
        yield Finding(group, "pid namespace", "missing", "not the initial one: the thread ids are not the kernel's",
                      "run in the host's pid namespace, or the collector's own threads are traced too")  # fmt: skip
    yield _judge_symbols(host)


def _judge_lockdown(host: HostFacts) -> Finding:
    if host.lockdown is None:
        off = host.kconfig is not None and host.kconfig.get("SECURITY_LOCKDOWN_LSM", "n") == "n"
        if off:
            return Finding("host", "lockdown", "ok", "not built into this kernel")
        return Finding("host", "lockdown", "unknown", "/sys/kernel/security/lockdown is not readable",
                       "mount -t securityfs nodev /sys/kernel/security")  # fmt: skip
    if host.lockdown == "none":
        return Finding("host", "lockdown", "ok", "none")
    closed = "tracefs, kprobes and kernel memory" if host.lockdown == "confidentiality" else "mmiotrace and debugfs"
    return Finding("host", "lockdown", "note", f"{host.lockdown}: it closes {closed}",
                   "boot without lockdown= and, on many systems, without Secure Boot")  # fmt: skip


def _judge_symbols(host: HostFacts) -> Finding:
    name = "symbols of addresses"
    if host.symbols == "shown":
        return Finding("host", name, "ok", "kallsyms shows addresses")
    if host.symbols == "absent":
        return Finding("host", name, "missing", "no kallsyms", "a kernel built with CONFIG_KALLSYMS")
    if host.kptr_restrict == 2:
        return Finding("host", name, "missing", "kallsyms shows zeros: kernel.kptr_restrict is 2",
                       "sysctl kernel.kptr_restrict=1")  # fmt: skip
    lacks = host.capabilities is not None and not host.capabilities >> CAP_SYSLOG & 1
    evidence = "kallsyms shows zeros" + (": CAP_SYSLOG is missing" if lacks else "")
    return Finding("host", name, "missing", evidence, "give CAP_SYSLOG; under systemd ProtectKernelLogs= takes it")


def _judge_mount(host: HostFacts, mount: MountFacts) -> Iterator[Finding]:
    group = "tracefs"
    if mount.path is None:
        yield Finding(group, "mounted", "missing", "nowhere", _MOUNT, needed=True)
        return
    how = f"{mount.path} ({mount.options}), mode {mount.mode & 0o7777:04o}, gid {mount.gid}"
    if mount.access != OK:
        remedy = ROOT_REMEDY if host.uid else REFUSED
        yield Finding(group, "mounted", "missing", f"{how}: {mount.access}", remedy, needed=True)
        return
    yield Finding(group, "mounted", "ok", how, needed=True)
    if "ro" in mount.options.split(","):
        yield Finding(group, "writable", "missing", "mounted read-only",
                      "remount it rw; under systemd ProtectKernelTunables= does that", needed=True)  # fmt: skip


def _judge_neighbours(neighbours: NeighbourFacts, wants: Sequence[Wanted]) -> Iterator[Finding]:
    group = "who else is tracing"
    ours = {"" if wanted.top_level else wanted.instance for wanted in wants}
    busy = [state for state in neighbours.states if state.busy and state.name not in ours]
    for state in busy:
        yield Finding(group, _place_name(state.name), "note", _describe(state))
    own = {(state.name, state.holder_pid) for state in neighbours.states if state.name in ours}
    readers = [reader for reader in neighbours.readers if (reader.instance, reader.pid) not in own]
    for reader in readers:
        pipes = "1 pipe" if reader.pipes == 1 else f"{reader.pipes} pipes"
        yield Finding(group, f"process {reader.pid}", "note",
                      f"{reader.comm} has {pipes} of {_place_name(reader.instance)} open: "
                      "what it reads, nobody else gets")  # fmt: skip
    if neighbours.dynamic_events:
        yield Finding(group, "dynamic events", "note", f"{neighbours.dynamic_events} are defined")
    for left in neighbours.leftovers:
        remedy = f"`ftrace-collector cleanup {left.instance}` takes it back, and so does the next start"
        yield Finding(group, f"left by process {left.pid}", "note", _describe_leftover(left), remedy)
    if not busy and not readers:
        yield Finding(group, "tracefs", "ok", "nobody records, and nobody has a pipe open")
    if neighbours.hidden_processes:
        yield Finding(group, "open files", "unknown", f"{neighbours.hidden_processes} processes don't show theirs",
                      "root with CAP_SYS_PTRACE sees them")  # fmt: skip
    yield Finding(group, "perf and BPF", "unknown", "their use of tracepoints can't be seen in tracefs",
                  "it costs time in the traced code, and takes nothing from the rings")  # fmt: skip


def _place_name(instance: str) -> str:
    return f"instance {instance}" if instance else "top level"


def _describe(state: TracingState) -> str:
    parts = [f"{state.events} events on"]
    if state.tracer != "nop":
        parts.append(f"tracer {state.tracer}")
    if state.unread:
        parts.append(f"{state.unread} entries unread")
    if state.holder:
        parts.append(f"held by {state.holder}")
    return ", ".join(parts)


def _describe_leftover(left: Leftover) -> str:
    parts = [f"instance {left.instance}, killed"]
    if left.unread:
        parts.append(f"{left.unread} entries unread")
    if left.changes:
        parts.append(f"to be restored: {', '.join(left.changes)}")
    return "; ".join(parts)


def _judge_place(facts: Facts) -> Iterator[Finding]:
    place = facts.place
    running = any(s.holder_pid is not None and s.holder_pid == place.locked_by for s in facts.neighbours.states)
    yield _judge_folder(place)
    if place.locked_by is not None:
        holder = f"process {place.locked_by}" if place.locked_by else "another process"
        if running:
            yield Finding("archive", "lock", "note", f"the running collector, {holder}, writes it")
        else:
            yield Finding("archive", "lock", "missing", f"{holder} writes this archive",
                          "stop it, or set another archive.folder", needed=True)  # fmt: skip
    if place.listen and place.listen_access == OK:
        yield Finding("http", "address", "ok", f"{place.listen} is free", needed=True)
    elif place.listen and place.listen_access == "EADDRINUSE" and running:
        yield Finding("http", "address", "note", f"{place.listen} is in use, and a collector is running")
    elif place.listen:
        remedy = "`ss -ltnp` says by whom; set another http.listen"
        if place.listen_access != "EADDRINUSE":
            remedy = 'set an address of this machine, or http.listen = ""'
        yield Finding("http", "address", "missing", f"{place.listen}: {place.listen_access}", remedy, needed=True)


def _judge_folder(place: PlaceFacts) -> Finding:
    evidence = f"{place.folder} on {place.filesystem}, {_gib(place.free_bytes)} free of {_gib(place.size_bytes)}"
    if place.folder_access != OK:
        return Finding("archive", "folder", "missing", f"{place.folder}: {place.folder_access}",
                       "set archive.folder to a place that can be written", needed=True)  # fmt: skip
    if place.free_bytes < place.min_free_bytes:
        return Finding("archive", "folder", "missing",
                       f"{evidence}, and {_gib(place.min_free_bytes)} are to be left",
                       "make room, or lower archive.min_free_bytes: until then entries are counted and discarded",
                       needed=True)  # fmt: skip
    if place.filesystem in _MEMORY_FILESYSTEMS:
        return Finding("archive", "folder", "note", f"{evidence}: memory, gone when the machine restarts")
    if place.filesystem in _NETWORK_FILESYSTEMS:
        return Finding("archive", "folder", "note", f"{evidence}: a network file system, where locks may not hold")
    return Finding("archive", "folder", "ok", evidence, needed=True)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 30):,.1f} GiB"


def _clean(text: str) -> str:
    """Names come from other programs: nothing of them may steer a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
