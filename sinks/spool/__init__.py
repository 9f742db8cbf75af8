"""The log before a network sink on disk: segments of its own, so that what is not acknowledged survives a kill.

Called by assemble.py, through the contract in network/backlog.py.

Read spool.py (append, give, acknowledge, make room), writer.py (the open segment), reader.py (reads back), stored.py
(what is known of a segment without reading it), cursor.py (how far it is acknowledged), start.py (what earlier runs
left), rejected.py (what a receiver will never take).

All of it runs in the sink's one thread. What does not read is set aside and counted, never in the way of what comes
behind it. tests/crash cuts and kills it at every step.
"""
