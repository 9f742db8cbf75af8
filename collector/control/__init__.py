"""Bringing a tracing instance into the wished state, watching that it stays there, and putting everything back.

Called by run/ (collecting), commands/ (plan, cleanup, snapshot), doctor/ (would it work?) and capture/ (the shutter).

Read desired.py (settings to wishes), wish.py (what is wished, what is), probing.py (reads what is), feasible.py
(refuses), planner.py (the writes, in order, and why in this order), executor.py (does, reads back, undoes), removal.py
(events that were made), instance.py (holds it all), lock.py. What is shared: toplevel.py, restoring.py. What a kill
leaves: journal.py, leftovers.py. Others: guard.py (what they changed), neighbours.py (who they are), holders.py (who is
in the way). Snapshots: shutter.py.

Each write has what undoes it, written to the journal before it is done where it outlives the instance. Another tool's
instance is never touched. Files are named here but opened by tracefs/files.py.
"""
