"""The stream: records as they are to `ftrace-collector receive`, and that receiver.

The sender is called through the registry, the receiver by run/receive.py. docs/stream.md is for its users.

Read sink.py (the sender), server.py (connections), sender.py (one sender's turn), policy.py (its limits), host.py (what
its records become), segments.py (into which they go), run.py and seen.py (what has come of a run), names.py (what the
next segment needs), and what keeps one sender from harming others: checks.py, memory.py, room.py.

A block that is acknowledged is on the disk. What comes twice is known, what is missing is told as a gap.
"""
