"""The log before a network sink on disk: segments of its own, so that what is not acknowledged survives a kill.

Called by assemble.py, through the contract in network/backlog.py.

Read policy.py (its limits), spool.py (append, give, make room; suspended, and on again), tail.py and writer.py (the
open segment), segments.py (which are here; what is acknowledged goes), stored.py (what is known of one without reading
it), cursor.py (how far it is acknowledged), rejected.py (what a receiver will never take), reader.py (reads back),
start.py (what earlier runs left).

All of it runs in the sink's one thread. What does not read is set aside and counted, never in the way of what comes
behind it. tests/crash cuts and kills it at every step.
"""
