"""From the kernel's bytes to typed columns, natively: pages and lines in, batches and encoded columns out.

Called by capture/ and run/pipeline.py; read/ shares the small inline parts (msg.pxd, hash.pxd).

Read plan.py (from format files to what is done with each event), ring.pyx (the page walk), columns.pyx (a batch to
the columns of a block). Text pipes: text.pyx, with text_lines.pyx (what a line is), text_drawing.pyx
(function_graph's) and text_plan.pyx (ids for names). msg.pxd writes and reads msgpack, memory.pxd numbers at any
address, scan.pxd looks through text, hash.pxd spreads numbers.

Loops run `noexcept nogil` and make no Python object per entry. Nothing in a page is believed: bounds are checked
before each read, and a loop ends with a status that is raised once, outside. Writing columns is here, reading them in
read/.
"""
