"""One thing that `doctor` found, and the sentences that several of them share. Pure."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "missing", "unknown", "note"]

FUNCTION_FILES = (
    "available_filter_functions", "set_ftrace_filter", "set_ftrace_notrace", "set_graph_function",
    "set_graph_notrace", "set_ftrace_pid", "set_ftrace_notrace_pid", "enabled_functions",
)  # fmt: skip

REFUSED_FUNCTIONS = (
    "this host refuses the function tracer's files to root (lockdown, a security module or the host's own policy), and "
    "no setting of the collector or of tracefs changes that: record events instead, or use another machine"
)
REFUSED = "this host refuses it to root: kernel lockdown, a security module or a read-only mount"


@dataclass(frozen=True, slots=True)
class Finding:
    """One capability, demand or observation."""

    group: str
    name: str
    status: Status  # note: worth knowing, and neither good nor bad
    evidence: str  # what was looked at, and what it said
    remedy: str = ""  # what gives it; "" where nothing has to be done
    needed: bool = False  # the configuration cannot run without it

    @property
    def is_obstacle(self) -> bool:
        """The configuration cannot run because of it."""
        return self.needed and self.status == "missing"

    def summary(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "group": self.group,
            "name": self.name,
            "status": self.status,
            "evidence": self.evidence,
            "remedy": self.remedy,
            "needed": self.needed,
        }
