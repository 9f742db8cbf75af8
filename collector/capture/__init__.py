"""Who reads when: the streams of an instance, their schedule, their memory, and what they learn of names and formats.

Called by run/. Sources are put together there; what comes out are blocks and the ledger's counts.

Read visit.py (what a stream is asked, and brings), stream.py (one CPU of one instance, from its ring to blocks),
blocks.py (a batch becomes them), account.py (its counts), capture.py (waits for all rings, visits those that are
ready), worker.py (threads), budget.py and sizing.py (memory), filters.py (blocks for sinks that want less). What is
read: source.py (live, recorded), pipe.py (text), flight.py (snapshots), reports.py. What it learns: formats.py over
format_index.py, format_watch.py (ids that change their meaning), names.py over host.py, provenance.py, evidence.py
(malformed pages).

A stream is one thread's at a time. Memory is leased before it is taken. Waiting costs a task per CPU, reading a hop
for all that are ready. What the kernel lost is never mixed with what we gave up.
"""
