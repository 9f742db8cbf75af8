"""The kernel's files: all reading and writing of tracefs, and what the text of each file means.

Called by config/ (what a value may be), control/, doctor/, decode/ and capture/. Imports nothing but errors.

Begin with files.py: `TracefsDir` is the only place that opens a file of tracefs, and turns the kernel's refusals into
errors that say what would be right. Then the parsers, one for each file or kind of file: layout.py (header_page),
formats.py (events/*/format) and meaning.py (what its fields mean), columns.py (the header of trace), events.py,
dynamic.py, stats.py, clocks.py, wallclock.py, cpus.py, symbols.py, cmdlines.py, functions.py, snapshots.py, tracers.py;
facts.py is what a survey of a kernel found.

Parsers are pure: text in, values out, and a kernel of any age, word size or byte order may have written the text.
Nothing here decides what an instance should look like: that is control/.
"""
