"""The segment format: what stands in a file, writing it durably, reading it back, checking and repairing it.

Called by everybody who keeps or reads blocks: sinks/, read/, show/, capture/ (totals), commands/.

Read frame.py (records and checksums), bodies.py (what they say), objects.py (formats, names), columns.py and block.py
(a block's entries, in Python). Writing: records.py (what goes before a block) with maps.py, tally.py and totals.py
(sums), segment.py (append, sync, seal), disk.py (each step on the disk). Reading: reader.py. After a crash:
recover.py, history.py. For the operator: verify.py, info.py. The folder: lock.py, pins.py, reserve.py.

This room owns the format (docs/segment-format.md), fsync and seal; when segments end and which go is policy, and the
file sink's. Every change of the disk goes through disk.py, where the crash tests come in. A checksum that holds does
not make a body sane: fields.py checks each value that is taken out.
"""
