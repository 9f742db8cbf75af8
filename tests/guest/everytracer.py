"""Inside a guest that has them all: each tracer that keeps no reports, through the daemon; a line for each check.

Usage: python -m tests.guest.everytracer. Exits 1 when a check fails. The others: latency.py and, at the top level,
toplevel.py.
"""

from tests.conftest import TRACEFS
from tests.guest.checks import check
from tests.guest.tracers import FUNCTION, GRAPH, OPENS, SYNTHETIC, open_files, run_case

HAVE_REPORTS = {
    "irqsoff", "preemptoff", "preemptirqsoff", "wakeup", "wakeup_rt", "wakeup_dl", "hwlat", "osnoise", "timerlat",
}  # fmt: skip
AT_THE_TOP = {"blk", "mmiotrace"}
HERE = {"function", "function_graph", "nop"}
# Under emulation all functions of a kernel are too many to be hooked.
RETVAL = GRAPH.replace(
    "options = {", 'functions = ["do_sys_openat2", "do_filp_open"]\noptions = {funcgraph-retval = true, '
)
MARKED = """
events = ["sched:sched_switch"]
tracer = "nop"
triggers = {"sched:sched_switch" = ["stacktrace:50"]}
"""


def main() -> None:
    known = HAVE_REPORTS | AT_THE_TOP | HERE
    found = set((TRACEFS / "available_tracers").read_text().split())
    check(found == known, f"tracers of this kernel: {' '.join(sorted(found ^ known)) or 'all are tested'}")
    run_case("function", FUNCTION, open_files, {"ftrace:function": OPENS, "ftrace:kernel_stack": OPENS})
    shown = run_case("graph", RETVAL, open_files, {"ftrace:funcgraph_entry": OPENS, "ftrace:funcgraph_exit": OPENS})
    values = {e["fields"].get("retval") for e in shown if e["event"] == "ftrace:funcgraph_exit"}
    check(any(isinstance(value, int) and value > 2 for value in values), f"graph: {len(values)} values were returned")
    shown = run_case("nop", MARKED, open_files, {"sched:sched_switch": 50, "ftrace:kernel_stack": 40})
    stacks = [e for e in shown if e["event"] == "ftrace:kernel_stack"]
    named = sum(any("schedule" in str(frame) for frame in e.get("symbols", {}).get("caller", [])) for e in stacks)
    check(named == len(stacks), f"nop: {named} of {len(stacks)} stacks go through schedule")
    run_case("hist", SYNTHETIC, open_files, {"synthetic:wake_lat": 10})


if __name__ == "__main__":
    main()
