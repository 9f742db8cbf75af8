"""Values to lines: fields, JSON, tables, reports, and the live view.

Called by commands/ and by run/tap.py. What it prints comes from read/.

Read show.py (a selection of segments, merged by time), lines.py (through one block), renderers.py (what a line looks
like), json_lines.py (and as JSON), live.py (records as they come), reports.py (the kernel's reports), tables.py (rows
under headings).

Results go to the stream that the caller hands in, and nothing else is written. What is damaged is named, and the rest
is printed. A value looks the same in all renderers: what it is, read/ decides.
"""
