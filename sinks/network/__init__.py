"""What every network sink has before it: a log, a window of it in memory, retries, and accounts that add up.

Called by assemble.py and fanout.py; the sink behind it is a `Transport`, which only sends and waits for answers.

    items -> intake -> feeder -> backlog (memory, or sinks/spool) -> window -> delivery -> transport

Read backlog.py (the log's contract, and the one in memory), intake.py (before the log), feeder.py (into it and out),
window.py (what is in memory), delivery.py (sends, again, in order), retry.py (waits), accounts.py and stats.py (what
became of each entry). What the receiver has still to be told, contract/untold.py keeps.

At least once, in order. An entry is in one place at a time, and leaves the last with a reason.
"""
