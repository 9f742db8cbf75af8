"""Columns back to values and names, as they were at the event: for whoever looks at entries, prints or sends them.

Called by show/ and by the sinks that send entries one by one; imports nothing of printing.

Read segments.py (what a segment says of names and clocks), meaning.py (what a field holds), times.py (which time is
meant), walltime.py (trace clock to date), comms.py (who ran: at the entry, not now), symbols.py (addresses). Natively:
unfold.pyx (columns to numbers and strings), lookup.pyx (names by number), rows.pyx (an entry as a msgpack row) with
readable.pxd (addresses of networks).

Segments come from other hands: a length that does not fit fails the cursor, and what a block makes of itself is
bounded. The slow readers in archive/ and tests/read are the oracle of the native ones.
"""
